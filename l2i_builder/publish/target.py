"""Where a dataset is published: what that kind of storage needs, said before anything is read or copied."""

from __future__ import annotations

from importlib.util import find_spec

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError

HUB = "hf://"


def check_target(to: str) -> None:
    """Raise ConfigError or OutputError where nothing could be written to ``to``, with what to do."""
    if to.startswith(HUB):
        check_hub(to)
    with storage.explained("reach", to, OutputError):
        fs, path = storage.filesystem(to)
        if fs.isfile(path):
            raise OutputError(f"{to} is a file. Give a folder.")
        if storage.is_local(to):
            storage.local_path(to).mkdir(parents=True, exist_ok=True)


def check_hub(to: str) -> None:
    """Raise ConfigError where the package or the token for the Hugging Face hub is missing, or the address is none."""
    if find_spec("huggingface_hub") is None:
        raise ConfigError(f"{to} needs the package huggingface_hub: pip install huggingface_hub")
    parts = to.removeprefix(HUB).strip("/").split("/")
    if parts[0] != "datasets" or len(parts) < 3:
        raise ConfigError(f"{to} names no dataset of the hub: write hf://datasets/<user or organisation>/<name>.")
    from huggingface_hub import get_token

    if not get_token():
        raise ConfigError(
            f"{to} needs a token that may write: make one at https://huggingface.co/settings/tokens, then run "
            "`hf auth login`, or set HF_TOKEN."
        )
