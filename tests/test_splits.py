"""The splits: who is in which, that nobody moves, and that no picture is in two of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from finished_toy import toy_run
from typer.testing import CliRunner

from l2i_builder import storage
from l2i_builder.cli import app
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import read_members
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier
from l2i_builder.sample import sample_key
from l2i_builder.splits import Candidates, Splits, SplitTable, as_bytes, assign, draw_splits, read_splits


def samples(count: int, start: int = 0, audited: int = 10, kept: int = 2) -> Candidates:
    """Samples that look like nothing else. One in ``audited`` is of the audit slice, of them one in ``kept`` kept."""
    keys = as_bytes(sorted(sample_key(f"http://a/{i}", "") for i in range(start, start + count)))
    random = np.random.default_rng([start, count])
    audit = np.arange(count) % audited == 0
    return Candidates(
        keys,
        ~audit | (np.arange(count) % (audited * kept) == 0),
        audit,
        random.integers(1, 2**63, (count, 2)).astype(np.uint64),
        random.integers(0, 256, (count, 32)).astype(np.uint8),
        np.zeros(count, bool),
    )


def together(*parts: Candidates) -> Candidates:
    order = np.argsort(np.concatenate([part.keys for part in parts]))
    names = ("keys", "kept", "audit", "content", "pdq", "flat")
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in names))


def split_of(table: SplitTable) -> dict[str, str]:
    keys = [key.decode() for key in table.keys.tolist()]
    return dict(zip(keys, table.of(keys), strict=True))


def flipped(hash_: np.ndarray, bits: int) -> np.ndarray:
    """The hash with so many bits turned, spread over all bands."""
    spots = np.random.default_rng(bits).permutation(256)[:bits]
    mask = np.zeros(256, bool)
    mask[spots] = True
    return hash_ ^ np.packbits(mask)


def test_counts_are_met_and_the_rest_is_train() -> None:
    found = assign(samples(2000), Splits(test=100, la=50))
    # 1,800 are not audited, 100 of the 200 audited are kept; of LA's 50 only what was kept is taken from the others
    assert found.counts()["test"] == 100
    assert found.counts()["la"] == 50
    assert found.counts()["withheld"] == 0
    in_la = [key for key, split in split_of(found).items() if split == "la"]
    kept = dict(zip(samples(2000).keys.tolist(), samples(2000).kept.tolist(), strict=True))
    assert found.counts()["train"] == 1900 - 100 - sum(kept[key.encode()] for key in in_la)


def test_la_holds_audited_samples_whatever_their_verdict_and_test_only_kept_ones() -> None:
    all_ = samples(2000)
    table = assign(all_, Splits(test=0.2, la=0.5))
    codes = table.find(all_.keys)
    assert all_.audit[codes == 2].all()
    assert 0.3 < all_.kept[codes == 2].mean() < 0.7
    assert all_.kept[codes == 1].all()
    assert all_.kept[codes == 0].all()
    refused_elsewhere = table.find(all_.keys[~all_.kept & (codes != 2)])
    assert (refused_elsewhere == 255).all()
    assert table.of([all_.keys[~all_.kept & (codes != 2)][0].decode()]) == [""]


@pytest.mark.parametrize("sizes", [{"test": 0.1, "la": 0.5}, {"test": 60, "la": 30}])
def test_a_key_never_changes_its_split_when_the_dataset_grows(sizes: dict[str, float]) -> None:
    first, more = samples(1000), samples(3000, start=1000)
    before = assign(first, Splits(**sizes))
    after = split_of(assign(together(first, more), Splits(**sizes), before))
    assert {key: after[key] for key in split_of(before)} == split_of(before)
    assert len(after) > 3500


def test_a_share_grows_with_the_dataset_a_count_is_closed_once_it_is_filled() -> None:
    first, more = samples(1000), samples(3000, start=1000)
    for size, expected in ((60, 60), (0.1, 380)):
        before = assign(first, Splits(test=size, la=0))
        after = assign(together(first, more), Splits(test=size, la=0), before)
        assert after.counts()["test"] == pytest.approx(expected, rel=0.15 if size < 1 else 0)


def test_a_count_takes_a_tenth_of_what_was_kept_at_most_and_is_filled_up_later() -> None:
    first = samples(1000)
    before = assign(first, Splits(la=0))
    assert before.counts()["test"] == 95
    assert assign(together(first, samples(1000, 1000)), Splits(la=0), before).counts()["test"] == 190


def test_shares_depend_on_the_key_alone() -> None:
    small, large = samples(500), together(samples(500), samples(1500, start=500))
    one, other = (split_of(assign(part, Splits(test=0.2, la=0.5))) for part in (small, large))
    assert {key: other[key] for key in one} == one


@pytest.mark.parametrize(
    ("likeness", "word"),
    [("file", "same file"), ("image", "same image"), ("31 bits", "31 bits from"), ("mirror", "mirrored")],
)
def test_a_copy_of_a_test_picture_is_withheld_from_train_with_the_reason(likeness: str, word: str) -> None:
    from l2i_builder.neardup import _ODD_COLUMNS

    all_ = samples(1000, audited=10**9)
    drawn = assign(all_, Splits(test=0.05, la=0))
    original, copy = np.flatnonzero(drawn.codes == 1)[0], np.flatnonzero(drawn.codes == 0)[0]
    if likeness in ("file", "image"):
        column = ["file", "image"].index(likeness)
        all_.content[copy, column] = all_.content[original, column]
    else:
        hash_ = all_.pdq[original]
        all_.pdq[copy] = flipped(hash_, 31) if likeness == "31 bits" else flipped(hash_ ^ _ODD_COLUMNS, 12)
    table = assign(all_, Splits(test=0.05, la=0))
    assert table.codes[copy] == 3
    assert table.codes[original] == 1
    assert table.counts()["withheld"] == 1
    reason = table.why[all_.keys[copy]]
    assert reason.startswith(word)
    assert reason.endswith(f" {all_.keys[original].decode()} in test")


def test_pictures_that_differ_more_or_are_flat_are_no_copies() -> None:
    all_ = samples(1000, audited=10**9)
    drawn = assign(all_, Splits(test=0.05, la=0))
    original, other, flat = np.flatnonzero(drawn.codes == 1)[0], *np.flatnonzero(drawn.codes == 0)[:2]
    all_.pdq[other] = flipped(all_.pdq[original], 32)
    all_.pdq[flat], all_.flat[flat] = all_.pdq[original], True
    assert assign(all_, Splits(test=0.05, la=0)).counts()["withheld"] == 0


def test_copies_within_a_split_stay() -> None:
    all_ = samples(1000, audited=10**9)
    drawn = assign(all_, Splits(test=0.05, la=0))
    for code in (0, 1):
        one, other = np.flatnonzero(drawn.codes == code)[:2]
        all_.content[other], all_.pdq[other] = all_.content[one], all_.pdq[one]
    assert assign(all_, Splits(test=0.05, la=0)).counts()["withheld"] == 0


def test_what_was_assigned_first_stays_and_the_later_copy_is_withheld() -> None:
    first, more = samples(1000, audited=10**9), samples(1000, start=1000, audited=10**9)
    sizes = Splits(test=0.1, la=0)
    before = assign(first, sizes)
    later = split_of(assign(together(first, more), sizes, before))
    newcomer = next(i for i, key in enumerate(more.keys.tolist()) if later[key.decode()] == "test")
    trained = np.flatnonzero(before.codes == 0)[0]
    more.content[newcomer] = first.content[trained]
    table = assign(together(first, more), sizes, before)
    assert table.of([first.keys[trained].decode()]) == ["train"]
    assert table.of([more.keys[newcomer].decode()]) == ["withheld"]
    assert first.keys[trained].decode() in table.why[more.keys[newcomer]]
    again = assign(together(first, more), sizes, table)
    assert split_of(again) == split_of(table)
    assert again.why == table.why


def test_test_and_la_share_no_picture_either() -> None:
    all_ = samples(1000)
    all_.content[:] = 7  # one picture for all
    table = assign(all_, Splits(test=0.2, la=0.5))
    assert table.counts()["la"] > 10
    assert table.counts()["test"] == table.counts()["train"] == 0
    assert table.counts()["withheld"] == len(table) - table.counts()["la"]


def test_a_refused_sample_that_was_trained_on_is_not_drawn_into_la() -> None:
    all_ = samples(500, kept=1)
    before = assign(all_, Splits(test=0.1, la=0))
    all_.kept[:] = False
    assert split_of(assign(all_, Splits(test=0.1, la=0.9), before)) == {}


def test_a_table_survives_the_file(tmp_path: Path) -> None:
    all_ = samples(300)
    all_.content[:, 0] = 5
    table = assign(all_, Splits(test=0.2, la=0.5))
    back = SplitTable.from_parquet(table.to_parquet())
    assert split_of(back) == split_of(table)
    assert back.why == table.why
    assert back.digest == table.digest
    with pytest.raises(OutputError, match="no table of splits"):
        SplitTable.from_parquet(b"PAR1")


def test_the_command_draws_a_runs_splits_the_same_bytes_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    toy_run(tmp_path, out, "ingest.audit_rate=0.5", "judge.mask.threshold=0.3", "judge.inpainting.threshold=0.5")
    arguments = ["splits", str(out), "--test", "0.3", "--la", "0.6"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    files = [(out / name).read_bytes() for name in ("splits.parquet", "splits.json")]
    hashes = {path: path.stat().st_mtime_ns for path in (out / "hashes").iterdir()}
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [(out / name).read_bytes() for name in ("splits.parquet", "splits.json")] == files
    assert {path: path.stat().st_mtime_ns for path in (out / "hashes").iterdir()} == hashes  # nothing hashed again

    table, summary = read_splits(str(out)), json.loads(files[1])
    assert table is not None
    assert summary["counts"] == table.counts()
    assert summary["digest"] == table.digest
    kept = [key for path in sorted((out / "shards").iterdir()) for key, _ in read_members(str(path))]
    audit = [key for path in sorted((out / "audit").iterdir()) for key, _ in read_members(str(path))]
    assert all(table.of(kept))
    assert set(table.of(audit)) <= {"la", "withheld", ""}
    assert "la" in table.of(audit)
    assert summary["la"]["audit_slice"]["with_image"] <= summary["la"]["audit_slice"]["rows"]


def test_splits_drawn_another_way_are_not_mixed(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out", rows=20)
    draw_splits(str(tmp_path / "out"), Splits(test=0.3))
    with pytest.raises(ConfigError, match="seed 0"):
        draw_splits(str(tmp_path / "out"), Splits(test=0.3, seed=1))
    with pytest.raises(ConfigError, match="of its own"):
        draw_splits(str(tmp_path / "out"), Splits(test=0.3), previous="elsewhere.parquet")


def test_another_version_of_the_dataset_takes_over_the_splits(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "one", rows=20)
    toy_run(tmp_path, "memory://splits-two", rows=40)
    draw_splits(str(tmp_path / "one"), Splits(test=0.5, seed=3))
    draw_splits("memory://splits-two", Splits(test=0.1), previous=str(tmp_path / "one/splits.parquet"))
    one, two = read_splits(str(tmp_path / "one")), read_splits("memory://splits-two")
    assert one
    assert two
    assert len(two) > len(one)
    keys = [key.decode() for key in one.keys.tolist()]
    assert two.of(keys) == one.of(keys)
    storage.filesystem("memory://splits-two")[0].rm("/splits-two", recursive=True)


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no samples"):
        draw_splits(str(tmp_path), Splits())


def test_what_is_taken_down_leaves_splits_and_hashes(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out", rows=20)
    out = str(tmp_path / "out")
    draw_splits(out, Splits(test=0.5, radius=0))
    before = read_splits(out)
    assert before is not None
    key = before.keys[before.codes == 1][0].decode()
    take_down(out, [Identifier.of("key", key)])
    assert not list((tmp_path / "out/hashes").iterdir())
    draw_splits(out, Splits(test=0.5, radius=0))
    after = read_splits(out)
    assert after is not None
    assert after.of([key]) == [""]
    assert key not in " ".join(after.why.values())
    others = [other.decode() for other in before.keys.tolist() if other.decode() != key]
    assert after.of(others) == before.of(others)


def test_a_reason_does_not_name_a_sample_that_is_gone() -> None:
    all_ = samples(300, audited=10**9)
    drawn = assign(all_, Splits(test=0.1, la=0))
    original, copy = np.flatnonzero(drawn.codes == 1)[0], np.flatnonzero(drawn.codes == 0)[0]
    all_.content[copy] = all_.content[original]
    table = assign(all_, Splits(test=0.1, la=0))
    left = assign(all_.take(np.arange(len(all_)) != original), Splits(test=0.1, la=0), table)
    assert left.why[all_.keys[copy]] == "same file as a sample that is gone in test"
    assert left.of([all_.keys[copy].decode()]) == ["withheld"]
    again = assign(all_.take(np.arange(len(all_)) != original), Splits(test=0.1, la=0), left)
    assert again.why == left.why
