"""Which samples of a run can be looked at, and where their pictures are."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from review_run import INPAINTING, MASK, commit, write_run

from l2i_builder.errors import OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.review.samples import Samples
from l2i_builder.review.tars import scan


def opened(out: str, limit: int = 0) -> Samples:
    samples = Samples(out, limit)
    samples.open()
    return samples


@pytest.fixture(scope="module")
def samples(run) -> Samples:
    return opened(run)


@pytest.fixture
def copied(run, tmp_path) -> str:
    return str(shutil.copytree(run, tmp_path / "out"))


def ledger(out: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(Path(out, "ledger").iterdir()))


def test_every_row_with_stored_pictures_is_there_and_nothing_else(samples, run):
    stored = {
        key
        for folder in ("shards", "audit", "previews")
        for tar in Path(run, folder).iterdir()
        for key in scan(str(tar))
    }
    assert set(samples.by_key) == stored
    assert len(stored) > 50
    assert samples.problems == {}


def test_kept_and_audited_samples_have_layers_and_others_a_strip(samples):
    for sample in samples.by_key.values():
        layers = ("image", "mask", "background") if sample.full else ("strip",)
        assert sample.full == (not sample.reason or (sample.audit and sample.stage != "segment"))
        for layer in layers:
            data, media = samples.read(sample, layer)
            magic = {"image/jpeg": b"\xff\xd8", "image/png": b"\x89PNG", "image/webp": b"RIFF"}[media]
            assert data.startswith(magic)


def test_a_layer_that_a_sample_has_not_is_a_key_error(samples):
    for sample in samples.by_key.values():
        for layer in ("strip",) if sample.full else ("image", "mask", "background"):
            with pytest.raises(KeyError):
                samples.read(sample, layer)
        with pytest.raises(KeyError):
            samples.read(sample, "../../etc/passwd")


def test_only_what_was_inpainted_can_be_judged_as_inpainting(samples):
    for sample in samples.by_key.values():
        assert sample.inpainted == (sample.inpainting_score != -1)


def test_scores_heads_and_thresholds_are_the_runs(samples, run):
    rows = {row["key"]: row for row in ledger(run).to_pylist()}
    for key, sample in samples.by_key.items():
        for name in ("mask_score", "inpainting_score", "mask_head", "inpainting_head", "reason", "audit", "caption"):
            assert getattr(sample, name) == rows[key][name]
    assert samples.thresholds == {"mask": MASK, "inpainting": INPAINTING}


def test_what_may_never_be_shown_is_not_there(copied):
    path = next(Path(copied, "ledger").iterdir())
    table = pq.read_table(path)
    reasons = ["unsafe" if n % 2 else "opted_out" for n in range(len(table))]
    place = table.schema.get_field_index("reason")
    pq.write_table(table.set_column(place, table.schema.field("reason"), pa.array(reasons)), path)
    assert not set(table["key"].to_pylist()) & set(opened(copied).by_key)


def test_without_the_audit_tars_previews_are_shown_and_the_loss_is_told(copied, samples):
    shutil.rmtree(Path(copied, "audit"))
    found = opened(copied)
    assert {one.folder for one in found.by_key.values()} == {"shards", "previews"}
    assert set(found.by_key) == set(samples.by_key)
    assert all("audit/" in text and "missing" in text for text in found.problems.values())
    assert len(found.problems) == 2


def test_with_nothing_but_previews_these_are_shown(copied):
    shutil.rmtree(Path(copied, "shards"))
    shutil.rmtree(Path(copied, "audit"))
    found = opened(copied)
    assert {one.folder for one in found.by_key.values()} == {"previews"}
    kept = next(one for one in found.by_key.values() if not one.reason)
    assert kept.inpainted


def test_rows_without_any_picture_are_counted(tmp_path):
    write_run(str(tmp_path / "out"), shards=1, audit_rate=0.0, previews=False)
    found = opened(str(tmp_path / "out"))
    assert {one.reason for one in found.by_key.values()} == {""}
    assert found.without_pictures["mask_rejected"] > 0


def test_shards_still_being_written_wait_until_they_are_finished(tmp_path):
    out = str(tmp_path / "out")
    config = write_run(out, shards=2, finished=1)
    Path(out, "shards", "00001.tar").write_bytes(b"half a tar")
    found = opened(out)
    before = set(found.by_key)
    assert (set(found.opened), found.problems) == ({0}, {})
    assert not found.open()
    assert not found.complete
    shard = InputPlan.from_json(Path(out, "input.json").read_bytes()).shards[1]
    commit(config, shard, found.run.digest)
    assert found.open()
    assert set(found.opened) == {0, 1}
    assert found.complete
    assert before < set(found.by_key)


def test_a_run_that_has_not_finished_a_shard_is_empty(tmp_path):
    write_run(str(tmp_path / "out"), finished=0)
    assert opened(str(tmp_path / "out")).by_key == {}


def test_a_damaged_shard_is_told_and_the_others_are_shown(copied, samples):
    Path(copied, "ledger", "00000.parquet").write_bytes(b"PAR1")
    found = opened(copied)
    assert "00000" in found.problems[0]
    assert set(found.by_key) == {key for key, one in samples.by_key.items() if one.shard == 1}


def test_a_damaged_previews_tar_costs_its_previews_only(copied):
    Path(copied, "previews", "00001.tar").write_bytes(b"x" * 5000)
    found = opened(copied)
    assert "damaged" in found.problems[1]
    assert {one.folder for one in found.by_key.values() if one.shard == 1} == {"shards", "audit"}


def test_of_many_shards_a_fixed_draw_is_opened(tmp_path):
    out = str(tmp_path / "out")
    write_run(out, shards=6, rows=8, size=16)
    drawn = opened(out, limit=2)
    assert len(drawn.opened) == 2
    assert drawn.complete
    assert set(opened(out, limit=2).opened) == set(drawn.opened) < set(opened(out, limit=4).opened)
    assert drawn.run.finished == list(range(6))


def test_a_run_in_memory_or_an_object_store_is_the_same(run, samples, s3_folder):
    from l2i_builder import storage

    for base in ("memory://review-samples/out", f"{s3_folder}/out"):
        for path in sorted(Path(run).rglob("*")):
            if path.is_file():
                storage.write_bytes(storage.join(base, *path.relative_to(run).parts), path.read_bytes())
        found = opened(base)
        assert found.by_key == samples.by_key
        for sample in list(found.by_key.values())[:10]:
            layer = "mask" if sample.full else "strip"
            assert found.read(sample, layer) == samples.read(sample, layer)


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"run\.json"):
        Samples(str(tmp_path))
