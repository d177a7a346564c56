"""Everything strangers send, built at once: each row has its reason, and the page that lists them is true."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import bad_inputs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import CERTIFICATES, NAMES, WEB, Bad, families
from fetching import names
from finished_toy import plain_run
from hostile_web import HostileWeb, answer
from throwaway_tls import Authority
from toy import toy_config, toy_parts

from l2i_builder.fetch.fetcher import Fetcher
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.shards import open_triplets
from l2i_builder.output.verify import verify
from l2i_builder.run.cluster import Parts
from l2i_builder.source.source import UrlSource

INPUTS = [bad for family in families() for bad in family.inputs]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[HostileWeb], dict[str, str], Authority]]:
    """The hostile web, its secure sisters, where each host is, and whom to trust."""
    authority, stranger = (Authority(tmp_path_factory.mktemp(name)) for name in ("trusted", "stranger"))
    pages = {path: answer(body) for family in families() for path, body in family.pages.items()}
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(HostileWeb(pages))
        secure = {
            "expired.test": authority.server("expired.test", -1),
            "misnamed.test": authority.server("other.test"),
            "stranger.test": stranger.server("stranger.test"),
        }
        sisters = {name: stack.enter_context(HostileWeb(tls=context)) for name, context in secure.items()}
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # bound, but nobody listens
        plain = stack.enter_context(HostileWeb(greeting=answer(b"", 400)))
        where = {name: server.address for name, server in sisters.items()}
        where |= {WEB: web.address, "plain.test": plain.address, "refused.test": f"127.0.0.1:{nobody.getsockname()[1]}"}
        assert set(CERTIFICATES) <= set(where)
        yield [web, *sisters.values()], where, authority


def write_metadata(path: Path) -> None:
    """Write the inputs as LAION's columns; captions as bytes called text, so that they need not be UTF-8."""
    captions = [bad.caption if isinstance(bad.caption, bytes) else bad.caption.encode() for bad in INPUTS]
    raw = pa.array(captions, pa.binary())
    columns = {
        "URL": [bad.url for bad in INPUTS],
        "TEXT": pa.StringArray.from_buffers(len(INPUTS), raw.buffers()[1], raw.buffers()[2]),
        "punsafe": [0.0] * len(INPUTS),
        "sha256": [bad.sha256 or None for bad in INPUTS],
    }
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def out(servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder, built from all inputs with the real source and toy models."""
    _, where, authority = servers
    folder = tmp_path_factory.mktemp("bad")
    write_metadata(folder / "metadata.parquet")
    limits = ["fetch.timeout=2", "fetch.retries=0", "fetch.per_host=32", "fetch.max_bytes=200000", "image.min_size=16"]
    limits += ["image.max_aspect=8", "cluster.batch_rows=32", f"ingest.rows_per_shard={len(INPUTS)}"]
    config = toy_config(folder / "metadata.parquet", folder / "out", *limits)
    config = config.model_copy(update={"fetch": config.fetch.model_copy(update={"connect_to": where})})
    fetcher = partial(Fetcher, lookup=names(NAMES), ssl_context=authority.trust())
    plain_run(config, Parts(lambda: UrlSource(config, fetcher), toy_parts(config).stages))
    return folder / "out"


def test_every_input_ends_in_its_reason(out: Path) -> None:
    ledger = read_ledger(f"{out}/ledger/00000.parquet").to_pylist()
    after_decoding = {"segment", "judge_mask", "inpaint", "judge_inpainting"}  # the toy judges' taste is of no concern
    found = [None if row["stage"] in after_decoding else row["reason"] or None for row in ledger]
    wrong = {
        (bad.url[:80], bad.caption[:40], row["detail"]): (reason, bad.reason)
        for bad, row, reason in zip(INPUTS, ledger, found, strict=True)
        if reason != (bad.reason.value if bad.reason else None)
    }
    assert wrong == {}


def test_nothing_is_written_that_harms_a_reader(out: Path) -> None:
    ledger = read_ledger(f"{out}/ledger/00000.parquet").to_pylist()
    assert all(row["detail"].isprintable() for row in ledger)
    assert not [row["url"] for row in ledger if "secret" in row["url"] or "password" in row["url"]]
    assert [finding for finding in verify(str(out), deep=True) if finding.serious] == []
    texts = [triplet.caption for triplet in open_triplets(f"{out}/shards/00000.tar")]
    assert texts, "some images are kept"
    assert all(text.encode("utf-8") for text in texts)


def test_only_the_servers_were_connected_to(servers, out: Path) -> None:
    web, *sisters = servers[0]
    visited = {path.partition("?")[0] for path in web.paths()}
    wanted = {bad.url.removeprefix(f"http://{WEB}") for bad in INPUTS if bad.url.startswith(f"http://{WEB}/")}
    refused = {bad.url.removeprefix(f"http://{WEB}") for bad in INPUTS if bad.reason is bad_inputs.Reason.BAD_CAPTION}
    assert wanted - refused <= visited
    assert not refused & visited, "what ingestion refuses is not fetched"
    assert all(not sister.visits for sister in sisters), "no request goes over a connection that is not trusted"


def test_every_answer_of_the_lists_is_in_a_family() -> None:
    served = {bad.url.removeprefix(f"http://{WEB}") for bad in INPUTS}
    assert {path for paths in bad_inputs.BAD_ANSWERS.values() for path in paths} <= served
    assert set(bad_inputs.SLOW_ANSWERS) <= served
    assert len({(bad.url, bad.caption) for bad in INPUTS}) == len(INPUTS)
    assert all(isinstance(bad, Bad) for bad in INPUTS)


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "bad-inputs.md"
    assert page.read_text(encoding="utf-8") == bad_inputs.table(), "run: python tests/bad_inputs.py"
