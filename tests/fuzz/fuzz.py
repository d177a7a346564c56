"""Coverage-guided fuzzing: ``python tests/fuzz/fuzz.py TARGET [libFuzzer options]`` (``make fuzz TARGET= SECONDS=``).

What is found is written to the working folder as ``crash-*``; give that file as last argument to see it again.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["l2i_builder"]):
    from targets import TARGETS

from corpus import seeds


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"give a target: {', '.join(TARGETS)}")
    target, *options = sys.argv[1:]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="l2i-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(target, Path(folder))):
            (corpus / str(number)).write_bytes(seed)
        replayed = [option for option in options if not option.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *([] if replayed else [str(corpus)])], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
