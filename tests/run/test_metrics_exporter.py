"""The driver's metrics, scraped over HTTP, and the dashboard that shows them."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from toy import toy_config, toy_parts, write_metadata

from l2i_builder.configfile import load_config
from l2i_builder.errors import ConfigError
from l2i_builder.ingest import planning
from l2i_builder.output import manifest
from l2i_builder.run.build import run_shards
from l2i_builder.run.logs import make_log
from l2i_builder.run.metrics import Metrics, serve_metrics
from l2i_builder.run.observe import DriverState, PoolState, Summary
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Reason

DASHBOARD = Path(__file__).parents[2] / "pipelines/observability/grafana.json"


def scrape(port: int) -> dict[tuple[str, frozenset], float]:
    """(sample name, its labels) -> value, as Prometheus would read them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(text: str) -> dict[tuple[str, frozenset], float]:
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(scraped: dict, name: str, **labels: str) -> float:
    return scraped[(name, frozenset(labels.items()))]


def state() -> DriverState:
    pools = [PoolState("fetch", 2, 1, 0, 1, 0, 0, 1), PoolState("+".join(ORDER), 2, 3, 0, 1, 0, 5, 2)]
    return DriverState(4, 6, pools)


def everything() -> Metrics:
    """Metrics that have been told of every kind of thing at least once."""
    metrics = Metrics("0123456789abcdef")
    metrics.opened(state, rows=40, shards=2)
    for shard in ("00000", "00001"):
        metrics.began(shard, 1)
    metrics.answered("fetch", 1.5)
    reasons = dict.fromkeys(Reason, 1)
    seconds = dict.fromkeys(["fetch", "decode", *ORDER], 0.5)
    metrics.batch("00000", 1, Summary(20, 3, reasons, seconds, dict.fromkeys(seconds, 4), fetched=1000))
    files = {f"{name}/00000.tar": {"bytes": 10} for name in ("shards", "audit", "previews", "features", "ledger")}
    metrics.finished("00000", 1, 12.0, manifest.ShardManifest(0, 20, 3, reasons, files))
    metrics.failed("00001", 1, last=False, rows=8)
    return metrics


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def told(unused_port):
    """What a scrape finds at the end of a toy run of 60 rows."""

    def run(tmp_path: Path, *overrides: str) -> tuple[dict, list[manifest.ShardManifest]]:
        metadata = write_metadata(tmp_path / "metadata", 60)
        config = toy_config(metadata, tmp_path / "out", f"observe.metrics_port={unused_port}", *overrides)
        with serve_metrics(config, "f" * 64) as observer:
            run_shards(config, planning.plan(config).shards, "", make_log(config), True, toy_parts(config), observer)
            scraped = scrape(unused_port)
        return scraped, [manifest.read_manifest(config.out, number) for number in range(3)]

    return run


def test_a_scrape_agrees_with_the_manifests(told, tmp_path):
    scraped, shards = told(tmp_path)
    assert value(scraped, "l2i_rows_planned") == 60
    assert value(scraped, "l2i_shards_total", outcome="done") == 3
    kept = sum(shard.kept for shard in shards)
    for name in ("l2i_rows_processed_total", "l2i_rows_committed_total"):
        assert value(scraped, name, verdict="kept", reason="") == kept > 0
        assert value(scraped, name, verdict="failed", reason="http_4xx") == 6
        assert sum(rows for (found, _), rows in scraped.items() if found == name) == 60
    tars = sum(shard.files[f"shards/{shard.name}.tar"]["bytes"] for shard in shards)
    assert value(scraped, "l2i_written_bytes_total", folder="shards") == tars
    assert value(scraped, "l2i_stage_images_total", stage="segment") == 54
    assert value(scraped, "l2i_stage_seconds_total", stage="encode") > 0
    assert value(scraped, "l2i_build_info", version=manifest.__version__, run="f" * 12) == 1


