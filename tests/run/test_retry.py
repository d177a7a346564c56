"""Retrying transient failures of finished shards, in a plain loop."""

from functools import partial

import pytest
from toy import Silent, ToySource, contents, toy_config, toy_parts, write_metadata

from l2i_builder import storage
from l2i_builder.ingest import planning
from l2i_builder.output import rewrite
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import finished, read_manifest
from l2i_builder.output.verify import verify
from l2i_builder.run import retry
from l2i_builder.run.cluster import Parts
from l2i_builder.run.inline import run_inline
from l2i_builder.sample import Reason


class FlakySource(ToySource):
    """Every row divisible by 3 times out, those by 7 are gone for good."""

    def batches(self, shard):
        yield from self.batches_of(planning.read_rows(shard, self.config), shard)

    def batches_of(self, rows, shard):
        for row in rows:
            if row.index % 7 == 6:
                row.refuse(Reason.HTTP_4XX, "fetch", "404")
            elif row.index % 3 == 0 and self.flaky:
                row.refuse(Reason.TIMEOUT, "fetch", "no answer in time")
        yield from super().batches_of(rows, shard)

    flaky = True


class HealedSource(FlakySource):
    flaky = False


def parts(config, source):
    return Parts(partial(source, config), toy_parts(config).stages)


def again(config):
    return Parts(partial(retry.RetrySource, config, HealedSource), toy_parts(config).stages, retry.commit_retry)


@pytest.fixture
def flaky_run(tmp_path):
    config = toy_config(write_metadata(tmp_path / "metadata", rows=50), tmp_path / "out")
    plan = planning.plan(config)
    run_inline(config, plan.shards, "digest", Silent(), parts(config, FlakySource))
    return config, plan


def reasons(config):
    tables = [read_ledger(f"{config.out}/ledger/{shard:05d}.parquet") for shard in sorted(finished(config.out))]
    return [reason for table in tables for reason in table["reason"].to_pylist()]


def test_only_transient_failures_are_fetched_again(flaky_run):
    config, plan = flaky_run
    before = reasons(config)
    assert before.count("timeout") > 10

    run_inline(config, retry.retryable(config.out, plan, finished(config.out)), "digest", Silent(), again(config))

    assert "timeout" not in reasons(config)
    assert reasons(config).count("http_4xx") == before.count("http_4xx")
    assert retry.retryable(config.out, plan, finished(config.out)) == []


def test_the_result_is_what_a_run_over_a_healthy_web_gives(flaky_run, tmp_path):
    config, plan = flaky_run
    run_inline(config, retry.retryable(config.out, plan, finished(config.out)), "digest", Silent(), again(config))
    healthy = toy_config(tmp_path / "metadata", tmp_path / "healthy")
    run_inline(healthy, plan.shards, "digest", Silent(), parts(healthy, HealedSource))
    assert contents(tmp_path / "out") == contents(tmp_path / "healthy")


@pytest.mark.parametrize("moves", [0, 1, 2, 3, 4])
def test_an_interrupted_move_is_finished_by_the_next_run(flaky_run, tmp_path, monkeypatch, moves):
    config, plan = flaky_run
    shard = retry.retryable(config.out, plan, finished(config.out))[:1]
    real, left = storage.move, [moves]

    def breaks(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(storage, "move", breaks)
    with pytest.raises(KeyboardInterrupt):
        run_inline(config, shard, "digest", Silent(), again(config))
    monkeypatch.setattr(storage, "move", real)

    assert rewrite.recover(config.out) == 1
    assert rewrite.recover(config.out) == 0
    manifest = read_manifest(config.out, shard[0].number)
    assert "timeout" not in manifest.reasons
    for name, facts in manifest.files.items():
        assert len(storage.read_bytes(f"{config.out}/{name}")) == facts["bytes"], name


def test_a_retried_row_gives_way_to_a_settled_one_with_its_content(flaky_run):
    config, _ = flaky_run
    old = rewrite.stored_rows(config.out, 0)
    rows = [row for row in old if row.kept][:2]
    rows[0].sha256 = rows[1].sha256 = "ab" * 32
    retry._refuse_repeated_content(rows, [False, True])
    assert [row.reason for row in rows] == ["", "duplicate"]


def test_verify_accepts_the_result(flaky_run):
    config, plan = flaky_run
    run_inline(config, retry.retryable(config.out, plan, finished(config.out)), "digest", Silent(), again(config))
    found = [finding for finding in verify(config.out, deep=True) if "run.json" not in finding.file]
    assert [finding for finding in found if "input.json" not in finding.file] == []
