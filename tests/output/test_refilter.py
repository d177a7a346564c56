"""Refilter: other thresholds or heads from ledger and features alone; what cannot be told is listed."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from damage import findings
from finished_toy import LOOSE, THRESHOLDS, judged_run, tiny_heads, toy_run
from toy import Silent, ToySource, contents, toy_config, toy_parts
from typer.testing import CliRunner

from l2i_builder import storage
from l2i_builder.cli import app
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.ingest import planning
from l2i_builder.judge.judges import load_head
from l2i_builder.output import commit
from l2i_builder.output.features import read_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import RunManifest, finished, read_manifest
from l2i_builder.output.refilter import refilter
from l2i_builder.output.shards import open_triplets
from l2i_builder.output.undecided import write_undecided
from l2i_builder.run import retry
from l2i_builder.run.cluster import Parts
from l2i_builder.run.inline import run_inline

STRICT = ("judge.mask.threshold=0.6",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished run of 40 rows in two shards, with an audit slice."""
    folder = tmp_path_factory.mktemp("run")
    return toy_run(folder, folder / "out")


def lines(out: Path | str) -> list[dict]:
    return [
        line for n in sorted(finished(str(out))) for line in read_ledger(f"{out}/ledger/{n:05d}.parquet").to_pylist()
    ]


def reasons(out: Path | str) -> Counter[str]:
    return Counter(line["reason"] for line in lines(out))


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".tar")}


def test_the_same_thresholds_give_the_same_shards_byte_for_byte(run: Config, tmp_path: Path) -> None:
    assert refilter(run.out, str(tmp_path / "same")).undecided == 0
    assert pictures(tmp_path / "same") == pictures(Path(run.out))
    assert lines(tmp_path / "same") == lines(run.out)
    assert findings(tmp_path / "same") == []
    assert not (tmp_path / "same/undecided.parquet").exists()


def test_stricter_thresholds_give_what_a_build_with_them_gives(run: Config, tmp_path: Path) -> None:
    refilter(run.out, str(tmp_path / "strict"), STRICT)
    built = toy_run(Path(run.metadata).parent, tmp_path / "built", *STRICT, THRESHOLDS[1])
    assert 0 < reasons(built.out)[""] < reasons(run.out)[""]
    assert reasons(tmp_path / "strict") == reasons(built.out)
    assert findings(tmp_path / "strict") == []
    assert keys(tmp_path / "strict") == keys(built.out)


def keys(out: Path | str) -> list[str]:
    return [t.key for number in (0, 1) for t in open_triplets(f"{out}/shards/{number:05d}.tar")]


def test_looser_thresholds_keep_the_audit_slice_and_list_what_was_never_stored(run: Config, tmp_path: Path) -> None:
    result = refilter(run.out, str(tmp_path / "loose"), LOOSE)
    old, new = lines(run.out), lines(tmp_path / "loose")
    listed = pq.read_table(tmp_path / "loose/undecided.parquet").to_pylist()
    assert findings(tmp_path / "loose") == []
    assert len(new) == len(old) == 40
    assert result.undecided == len(listed) == reasons(tmp_path / "loose")["undecided"] > 0
    assert {line["missing"] for line in listed} == {"never inpainted", "pixels not stored"}
    assert any(now["reason"] == "" != was["reason"] and was["audit"] for was, now in zip(old, new, strict=True))
    for was, now in zip(old, new, strict=True):
        if now["reason"] == "undecided":
            assert was["reason"] in ("mask_rejected", "inpainting_rejected")
            assert not was["audit"]
        elif was["reason"] not in ("mask_rejected", "inpainting_rejected"):
            assert now["reason"] == was["reason"]


def test_the_json_of_samples_follows_their_new_verdict(run: Config, tmp_path: Path) -> None:
    refilter(run.out, str(tmp_path / "loose"), LOOSE)
    audited = {line["key"] for line in lines(run.out) if line["reason"]}
    told = [t.info for n in (0, 1) for t in open_triplets(str(tmp_path / f"loose/shards/{n:05d}.tar"))]
    assert {info["verdict"] for info in told} == {"kept"}
    assert any(info["key"] in audited for info in told)


