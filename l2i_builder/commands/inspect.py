"""``l2i verify`` and ``l2i report``."""

from __future__ import annotations

from typing import Annotated

import typer

from l2i_builder.commands import OutArgument, console, log
from l2i_builder.errors import VerifyError


def verify(
    out: OutArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every triplet and check its layers.")] = False,
) -> None:
    """Prove a run complete and undamaged: counts, digests, ledgers against shards, every row accounted for."""
    from l2i_builder.output.verify import verify as check

    with log.status("verifying"):
        findings = check(out, deep)
    for finding in findings:
        console.print(finding.file, style="red" if finding.serious else "yellow", end=": ", markup=False)
        console.print(f"{finding.what}\n  {finding.advice}", soft_wrap=True, markup=False)
    serious = sum(finding.serious for finding in findings)
    if serious:
        raise VerifyError(f"{serious} of {len(findings)} findings in {out} are damage.")
    console.print(f"{out}: complete and undamaged" + (", every triplet decodes" if deep else ""), soft_wrap=True)


def report(out: OutArgument) -> None:
    """Write the filter report of a run (report.html, one self-contained file, and report.json)."""
    from l2i_builder.report import write_report

    console.print(write_report(out), soft_wrap=True)
