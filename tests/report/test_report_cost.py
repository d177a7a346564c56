"""Seconds, bytes and dollars of each stage and of each kept sample."""

import json
import shutil
from pathlib import Path

import pytest

from l2i_builder.report import write_report
from l2i_builder.report.aggregate import Aggregate
from l2i_builder.report.cost import summarize_cost
from l2i_builder.report.options import Options, Prices


def counted() -> Aggregate:
    result = Aggregate(None, None)
    result.counts["", ""] = 10
    result.seconds.update({"fetch": 360.0, "segment": 3600.0, "mystery": 36.0})
    result.images.update({"fetch": 100, "segment": 50})
    result.fetched_bytes, result.fetched_rows = 5_000_000, 50
    return result


def by_stage(prices: Prices) -> dict[str, dict]:
    stages = summarize_cost(counted(), {"shards": 2_000_000_000, "ledger": 1000}, prices)["stages"]
    return {line["stage"]: line for line in stages}


def test_a_stage_costs_its_busy_hours():
    stages = by_stage(Prices(cpu=0.1, gpu=2.0))
    assert stages["segment"]["dollars"] == pytest.approx(2.0)
    assert stages["segment"]["dollars_per_kept"] == pytest.approx(0.2)
    assert stages["fetch"]["dollars"] == pytest.approx(0.01)
    assert stages["mystery"]["dollars"] == pytest.approx(0.001)
    assert (stages["segment"]["gpu"], stages["fetch"]["gpu"]) == (True, False)
    assert stages["segment"]["per_image"] == 72.0
    assert stages["fetch"]["per_kept"] == 36.0


def test_without_a_price_of_gpus_the_models_ran_on_cpus():
    assert by_stage(Prices(cpu=0.1))["segment"]["dollars"] == pytest.approx(0.1)


def test_bytes_belong_to_the_stage_that_moved_them():
    stages = by_stage(Prices())
    assert (stages["fetch"]["bytes"], stages["fetch"]["bytes_per_kept"]) == (5_000_000, 500_000)
    assert stages["encode"]["bytes"] == 2_000_001_000
    assert stages["segment"]["bytes"] == 0


def test_the_whole_is_the_sum():
    whole = summarize_cost(counted(), {"shards": 2_000_000_000}, Prices(cpu=0.1, gpu=2.0, storage=0.02))
    assert whole["dollars"] == pytest.approx(2.011)
    assert whole["seconds"] == 3996
    assert whole["storage_month"] == pytest.approx(0.04)
    assert whole["stored_per_kept"] == 200_000_000


def test_nothing_kept_divides_by_nothing():
    empty = summarize_cost(Aggregate(None, None), {}, Prices())
    assert (empty["stages"], empty["dollars"], empty["dollars_per_kept"], empty["stored"]) == ([], 0, 0, {})


def test_the_report_names_prices_and_stored_bytes(reported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reported.out, out)
    write_report(str(out), Options(prices=Prices(cpu=0.5, gpu=3.25)))
    cost = json.loads((out / "report.json").read_bytes())["cost"]
    assert cost["prices"] == {"cpu_hour": 0.5, "gpu_hour": 3.25, "gb_month": 0.023}
    for folder in ("shards", "ledger", "previews"):
        assert cost["stored"][folder] == sum(path.stat().st_size for path in Path(out, folder).iterdir())
    assert "$3.25 a GPU-hour" in (out / "report.html").read_text("utf-8")
