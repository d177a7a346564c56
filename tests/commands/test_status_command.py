"""``l2i status``, once and watching."""

from __future__ import annotations

import sys

import pytest
from finished_toy import toy_run

from l2i_builder import cli


def l2i(*arguments: str) -> int:
    """Run the CLI in this process. Returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["l2i", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code or 0


def test_watching_a_complete_run_ends_at_once(tmp_path, capsys):
    toy_run(tmp_path, tmp_path / "out", rows=20)
    assert l2i("status", str(tmp_path / "out"), "--watch") == 0
    told = capsys.readouterr().out
    assert "20 of 20 rows, 1 of 1 shards" in told
    assert "complete" in told


def test_watching_nothing_is_an_output_error(tmp_path, capsys):
    assert l2i("status", str(tmp_path), "--watch") == 5
    assert "holds no run" in capsys.readouterr().err


def test_ctrl_c_ends_the_watching_not_the_run(tmp_path, monkeypatch, capsys):
    toy_run(tmp_path, tmp_path / "out", rows=40)
    (tmp_path / "out/manifests/00001.json").unlink()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2i_builder.run.follow.time.sleep", interrupt)
    assert l2i("status", str(tmp_path / "out"), "-w", "--every", "5") == 130
    assert "20 of 40 rows" in capsys.readouterr().out
