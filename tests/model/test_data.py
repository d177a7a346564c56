from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from layered_toy import layered_run
from toy_training import SIZE, toy_shards

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import open_triplets
from model.config import Data
from model.data import Batch, Loader, Place, Stretches, buffer_order, validation_batches
from model.shard_selection import Shard


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """60 samples in shards of 20, 26 and 14."""
    return toy_shards(tmp_path_factory.mktemp("toy"))


def loader(run: str, place: Place, position: int = 0, seed: int = 0, **keys) -> Loader:
    made = Loader(Data(shards=run, size=SIZE, **{"holdout": 0, "workers": 0, "shuffle": 10} | keys), place, seed)
    made.position = position
    return made


def take(run: str, count: int, place: Place, position: int = 0, seed: int = 0, **keys) -> list[Batch]:
    return list(islice(loader(run, place, position, seed, **keys), count))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.keys == y.keys and x.captions == y.captions and torch.equal(x.pixels, y.pixels)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_gets_the_same_number_of_batches_and_no_sample_twice(ranks, workers):
    shards = [Shard(f"{i}", samples) for i, samples in enumerate([17, 1, 40, 5, 120, 33])]
    for epoch in range(4):
        seen: Counter[tuple[str, int]] = Counter()
        for rank in range(ranks):
            stretches = Stretches(shards, Place(rank, ranks, 4), workers, seed=1)
            assert stretches.batches == 216 // (4 * ranks)
            mine = [part for worker in range(max(workers, 1)) for part in stretches.of(epoch, worker)]
            assert sum(end - first for _, first, end in mine) == stretches.batches * 4
            seen.update((shard.url, i) for shard, first, end in mine for i in range(first, end))
        assert set(seen.values()) == {1}
        assert len(seen) > 216 - 4 * ranks  # less than a batch for each rank waits for another epoch


def test_what_waits_differs_from_epoch_to_epoch():
    shards = [Shard(f"{i}", 5) for i in range(5)]
    stretches = Stretches(shards, Place(0, 1, 8), 0, seed=0)
    left_out = {shard.url for shard in shards} - {part[0].url for part in stretches.of(0, 0)[:-1]}
    others = [{part[0].url for part in stretches.of(epoch, 0)} for epoch in range(1, 6)]
    assert any(left_out & other for other in others)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_shows_every_sample_once(run, workers):
    made = take(run, 15, Place(batch=4), workers=workers)
    keys = [key for batch in made for key in batch.keys]
    assert len(set(keys)) == len(keys) == 60
    assert keys != [key for batch in take(run, 15, Place(batch=4), seed=1) for key in batch.keys]


@pytest.mark.parametrize(("workers", "position"), [(0, 1), (0, 7), (0, 20), (2, 7), (2, 16)])
def test_from_any_position_the_same_batches_follow(run, workers, position):
    whole = take(run, position + 5, Place(batch=4), workers=workers, crop=0.6)
    assert same(whole[position:], take(run, 5, Place(batch=4), position, workers=workers, crop=0.6))


def test_epochs_differ_in_order_and_views(run):
    made = take(run, 30, Place(batch=4))
    first, second = ({k: p for b in part for k, p in zip(b.keys, b.pixels, strict=True)} for part in
                     (made[:15], made[15:]))  # fmt: skip
    assert list(first) != list(second)
    mirrored = [torch.equal(first[key], second[key].flip(2)) and not torch.equal(first[key], second[key])
                for key in first]  # fmt: skip
    assert 15 < sum(mirrored) < 45


def test_torchs_generator_is_left_alone(run):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    take(run, 3, Place(batch=4), workers=2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_buffer_shuffles_within_its_reach():
    order = buffer_order(1000, 50, [0])
    assert sorted(order.tolist()) == list(range(1000))
    assert (order - np.arange(1000)).max() <= 50  # nothing can come out before it went in
    assert np.abs(order - np.arange(1000)).mean() > 10
    assert buffer_order(5, 0, [0]).tolist() == [0, 1, 2, 3, 4]
    assert sorted(buffer_order(5, 50, [0]).tolist()) == [0, 1, 2, 3, 4]


def test_more_processes_than_samples_is_a_sentence(run):
    with pytest.raises(ConfigError, match="60 samples are too few for a batch of 16 on each of 4 processes"):
        loader(run, Place(0, 4, 16))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_the_trainers_error(run, workers):
    with pytest.raises(ConfigError, match=r"^\S+ holds images of 16x16 pixels, data.size is 32"):
        next(iter(Loader(Data(shards=run, size=32, holdout=0, workers=workers), Place(batch=4), 0)))


def test_a_cut_off_shard_stops_the_run_by_name(tmp_path):
    shards = toy_shards(tmp_path, samples=20)
    tar = tmp_path / "shards" / "shards" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:20_000])
    with pytest.raises(OutputError, match=r"00000.tar is damaged or cut off"):
        take(shards, 5, Place(batch=4))


def test_validation_sees_other_samples_whole_and_in_order(run):
    config = Data(shards=run, size=SIZE, holdout=0.3, workers=0, crop=0.5)
    held = validation_batches(config, 6, 4)
    assert [len(batch) for batch in held] == [4, 2]
    seen = {key for batch in take(run, 8, Place(batch=4), holdout=0.3) for key in batch.keys}
    assert not seen & {key for batch in held for key in batch.keys}
    assert same(held, validation_batches(config, 6, 4))


def test_validation_shards_may_be_given(run):
    config = Data(shards=run, validation=f"{run}/shards/00002.tar", size=SIZE, workers=0)
    assert sum(len(batch) for batch in validation_batches(config, 100, 4)) == 14
    assert loader(run, Place(batch=4), validation=config.validation).batches == 15  # then nothing is held out


def test_no_validation_samples_is_a_sentence(run):
    with pytest.raises(ConfigError, match=r"nothing to validate on.*Raise data.holdout"):
        validation_batches(Data(shards=run, size=SIZE, holdout=0), 4, 4)


def test_shards_are_read_from_object_stores():
    from model.toy_scenes import write_run

    write_run("memory://toy-loader", 8, SIZE)
    assert len(take("memory://toy-loader", 2, Place(batch=4))) == 2


def test_shards_with_further_layers_train_on_the_first_object(tmp_path):
    config = layered_run(tmp_path, tmp_path / "out")
    batch = take(config.out, 1, Place(batch=4), crop=1.0, flip=False, shuffle=0)[0]
    triplets = {triplet.key: triplet for triplet in open_triplets(str(tmp_path / "out/shards/00000.tar"))}
    triplets |= {triplet.key: triplet for triplet in open_triplets(str(tmp_path / "out/shards/00001.tar"))}
    assert len(batch.keys) == 4
    assert batch.captions == [triplets[key].caption for key in batch.keys]
    assert batch.pixels.shape[0] == 4
