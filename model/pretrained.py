"""Models of diffusers, from a folder or the hub."""

from __future__ import annotations

from typing import Any

from l2i_builder.errors import WeightsError
from model.messages import said


def load_pretrained(kind: type, section: str, source: str, subfolder: str = "", revision: str = "") -> Any:
    """Return the model of a diffusers class that lies at ``source``, a folder or hub id; safetensors only.

    section: of the configuration, for the advice. Raises WeightsError when there is none that can be loaded.
    """
    try:
        return kind.from_pretrained(  # type: ignore[attr-defined]
            source,
            subfolder=subfolder or None,
            revision=revision or None,
            use_safetensors=True,  # a pickle can run code
            low_cpu_mem_usage=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{section}.source {source!r} holds no {kind.__name__} that can be loaded: {said(error)}. Check the path, "
            f"{section}.revision and {section}.subfolder, and that its weights are safetensors"
        ) from error
