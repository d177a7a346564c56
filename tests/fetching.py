"""Fetching with one fetcher, as tests do it."""

import asyncio
import socket
from collections.abc import Callable

from hostile_web import HostileWeb

from l2i_builder.config import Fetch
from l2i_builder.fetch.fetcher import Fetched, Fetcher

SETTINGS = {"retries": 0, "timeout": 10.0, "max_bytes": 100_000}


def fetch_all(web: HostileWeb, urls: list[str], *, lookup=None, ssl_context=None, **settings) -> list[Fetched]:
    """Fetch one after another with one fetcher. The only names that exist are those of ``connect_to``."""
    config = Fetch(**{"connect_to": web.connect_to, **SETTINGS, **settings})

    async def main() -> list[Fetched]:
        async with Fetcher(config, lookup=lookup or nobody, ssl_context=ssl_context) as fetcher:
            return [await fetcher.fetch(url) for url in urls]

    return asyncio.run(main())


def fetch(web: HostileWeb, url: str, **settings) -> Fetched:
    return fetch_all(web, [web.url(url) if url.startswith("/") else url], **settings)[0]


async def nobody(host: str, port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "no such host")


def names(table: dict[str, str]) -> Callable:
    """A look-up that knows these hosts: name -> addresses."""

    async def lookup(host: str, port: int) -> list[str]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return table[host].split()

    return lookup
