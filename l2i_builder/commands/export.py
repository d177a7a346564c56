"""``l2i export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from l2i_builder.commands import console, log

if TYPE_CHECKING:
    from l2i_builder.sample import LayeredSample
    from model.export import LayeredImage


def export(
    source: Annotated[str, typer.Argument(help="Output folder of a run, or one of its tars; local or URL.")],
    key: Annotated[list[str], typer.Option("--key", "-k", help="Key of a stored sample. Repeatable.")],
    out: Annotated[str, typer.Option("--out", "-o", help="File: .psd, .ora, or .png for a set; local or URL.")],
    pad: Annotated[
        bool, typer.Option(help="Carry the objects' colours outwards, so that edits show no halo. Changes F.")
    ] = False,
) -> None:
    """Write stored samples as layered files: the background, and over it every object with its mask.

    The layers are those of the shard, pixel for pixel, unless they are padded. Several samples are numbered.

    Examples:

      l2i export runs/sample -k 6f2a90c6f5f8f1f0b7d5b6a1c4e3d2b1 -o kitten.psd

      l2i export s3://me/l2i/shards/00042.tar -k 6f2a90c6f5f8f1f0b7d5b6a1c4e3d2b1 -o kitten.ora --pad
    """
    from l2i_builder.output.layered import stored_layers
    from model.export import check_suffix, save

    check_suffix(out)  # before anything slow
    with log.status("looking for the samples"):
        images = [_image(sample) for sample in stored_layers(source, key)]
    for path in save([image.padded() for image in images] if pad else images, out):
        console.print(path, soft_wrap=True, markup=False)


def _image(sample: LayeredSample) -> LayeredImage:
    from model.export import LayeredImage

    lowest, *others = [(layer[..., :3], layer[..., 3]) for layer in reversed(sample.layers)]
    numbers = range(len(sample.layers), 0, -1)  # as the members of the shard are numbered, front to back
    names = tuple(f"foreground {number}" if number > 1 else "foreground" for number in numbers)
    return LayeredImage(sample.background, *lowest, sample.caption, tuple(others), names)
