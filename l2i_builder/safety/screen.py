"""The screen at the entrance: rows that were taken down, files and pictures that are on a blocklist."""

from __future__ import annotations

from collections.abc import Sequence

from l2i_builder.config import Config
from l2i_builder.output.tombstones import STAGE, Takedowns, all_takedowns
from l2i_builder.safety.blocklists import Blocklists
from l2i_builder.sample import Reason, Row

Refusal = tuple[Reason, str, str]  # reason, stage, detail


class Screen:
    """What a source asks before it fetches, decodes and hands out. takedowns: of this output folder and of others."""

    def __init__(self, blocklists: Blocklists, takedowns: Takedowns) -> None:
        self.blocklists, self.takedowns = blocklists, takedowns

    @classmethod
    def of(cls, config: Config, blocklists: Blocklists) -> Screen:
        """Read the logs of takedowns as they are now. Raises L2IError where one is damaged or missing."""
        return cls(blocklists, all_takedowns(config))

    def rows(self, rows: Sequence[Row]) -> None:
        """Refuse the rows that were taken down, before anything of them is fetched."""
        for row in rows:
            if self.takedowns.names(row):
                row.refuse(Reason.TAKEN_DOWN, STAGE)

    def body(self, data: bytes, sha256: str) -> Refusal | None:
        """Return why a fetched file must not be decoded, None if it may."""
        if self.takedowns.holds("sha256", sha256):
            return Reason.TAKEN_DOWN, STAGE, ""
        if found := self.blocklists.body(data, sha256):
            return Reason.UNSAFE, "fetch", f"on a blocklist ({found})"
        return None

    def picture(self, pdq: str) -> Refusal | None:
        """Return why a decoded picture must not be handed out, None if it may. pdq: its hash, "" where unknown."""
        found = self.blocklists.picture(pdq)
        return (Reason.UNSAFE, "decode", f"on a blocklist ({found})") if found else None
