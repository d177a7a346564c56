"""The main job: metadata in, shards of layered images out.

Without ``--metadata`` it builds from the sample photographs: gathers them once, serves them on loopback
together with what the web really does, and runs the same pipeline over them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2i_builder import cli
from pipelines.sample_laion import SampleWeb, gather

SAMPLE_CONFIG = Path(__file__).with_name("sample.yaml")
SAMPLE_FOLDER = Path("runs/sample-web")
SAMPLE_OUT = "runs/sample"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file (default: the sample's, without --metadata)")
    parser.add_argument("--metadata", help="parquet file, folder or glob; local or URL")
    parser.add_argument("--out", help="output folder; local or URL")
    arguments, rest = parser.parse_known_args()
    if arguments.metadata:
        run(arguments.config, arguments.metadata, arguments.out, rest)
        return
    gather(SAMPLE_FOLDER)
    with SampleWeb(SAMPLE_FOLDER) as web:
        # The one way to a private address, and only for the sample's own server.
        allow = [f"--set=fetch.connect_to={web.connect_to}"]
        config = arguments.config or str(SAMPLE_CONFIG)
        run(config, str(SAMPLE_FOLDER / "metadata.parquet"), arguments.out or SAMPLE_OUT, allow + rest)


def run(config: str | None, metadata: str, out: str | None, rest: list[str]) -> None:
    named = {"--config": config, "--metadata": metadata, "--out": out}
    sys.argv = ["l2i", "build", *(f"{name}={value}" for name, value in named.items() if value), *rest]
    cli.main()


if __name__ == "__main__":
    main()
