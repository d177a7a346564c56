"""The folder that the benchmark makes up is one that the project takes for real."""

import json
import sys

import pytest

from benchmarks import resuming
from l2i_builder.output.manifest import read_manifest
from l2i_builder.run.resume import whole_shards


def test_a_made_up_folder_is_whole_until_a_file_of_it_is_not(tmp_path):
    resuming.local_folder(tmp_path, 5)
    assert whole_shards(str(tmp_path)) == ({0, 1, 2, 3, 4}, {})
    assert read_manifest(str(tmp_path), 3) == resuming.manifest(3, 1)
    (tmp_path / "features/00002.parquet").unlink()
    assert whole_shards(str(tmp_path)) == ({0, 1, 3, 4}, {2: "features/00002.parquet is missing"})


@pytest.mark.slow
def test_the_script_scans_both_folders_and_counts_every_row(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "set anew by the script, and back by the test")
    monkeypatch.setattr(sys, "argv", ["resuming", "--quick", "--json", str(tmp_path / "n.json")])
    monkeypatch.setattr(resuming, "apart", lambda work, *args: work(*args))
    resuming.main()  # checks what it finds
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert (numbers["local"]["shards"], numbers["s3"]["shards"]) == (60, 20)
    assert [(one["shards"], one["rows"]) for one in numbers["report"]] == [(4, 500)]
    assert min(numbers["s3"]["scan_cpu"], numbers["local"]["scan_cpu"], numbers["report"][0]["cpu"]) > 0