def test_a_build_that_retries_decides_what_was_undecided(run: Config, tmp_path: Path) -> None:
    """Into the new folder, with the new configuration: the end is a build with these thresholds from the start."""
    refilter(run.out, str(tmp_path / "loose"), LOOSE)
    config = toy_config(Path(run.metadata), tmp_path / "loose", *LOOSE)
    plan, digest = planning.plan(config), RunManifest.from_json((tmp_path / "loose/run.json").read_bytes()).digest
    parts = Parts(partial(retry.RetrySource, config, ToySource), toy_parts(config).stages, retry.commit_retry)
    run_inline(config, retry.retryable(config.out, plan, finished(config.out)), digest, Silent(), parts)
    assert write_undecided(config.out) == 0
    built = toy_run(Path(run.metadata).parent, tmp_path / "built", *LOOSE)
    assert pictures(tmp_path / "loose") == pictures(Path(built.out))
    assert lines(config.out) == lines(built.out)
    storage.delete(f"{config.out}/index.json")
    assert {finding.file for finding in findings(tmp_path / "loose")} == {"index.json"}


def test_the_new_run_names_the_old_one_and_the_changed_keys(run: Config, tmp_path: Path) -> None:
    refilter(run.out, str(tmp_path / "strict"), STRICT)
    old, new = (json.loads(Path(out, "run.json").read_bytes()) for out in (run.out, tmp_path / "strict"))
    assert new["derived_from"] == old["digest"] != new["digest"]
    assert new["config"]["judge"]["mask"]["threshold"] == 0.6
    assert read_manifest(str(tmp_path / "strict"), 0).run_digest == new["digest"]
    refilter(str(tmp_path / "strict"), str(tmp_path / "third"))
    assert json.loads((tmp_path / "third/run.json").read_bytes())["derived_from"] == new["digest"]


def test_back_to_the_old_thresholds_gives_the_old_verdicts(run: Config, tmp_path: Path) -> None:
    refilter(run.out, str(tmp_path / "loose"), LOOSE)
    refilter(str(tmp_path / "loose"), str(tmp_path / "back"), THRESHOLDS)
    assert lines(tmp_path / "back") == lines(run.out)
    assert pictures(tmp_path / "back") == pictures(Path(run.out))


# interruptions


