"""Text-paired layered images from web-scale image-text pairs: ``build`` makes a dataset, ``open_dataset`` reads one."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "build", "open_dataset"]

if TYPE_CHECKING:
    from l2i_builder.api import build, open_dataset
else:

    def __getattr__(name: str) -> object:
        """What is heavy is imported when it is asked for."""
        if name in __all__:
            from l2i_builder import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
