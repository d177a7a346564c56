"""Starting the review app: opening the run, the address, the token, where the labels go."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from l2i_builder import storage
from l2i_builder.errors import ConfigError
from l2i_builder.labels import SQLITE, LabelStore
from l2i_builder.review.guard import MIN_TOKEN, is_loopback, own_names
from l2i_builder.review.samples import Samples
from l2i_builder.review.tars import Tars

SHARDS = 64  # opened unless told otherwise: a hundred thousand samples of a large run


@dataclass(frozen=True)
class Address:
    """Where to listen. token: "" = none is asked for; allow: further names that the page is opened under."""

    host: str = "127.0.0.1"
    port: int = 8765
    token: str = ""
    allow: tuple[str, ...] = ()


def secured(address: Address) -> Address:
    """Return the address with a token where one is needed: everywhere but on this machine alone.

    Raises ConfigError on a token that could be guessed.
    """
    token = address.token
    if token and len(token) < MIN_TOKEN:
        raise ConfigError(f"the token has {len(token)} characters; give at least {MIN_TOKEN}, or none to get one.")
    if not token and not is_loopback(address.host):
        token = secrets.token_urlsafe(32)
    return Address(address.host, address.port, token, address.allow)


def labels_path(out: str, given: str, digest: str) -> str:
    """Return the label file: as given, else ``labels.sqlite`` in a local run's folder.

    SQLite needs a local file: for a run in an object store it is in the current folder, named for the run.
    """
    if given:
        if not storage.is_local(given):
            raise ConfigError(f"--labels {given} is no local path; `l2i labels export` writes to object stores.")
        return given
    return storage.join(out, SQLITE) if storage.is_local(out) else f"labels-{digest[:12]}.sqlite"


def open_samples(out: str, shards: int, log: Console) -> Samples:
    """Open a run's finished shards, showing how far it is. Raises OutputError where ``out`` holds no run."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    samples = Samples(out, shards, Tars(Path(user) / "l2i-builder" / "tars"))
    columns = (TextColumn("opening shards"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as bar:
        task = bar.add_task("", total=None)
        samples.open(lambda done, all: bar.update(task, completed=done, total=all))
    return samples


def listen(address: Address) -> socket.socket:
    """Return a listening socket. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as problem:
        raise ConfigError(
            f"cannot listen on {address.host} port {address.port}: {problem.strerror or problem}. "
            "Give another --port (0 = any free one), or another --host."
        ) from problem


def links(address: Address, port: int) -> Iterable[str]:
    """Return the links to open. The token is behind #, which browsers do not send and servers do not log."""
    everywhere = address.host in ("0.0.0.0", "::")
    names = [socket.gethostname()] if everywhere else [address.host]
    for name in dict.fromkeys([*names, *address.allow]):
        host = f"[{name}]" if ":" in name else name
        yield f"http://{host}:{port}/" + (f"#token={address.token}" if address.token else "")


def review(out: str, address: Address, labels: str, shards: int, log: Console) -> None:
    """Serve the review app until it is interrupted. Raises ConfigError, OutputError."""
    address = secured(address)
    samples = open_samples(out, shards, log)
    with closing(listen(address)) as listening, LabelStore(labels_path(out, labels, samples.run.digest)) as store:
        port = listening.getsockname()[1]
        _tell(samples, store, address, port, log)
        serve(samples, store, address, listening)
        log.print(f"\nLabels are in {store.path}; `l2i labels export` makes parquet of them.", soft_wrap=True)


def serve(
    samples: Samples,
    store: LabelStore,
    address: Address,
    listening: socket.socket,
    ready: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Serve on a listening socket until a signal, or until the function that ``ready`` is given is called."""
    import uvicorn

    from l2i_builder.review.app import Review, make_app

    hosts = own_names(address.host) | {name.lower() for name in address.allow}
    app = make_app(Review(samples, store), address.token, hosts, any_address=not is_loopback(address.host))
    # The parser in Python, whatever is installed beside it: strict, and fast enough for people.
    parts = {"http": "h11", "loop": "asyncio", "ws": "none", "lifespan": "off"}
    quiet = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}
    limits = {"timeout_graceful_shutdown": 2, "limit_concurrency": 256}
    settings = uvicorn.Config(app, **parts, **quiet, **limits)  # type: ignore[arg-type]
    server = uvicorn.Server(settings)

    def stop() -> None:
        server.should_exit = True

    if ready:
        ready(stop)
    with suppress(KeyboardInterrupt):
        asyncio.run(server.serve(sockets=[listening]))


def _tell(samples: Samples, store: LabelStore, address: Address, port: int, log: Console) -> None:
    run, count = samples.run, len(samples.by_key)
    log.print(f"{count:,} samples of {len(samples.opened):,} of {len(run.finished):,} finished shards", highlight=False)
    for text in samples.problems.values():
        log.print(text, style="yellow", markup=False, soft_wrap=True)
    log.print(f"labels   {store.path}", soft_wrap=True, markup=False, highlight=False)
    for link in links(address, port):
        log.print(f"open     {link}", soft_wrap=True, markup=False, highlight=False)
    if not is_loopback(address.host):
        log.print(
            "Whoever has the link can judge. The connection is not encrypted: use it in a network you trust, or behind "
            "TLS (a proxy, or ssh -L).",
            style="yellow",
        )
    log.print("Ctrl-C ends it; labels are saved as they are given.")