def test_an_interrupted_refilter_goes_on_where_it_was(
    run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refilter(run.out, str(tmp_path / "whole"), STRICT, workers=1)
    real, to = storage.write_bytes, str(tmp_path / "parts")
    ended: list[int] = []
    for writes in range(12):
        left = [writes]

        def breaks(url: str, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(url, data)

        monkeypatch.setattr(storage, "write_bytes", breaks)
        with suppress(KeyboardInterrupt):
            refilter(run.out, to, STRICT, workers=1)
            ended.append(writes)
        monkeypatch.setattr(storage, "write_bytes", real)
    assert ended
    assert ended[0] > 4  # each earlier call was cut off, one write further on
    assert refilter(run.out, to, STRICT).skipped >= 1
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert findings(to) == []


def test_finished_shards_are_skipped_and_progress_is_told(
    run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    refilter(run.out, str(tmp_path / "new"), STRICT, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    monkeypatch.setattr(commit, "write_tar", None)  # nothing is written any more
    assert refilter(run.out, str(tmp_path / "new"), STRICT).skipped == 2


def test_from_and_to_an_object_store(s3_folder: str, tmp_path: Path) -> None:
    config = toy_run(tmp_path, f"{s3_folder}/out", rows=20)
    refilter(config.out, f"{s3_folder}/new", LOOSE)
    refilter(config.out, str(tmp_path / "here"), LOOSE)
    assert findings(f"{s3_folder}/new") == []
    for name, data in contents(tmp_path / "here").items():
        assert storage.read_bytes(f"{s3_folder}/new/{name}") == data


# heads


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("judged")
    return folder, judged_run(folder, folder / "out", tiny_heads(folder))


def other_head(folder: Path, threshold: float = 0.2) -> Path:
    """The mask head with other weights in its last layer, of another name."""
    from safetensors.numpy import load_file, save_file

    from l2i_builder.weights.registry import file_sha256

    card = json.loads((folder / "mask-rich-0.json").read_bytes())
    tensors = load_file(folder / "mask-rich-0.safetensors")
    tensors["w2"] = -tensors["w2"]
    save_file(tensors, folder / "mask-v2.safetensors")
    card |= {"name": "mask-v2", "threshold": threshold, "sha256": file_sha256(folder / "mask-v2.safetensors")}
    (folder / "mask-v2.json").write_text(json.dumps(card))
    return folder / "mask-v2.json"


def test_another_head_scores_every_row_anew(judged: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = judged
    path = other_head(folder)
    refilter(config.out, str(tmp_path / "new"), [f"judge.mask.head={path}"])
    head = load_head(str(path), "mask")
    features = read_features(str(tmp_path / "new/features/00000.parquet"))
    scored = {line["key"]: line for line in lines(tmp_path / "new") if line["mask_score"] != -1}
    assert scored
    for key, line in scored.items():
        assert line["mask_score"] == float(head.predict(features.vectors["mask"][key][None])[0])
        assert line["mask_head"] == "mask-v2"
        assert (line["mask_score"] < 0.2) == (line["reason"] == "mask_rejected")
    assert features.heads == {"mask": "mask-v2", "inpainting": "inpainting-rich-0"}
    new = json.loads((tmp_path / "new/run.json").read_bytes())
    assert new["weights"]["judge mask: mask-v2"] == head.digest
    assert "judge mask: mask-rich-0" not in new["weights"]
    assert findings(tmp_path / "new") == []


@pytest.mark.parametrize(("family", "seed", "words"), [("plain", 0, "mask-plain"), ("rich", 1, "trained on these")])
def test_a_head_of_another_family_or_backbone_is_refused(
    judged: tuple[Path, Config], tmp_path: Path, family: str, seed: int, words: str
) -> None:
    other = tiny_heads(tmp_path, family, seed)["mask"]
    with pytest.raises(ConfigError, match=words):
        refilter(judged[1].out, str(tmp_path / "new"), [f"judge.mask.head={other}"])
    assert not (tmp_path / "new").exists()


def test_without_features_thresholds_can_change_and_heads_cannot(tmp_path: Path) -> None:
    config = toy_run(tmp_path, tmp_path / "out", *THRESHOLDS, "shards.features=false", rows=20)
    refilter(config.out, str(tmp_path / "strict"), STRICT)
    assert findings(tmp_path / "strict") == []
    with pytest.raises(ConfigError, match=r"without stored features"):
        refilter(config.out, str(tmp_path / "new"), [f"judge.mask.head={tiny_heads(tmp_path)['mask']}"])


# what is refused


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["segment.backend=isnet"], "changes only judge.mask.threshold"),
        (["judge.mask.enabled=false"], "changes only"),
        (["judge.mask.threshold=2"], "less than or equal to 1"),
        (["judge.mask.threshold=-1"], "has not the head that the run used"),
    ],
)
def test_other_keys_and_values_are_refused(run: Config, tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        refilter(run.out, str(tmp_path / "new"), overrides)
    assert not (tmp_path / "new").exists()


def test_a_judge_that_was_off_has_nothing_to_decide(tmp_path: Path) -> None:
    config = toy_run(tmp_path, tmp_path / "out", "judge.mask.enabled=false", THRESHOLDS[1], rows=2)
    with pytest.raises(ConfigError, match="switched off"):
        refilter(config.out, str(tmp_path / "new"), STRICT)


def test_the_folder_itself_or_one_of_another_run_is_refused(run: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another folder"):
        refilter(run.out, run.out + "/")
    refilter(run.out, str(tmp_path / "new"), STRICT)
    with pytest.raises(ConfigError, match=r"judge.mask.threshold: 0.6 -> 0.05"):
        refilter(run.out, str(tmp_path / "new"), LOOSE)


def test_a_damaged_source_is_not_handed_on(run: Config, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    path = out / "shards/00001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"00001\.tar is not what its manifest says"):
        refilter(str(out), str(tmp_path / "new"), STRICT)


def test_the_command_shows_the_funnel_and_counts_the_undecided(run: Config, tmp_path: Path) -> None:
    to = str(tmp_path / "new")
    result = CliRunner().invoke(app, ["refilter", run.out, "--to", to, *(f"--set={key}" for key in LOOSE)])
    assert result.exit_code == 0, result.output
    count = reasons(to)["undecided"]
    assert f"{count} rows would now be kept" in " ".join(result.output.split())
    assert (tmp_path / "new/report.html").exists()
