"""The command line as a person meets it: help, advice, exit status."""

import json
import subprocess
import sys

import pytest
from toy import Silent, toy_config, toy_parts, write_metadata

from l2i_builder import __version__, cli, storage
from l2i_builder.ingest import planning
from l2i_builder.output import manifest
from l2i_builder.run.build import finish
from l2i_builder.run.inline import run_inline


def l2i(*arguments, monkeypatch=None):
    """Run the CLI in this process. Returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["l2i", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code or 0


@pytest.fixture
def toy_run(tmp_path):
    """A finished run of 60 rows in three shards."""
    config = toy_config(write_metadata(tmp_path / "metadata", rows=60), tmp_path / "out")
    plan = planning.plan(config)
    run = manifest.RunManifest.of(config, plan.digest, {})
    manifest.claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    run_inline(config, plan.shards, run.digest, Silent(), toy_parts(config))
    finish(config, plan, {})
    return tmp_path / "out"


def test_help_is_a_place_to_learn_from(capsys):
    assert l2i("--help") == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("build", "status", "verify", "report", "weights", "Exit status", "130"))
    assert l2i("build", "--help") == 0
    assert "l2i build --metadata laion/ --out runs/laion" in capsys.readouterr().out


def test_version(capsys):
    assert l2i("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["build", "--set", "segment.backnd=u2net"], 2, "Did you mean segment.backend?"),
        (["build", "--config", "absent.yaml"], 2, "Cannot read the configuration"),
        (["build"], 2, "metadata is not set"),
        (["build", "--metadata", "https://me:secret@a.test/m.parquet", "--out", "x"], 2, "metadata holds a password"),
        (["build", "--metadata", "m.parquet", "--out", "s3://id:secret@bucket/x"], 2, "out holds a password"),
        (["build", "--metadata", "absent", "--out", "out"], 3, "absent"),
        (["weights", "pull", "u3net"], 4, "l2i weights list"),
        (["status", "nowhere"], 5, "l2i build"),
        (["build", "--metadata", "m", "--out", "memory://x"], 2, "--inline"),
    ],
)
def test_a_mistake_is_a_sentence_and_a_status(arguments, status, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert l2i(*arguments) == status
    err = " ".join(capsys.readouterr().err.split())
    assert words in err
    assert "Traceback" not in err


def test_a_dry_run_shows_plan_actors_and_cost_and_writes_nothing(tmp_path, capsys):
    metadata = write_metadata(tmp_path / "metadata", rows=500, files=2)
    out = tmp_path / "out"
    assert l2i("build", "--metadata", metadata, "--out", out, "--dry-run", "-s", "ingest.rows_per_shard=100") == 0
    shown = capsys.readouterr().out
    for words in ("1,000 rows in 2 files", "0 of 10 shards", "ingest.rows_per_shard = 100", "per million", "assumed"):
        assert words in shown
    assert not out.exists()


def test_a_dry_run_learns_from_finished_shards(toy_run, capsys):
    assert l2i("build", "--metadata", toy_run.parent / "metadata", "--out", toy_run, "--dry-run") == 0
    assert "measured on 3 finished shards" in capsys.readouterr().out


def test_status_tells_what_is_done_and_what_is_open(toy_run, capsys):
    assert l2i("status", toy_run) == 0
    assert "3 of 3 shards finished" in capsys.readouterr().out
    (toy_run / "manifests" / "00001.json").unlink()
    assert l2i("status", toy_run) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 shards finished, 20 rows to go" in shown
    assert "open: 00001" in shown


def test_verify_finds_damage_and_says_what_to_do(toy_run, capsys):
    assert l2i("verify", toy_run, "--deep") == 0
    assert "complete and undamaged" in capsys.readouterr().out
    tar = toy_run / "shards" / "00002.tar"
    tar.write_bytes(tar.read_bytes()[:-2000])
    assert l2i("verify", toy_run) == 7
    shown = capsys.readouterr().out
    assert "00002.tar" in shown
    assert "run the build again" in shown


def test_report_writes_one_page(toy_run, capsys):
    assert l2i("report", toy_run) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert json.loads((toy_run / "report.json").read_text())


def test_weights_are_listed_with_licence_and_source(capsys):
    assert l2i("weights", "list") == 0
    shown = capsys.readouterr().out
    assert "u2net" in shown
    assert "Apache" in shown


def test_starting_is_quick_to_import():
    """The CLI must not load torch or Ray to print help."""
    script = "import sys, l2i_builder.cli; print(*sorted({'torch', 'ray', 'onnxruntime', 'cv2'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
