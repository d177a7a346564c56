"""Errors a user can mend, each with the exit status the CLI ends with.

Everything a person can get wrong raises one of these, with a sentence that says what to do next.
The CLI prints the sentence without a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class L2IError(Exception):
    """Base of all errors that are the user's to mend. ``exit_code`` is the CLI's exit status."""

    exit_code = 1


class ConfigError(L2IError):
    """A configuration key, value or override is wrong, or the output belongs to another configuration."""

    exit_code = 2


class MetadataError(L2IError):
    """The metadata cannot be read, is empty, or lacks a URL or caption column."""

    exit_code = 3


class WeightsError(L2IError):
    """Weights are missing, cannot be fetched, or do not have the pinned SHA-256."""

    exit_code = 4


class OutputError(L2IError):
    """The output folder cannot be written, or holds a damaged or foreign file."""

    exit_code = 5


class ShardsFailedError(L2IError):
    """The run ended, but some shards failed every attempt; ``failed``: their names -> the last error."""

    exit_code = 6

    def __init__(self, message: str, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})


class VerifyError(L2IError):
    """``l2i verify`` found damage."""

    exit_code = 7


class ClusterError(L2IError):
    """Ray cannot be started or reached, or has not the resources the configuration asks for."""

    exit_code = 8
