"""The funnel of a run: how many rows are left after each step, and whether every row is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

INPUT = "input rows"
# label of the step -> the stage whose refusals it has behind it
STEPS = {
    "pass the metadata filter": "ingest",
    "fetched": "fetch",
    "decoded": "decode",
    "segmented": "segment",
    "mask judged good": "judge_mask",
    "inpainted": "inpaint",
    "inpainting judged good": "judge_inpainting",
}
KEPT = "kept"


@dataclass(frozen=True)
class Funnel:
    """Rows left after each step. ``planned``: input rows of the finished shards, by the plan, -1 where unknown."""

    rows: list[tuple[str, int]]  # (label, count), from input to kept
    reasons: dict[str, int]  # reason -> rows
    kept: int
    planned: int

    @property
    def total(self) -> int:
        """Rows whose end is known: kept ones and those with a reason."""
        return self.kept + sum(self.reasons.values())

    @property
    def reconciles(self) -> bool:
        """Whether kept and refused rows add up to the plan's input rows: nothing lost, nothing twice."""
        return self.total == self.planned and self.rows[-1][1] == self.kept

    def table(self) -> Table:
        """Return the funnel as a table for the terminal."""
        from rich.table import Table

        table = Table("step", box=None, pad_edge=False)
        for heading in ("rows", "of previous", "of input"):
            table.add_column(heading, justify="right")
        before = self.rows[0][1]
        for label, count in self.rows:
            table.add_row(label, f"{count:,}", share(count, before), share(count, self.rows[0][1]))
            before = count
        if not self.reconciles:
            planned = f"{self.planned:,}" if self.planned >= 0 else "an unknown number of"
            table.caption = f"does not add up: {self.total:,} rows in ledgers, {planned} planned. Run `l2i verify`."
        return table


def make_funnel(counts: Mapping[tuple[str, str], int], planned: int) -> Funnel:
    """Make the funnel of ``counts``: (reason, stage) -> rows, with ("", "") for kept ones.

    What a stage that is no step refused (encode) is taken off at the end, in a step of its own.
    """
    kept = sum(count for (reason, _), count in counts.items() if not reason)
    reasons: dict[str, int] = {}
    lost: dict[str, int] = {}
    for (reason, stage), count in sorted(counts.items()):
        if reason:
            reasons[reason] = reasons.get(reason, 0) + count
            lost[stage] = lost.get(stage, 0) + count
    left = kept + sum(lost.values())
    rows = [(INPUT, left)]
    for label, stage in STEPS.items():
        left -= lost.get(stage, 0)
        rows.append((label, left))
    if left == kept:
        rows[-1] = (f"{rows[-1][0]} = {KEPT}", kept)
    else:
        rows.append((KEPT, kept))
    return Funnel(rows, reasons, kept, planned)


def share(part: int, whole: int) -> str:
    """Return a percentage with three significant digits' worth of detail, "–" of nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole + 1e-9  # halves go up, as on the page
    return f"{percent:.1f} %" if percent >= 1 or not part else f"{percent:.2g} %"