def test_no_url_key_or_caption_is_in_a_scrape(told, unused_port, tmp_path):
    scraped, _ = told(tmp_path)
    for name, labels in scraped:
        text = name + str(sorted(labels))
        assert "://" not in text
        assert "toy.test" not in text
        assert not re.search(r"[0-9a-f]{32}", text), "a key"


def test_the_number_of_series_is_bounded_whatever_happens():
    once, often = everything(), everything()
    for _ in range(50):
        often.began("09999", 3)
        often.batch("09999", 3, Summary(1, 1, dict.fromkeys(Reason, 1), {"segment": 1.0}, {"segment": 1}, 5))
        often.failed("09999", 3, last=True, rows=1)
    count = [sum(len(family.samples) for family in metrics.registry.collect()) for metrics in (once, often)]
    assert count[0] == count[1] < 250


def test_restarts_never_fall_when_a_second_driver_follows():
    metrics = everything()

    def restarts() -> float:
        return metrics.registry.get_sample_value("l2i_actor_restarts_total", {"pool": "fetch"})

    assert restarts() == 1
    metrics.closed()
    assert restarts() == 1
    metrics.opened(state, rows=1, shards=1)
    assert restarts() == 2


def test_without_a_port_nothing_listens(unused_port):
    assert load_config(None).observe.metrics_port == 0
    with serve_metrics(load_config(None), "f"), pytest.raises(urllib.error.URLError):
        scrape(unused_port)


def test_the_port_is_closed_again_and_only_loopback_hears(unused_port):
    config = load_config(None, [f"observe.metrics_port={unused_port}"])
    assert config.observe.metrics_address == "127.0.0.1"
    for _ in range(2):
        with serve_metrics(config, "f"):
            assert value(scrape(unused_port), "l2i_shards_in_flight") == 0


def test_a_taken_port_is_said_so(unused_port):
    config = load_config(None, [f"observe.metrics_port={unused_port}"])
    with (
        serve_metrics(config, "f"),
        pytest.raises(ConfigError, match=r"observe\.metrics_port"),
        serve_metrics(config, "f"),
    ):
        pass


# --- the dashboard


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads(DASHBOARD.read_text())


def expressions(dashboard: dict) -> list[str]:
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+") for target in targets]


def test_every_metric_of_the_dashboard_is_exported_with_the_labels_it_is_asked_for(dashboard):
    exported: dict[str, set[str]] = {"l2i_object_store_bytes": {"state"}, "l2i_cluster_nodes": set()}  # from Ray
    for family in everything().registry.collect():
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions(dashboard):
        names = re.findall(r"\b((?:l2i|process)_\w+)", expression)
        assert names, expression
        assert set(names) <= exported.keys(), expression
        known = set().union(*(exported[name] for name in names)) | {"instance"}
        asked = set(re.findall(r"[{,](\w+)(?:!?=~?)\"", expression))
        asked |= {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
        assert asked <= known, expression


def test_every_metric_of_the_driver_is_on_the_dashboard(dashboard):
    words = re.findall(r"\w+", " ".join(expressions(dashboard)))
    shown = {re.sub("_(total|bucket)$", "", word) for word in words}
    names = {family.name for family in everything().registry.collect() if family.name.startswith("l2i_")}
    unseen = {"l2i_build_info", "l2i_rows_committed", "l2i_batches", "l2i_pool_actors"}  # for queries by hand
    assert {name for name in names if name not in shown} == unseen


def test_every_expression_is_promql(dashboard):
    if importlib.util.find_spec("promql_parser") is None:
        pytest.skip("promql-parser is not installed; runs where it is")
    import promql_parser

    for expression in expressions(dashboard):
        promql_parser.parse(expression)


def test_grafana_can_import_it(dashboard):
    assert dashboard["id"] is None
    assert dashboard["uid"]
    assert dashboard["title"]
    assert dashboard["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in {"row", "stat", "timeseries"}
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables.keys()


def test_no_two_panels_overlap(dashboard):
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
