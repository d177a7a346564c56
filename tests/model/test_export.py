"""Layered images as files: PSD, OpenRaster, PNGs, contact sheets."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage
from tiny_layers import disc

from l2i_builder import layers
from l2i_builder.errors import ConfigError
from l2i_builder.storage import read_bytes
from model.export import LayeredImage, contact_sheet, save, save_sheet, to_ora, to_pngs, to_psd

IMAGE = disc()


def three() -> LayeredImage:
    green = disc(colour=(20, 200, 60))
    assert green.foreground is not None
    assert green.mask is not None
    shifted = (np.roll(green.foreground, 9, 1), np.roll(green.mask, 9, 1))
    return LayeredImage(IMAGE.background, IMAGE.foreground, IMAGE.mask, "two discs", (shifted,))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_psd_holds_the_layers_exactly_and_shows_their_composite() -> None:
    psd = PSDImage.open(io.BytesIO(to_psd(IMAGE)))
    assert [layer.name for layer in psd] == ["background", "foreground: a red disc"]
    assert np.array_equal(np.rint(psd[0].numpy("color") * 255), IMAGE.background)
    assert np.array_equal(np.rint(psd[1].numpy("color") * 255), IMAGE.foreground)
    assert np.array_equal(np.asarray(psd[1].mask.topil()), IMAGE.mask)
    assert np.array_equal(np.asarray(psd.topil().convert("RGB")), IMAGE.composite)


def test_another_programs_composite_of_the_psd_is_ours() -> None:
    drawn = np.asarray(PSDImage.open(io.BytesIO(to_psd(three()))).composite(force=True).convert("RGB")).astype(int)
    assert np.abs(drawn - three().composite).max() <= 2  # one step of rounding for each layer


def test_openraster_is_a_zip_whose_first_member_says_what_it_is() -> None:
    data = to_ora(IMAGE)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read(first) == b"image/openraster"
        assert archive.testzip() is None
    assert data[30:38] == b"mimetype"  # where file(1) and desktops look
    assert data[38:54] == b"image/openraster"


def test_openraster_layers_read_back_equal_top_first() -> None:
    with zipfile.ZipFile(io.BytesIO(to_ora(three()))) as archive:
        root = ElementTree.fromstring(archive.read("stack.xml"))
        assert (root.tag, root.get("w"), root.get("h")) == ("image", "64", "64")
        entries = root.findall("stack/layer")
        assert [entry.get("name") for entry in entries] == [
            "foreground 2: two discs",
            "foreground: two discs",
            "background",
        ]
        pixels = [decoded(archive.read(str(entry.get("src")))) for entry in entries]
        assert np.array_equal(pixels[2], IMAGE.background)
        assert np.array_equal(pixels[1], np.dstack([IMAGE.foreground, IMAGE.mask]))
        assert np.array_equal(decoded(archive.read("mergedimage.png")), three().composite)
        assert max(decoded(archive.read("Thumbnails/thumbnail.png")).shape[:2]) <= 256


def test_the_same_image_gives_the_same_bytes() -> None:
    assert to_ora(IMAGE) == to_ora(disc())
    assert to_psd(IMAGE) == to_psd(disc())


def test_names_of_layers_survive_any_prompt() -> None:
    bad = disc(prompt='a "dog" & <cat>\n\0\x1b[31m ' + "long " * 60)
    with zipfile.ZipFile(io.BytesIO(to_ora(bad))) as archive:
        name = ElementTree.fromstring(archive.read("stack.xml")).findall("stack/layer")[0].get("name")
    assert name is not None
    assert name.startswith('foreground: a "dog" & <cat> [31m long')
    assert PSDImage.open(io.BytesIO(to_psd(bad)))[1].name.startswith('foreground: a "dog" & <cat>')


def test_pngs_hold_each_part() -> None:
    files = to_pngs(three())
    assert set(files) == {
        *("composite", "background", "foreground", "mask", "cutout"),
        *("foreground2", "mask2", "cutout2"),
    }
    assert np.array_equal(decoded(files["mask"]), IMAGE.mask)
    assert np.array_equal(decoded(files["cutout"]), np.dstack([IMAGE.foreground, IMAGE.mask]))


def test_padding_keeps_trusted_colours_and_carries_them_outwards() -> None:
    foreground, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    foreground[:, 3], mask[:, 3] = (10, 200, 30), 255
    foreground[:, 4], mask[:, 4] = (90, 90, 90), 100  # a colour mixed with the old background
    padded = LayeredImage(foreground, foreground, mask).padded().foreground
    assert padded is not None
    assert np.array_equal(padded, np.broadcast_to(np.array([10, 200, 30]), (8, 8, 3)))


def test_a_padded_foreground_has_no_halo_on_another_background() -> None:
    """Moved to white, every pixel of a cut-out lies between its own colour and white: there is no dark rim."""
    white = np.full_like(IMAGE.background, 255)
    assert IMAGE.mask is not None
    soft = np.clip(IMAGE.mask.astype(int) * 2, 0, 255).astype(np.uint8)  # an edit: the edge is pushed outwards

    def darkest(image: LayeredImage) -> int:
        assert image.foreground is not None
        return int(layers.composite(image.foreground, white, soft)[:, :, 0].min())  # the disc's red is 220

    assert darkest(IMAGE) < 190
    assert darkest(IMAGE.padded()) > 200


def test_padding_changes_the_composite_little() -> None:
    change = np.abs(IMAGE.padded().composite.astype(int) - IMAGE.composite)
    assert change.mean() < 1.5


def test_an_empty_mask_has_no_colours_to_carry() -> None:
    picture = np.full((8, 8, 3), 7, np.uint8)
    padded = LayeredImage(picture, picture, np.zeros((8, 8), np.uint8)).padded().foreground
    assert padded is not None
    assert np.array_equal(padded, picture)


def test_a_contact_sheet_has_a_row_for_each_image() -> None:
    sheet = contact_sheet([IMAGE, three(), IMAGE], cell=64)
    assert sheet.shape == (30 + 3 * 94, 8 + 5 * 72, 3)
    assert np.array_equal(sheet[30:94, 8:72], IMAGE.composite)
    assert np.array_equal(sheet[30:94, 8 + 4 * 72 : 8 + 4 * 72 + 64, 0], IMAGE.mask)
    assert np.array_equal(sheet[124:188, 8:72], three().composite)


def test_a_plain_picture_is_shown_and_saved_without_layers(tmp_path: Path) -> None:
    plain = LayeredImage(IMAGE.background, prompt="no layers")
    assert contact_sheet([plain], cell=64).shape == (124, 80, 3)
    assert set(to_pngs(plain)) == {"composite", "background"}
    assert [layer.name for layer in PSDImage.open(io.BytesIO(to_psd(plain)))] == ["background"]
    assert plain.padded() is plain


def test_files_are_written_by_their_suffix(tmp_path: Path) -> None:
    assert save([IMAGE], f"{tmp_path}/dog.psd") == [f"{tmp_path}/dog.psd"]
    assert save([IMAGE, IMAGE], f"{tmp_path}/dog.ora") == [f"{tmp_path}/dog-000.ora", f"{tmp_path}/dog-001.ora"]
    assert len(save([IMAGE], f"{tmp_path}/dog.PNG")) == 5
    assert (tmp_path / "dog.composite.png").is_file()
    assert read_bytes(save([IMAGE], "memory://layers/dog.ora")[0]) == to_ora(IMAGE)
    with pytest.raises(ConfigError, match=r"\.psd, \.ora or \.png"):
        save([IMAGE], f"{tmp_path}/dog.xcf")


def test_a_sheet_is_a_png(tmp_path: Path) -> None:
    save_sheet([IMAGE], f"{tmp_path}/sheet.png", cell=64)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), contact_sheet([IMAGE], cell=64))
