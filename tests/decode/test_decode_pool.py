"""DecoderPool: a hostile image costs its own row, and nothing else."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import psutil
import pytest
from pictures import BAD_IMAGES, needs_bad_images
from PIL import Image

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode.decoder import DecodeRefusal, decode
from l2i_builder.decode.pool import DecoderPool
from l2i_builder.errors import ClusterError
from l2i_builder.sample import Reason

# What a child runs in these tests: obeys its "image", else decodes as ever.
DECODER = """
    import ctypes, os, sys, time
    from l2i_builder.decode.decoder import decode as really_decode

    def decode(data, config):
        if data == b"abort":
            os.abort()
        if data == b"segfault":
            ctypes.string_at(0)
        if data == b"exit":
            os._exit(7)
        if data == b"raise":
            raise ZeroDivisionError
        if data == b"hang":
            time.sleep(1000)
        if data == b"hog":
            held = [bytearray(2**26) for _ in range(1000)]
        if data == b"chatter":
            os.write(1, b"out" * 100_000)
            os.write(2, b"err" * 100_000)
        if data == b"environment":
            from l2i_builder.decode.decoder import DecodeRefusal
            from l2i_builder.sample import Reason
            raise DecodeRefusal(Reason.DECODE_ERROR, " ".join(sorted(os.environ)))
        return really_decode(PICTURE if data in (b"chatter",) else data, config)
"""


def png(colour, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def config(**changes):
    return ImageConfig(**{"size": 32, "min_size": 1, "decode_timeout": 60, "decode_memory_mb": 1024, **changes})


def children():
    """The decoder processes of this one. Others that have ended may wait beside them for whoever started them."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "l2i_builder.decode.child" in process.cmdline():
                found.append(process)
    return found


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    code = textwrap.dedent(DECODER) + f"\nPICTURE = {png((1, 2, 3))!r}\n"
    (tmp_path / "obedient_decoder.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "obedient_decoder:decode"


def outcomes(images, workers=1, decoder="l2i_builder.decode.decoder:decode", **changes):
    """What the pool makes of each image, all asked for at once: a Decoded or the DecodeRefusal."""

    async def run():
        pool = DecoderPool(config(**changes), workers, decoder)
        try:
            return await asyncio.gather(*map(pool.decode, images), return_exceptions=True)
        finally:
            pool.close()

    return asyncio.run(run())


def test_children_decode_as_the_function_does():
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    Image.effect_noise((90, 60), 50).convert("RGB").save(buffer, "JPEG", exif=exif)
    here, there = decode(buffer.getvalue(), config()), outcomes([buffer.getvalue()])[0]
    np.testing.assert_array_equal(there.image, here.image)
    assert (there.width, there.height, there.format, there.notes) == (60, 90, "JPEG", ("exif-rotated",))
    assert there.image.flags.c_contiguous
    assert there.image.flags.writeable


def test_each_answer_belongs_to_its_image():
    colours = [(i, 255 - i, i // 2) for i in range(0, 250, 5)]
    results = outcomes([png(colour) for colour in colours], workers=3)
    assert [tuple(result.image[0, 0].tolist()) for result in results] == colours


def test_files_larger_than_a_sockets_buffer_arrive_whole():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)).save(buffer, "PNG")
    files = [buffer.getvalue(), png((1, 2, 3)), buffer.getvalue()]
    assert len(files[0]) > 2**21
    for file, result in zip(files, outcomes(files), strict=True):
        np.testing.assert_array_equal(result.image, decode(file, config()).image)


def test_pixels_go_where_the_caller_says_and_refused_files_ask_for_no_place():
    places = np.zeros((3, 32, 32, 3), np.uint8)
    given = iter(places)

    async def run():
        pool = DecoderPool(config())
        try:
            files = [png((1, 2, 3)), b"no picture", png((4, 5, 6))]
            tasks = (pool.decode(file, lambda: next(given)) for file in files)
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            pool.close()

    first, refused, last = asyncio.run(run())
    assert np.shares_memory(first.image, places[0])
    assert isinstance(refused, DecodeRefusal)
    assert np.shares_memory(last.image, places[1])
    assert [tuple(place[0, 0]) for place in places] == [(1, 2, 3), (4, 5, 6), (0, 0, 0)]


def test_refusals_come_through_with_reason_and_detail():
    results = outcomes([b"<html>", png((0, 0, 0), (2, 2)), b""], min_size=10)
    assert [r.reason for r in results] == [Reason.NOT_IMAGE, Reason.TOO_SMALL, Reason.EMPTY_BODY]
    assert results[1].detail == "2x2, shorter side below image.min_size (10)"


@pytest.mark.parametrize(
    ("order", "detail"),
    [
        (b"abort", "the decoder was killed by SIGABRT"),
        (b"segfault", "the decoder was killed by SIGSEGV"),
        (b"exit", "the decoder ended with status 7"),
        (b"raise", "the decoder ended with status 1"),
    ],
)
def test_a_crash_costs_its_image_alone(decoder, order, detail):
    good = png((9, 8, 7))
    before, crashed, after, again = outcomes([good, order, good, order], decoder=decoder)
    assert crashed.reason is again.reason is Reason.DECODER_CRASHED
    assert crashed.detail == again.detail == detail
    for decoded in (before, after):
        assert decoded.image[0, 0].tolist() == [9, 8, 7]


def test_a_hang_is_ended_by_the_time_limit(decoder):
    good = png((9, 8, 7))
    hung, after = outcomes([b"hang", good], decoder=decoder, decode_timeout=1.5)
    assert hung.reason is Reason.DECODE_TIMEOUT
    assert hung.detail == "longer than image.decode_timeout (1.5 s)"
    assert after.image[0, 0].tolist() == [9, 8, 7]


def test_starting_a_child_takes_nothing_off_an_images_time(tmp_path, monkeypatch):
    (tmp_path / "late_decoder.py").write_text(
        "import time; time.sleep(4); from l2i_builder.decode.decoder import decode"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert outcomes([png((9, 8, 7))], decoder="late_decoder:decode", decode_timeout=3)[0].format == "PNG"


def test_memory_is_limited(decoder):
    good = png((9, 8, 7))
    hogged, after = outcomes([b"hog", good], decoder=decoder, decode_memory_mb=512)
    assert hogged.reason is Reason.DECODER_CRASHED
    assert after.image[0, 0].tolist() == [9, 8, 7]


def test_an_image_too_large_for_the_memory_limit_says_so():
    """The real decoder: 60 million pixels of RGBA are 240 MB before anything is done with them."""
    refused, after = outcomes([png((0, 0, 0), (8000, 7500)), png((9, 8, 7))], decode_memory_mb=300)
    assert refused.reason is Reason.DECODER_CRASHED
    assert refused.detail == "needs more than image.decode_memory_mb (300)"
    assert after.image[0, 0].tolist() == [9, 8, 7]


def test_what_libraries_print_does_not_disturb(decoder, capfd):
    assert outcomes([b"chatter"], decoder=decoder)[0].image[0, 0].tolist() == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_children_do_not_see_the_environment(decoder, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for decoders")
    assert "AWS" not in outcomes([b"environment"], decoder=decoder)[0].detail


def test_a_child_that_died_idle_is_replaced_without_blame():
    before = set(children())

    async def run():
        pool = DecoderPool(config(), 1)
        try:
            await pool.decode(png((1, 1, 1)))
            (child,) = set(children()) - before
            child.kill()
            child.wait()
            return await pool.decode(png((9, 8, 7)))
        finally:
            pool.close()

    assert asyncio.run(run()).image[0, 0].tolist() == [9, 8, 7]


def test_a_cancelled_image_does_not_answer_for_the_next(decoder):
    async def run():
        pool = DecoderPool(config(), 1, decoder)
        try:
            await pool.decode(png((1, 1, 1)))
            cancelled = asyncio.create_task(pool.decode(b"hang"))
            await asyncio.sleep(0.2)
            cancelled.cancel()
            after = await pool.decode(png((9, 8, 7)))
            assert cancelled.cancelled()
            return after
        finally:
            pool.close()

    assert asyncio.run(run()).image[0, 0].tolist() == [9, 8, 7]


def test_a_decoder_that_cannot_start_is_the_operators_to_mend(capfd):
    (error,) = outcomes([png((1, 1, 1))], decoder="no_such_module:decode")
    assert isinstance(error, ClusterError)
    assert "does not start" in str(error)
    assert "no_such_module" in capfd.readouterr().err


def test_close_leaves_no_process_behind():
    before = set(children())
    outcomes([png((1, 1, 1))] * 4, workers=2)
    assert set(children()) <= before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphaned children on Linux only")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of an image"])
def test_children_die_with_their_parent(decoder, tmp_path, busy):
    code = f"""
        import asyncio, psutil
        from l2i_builder.config import Image
        from l2i_builder.decode.pool import DecoderPool

        async def main():
            pool = DecoderPool(Image(min_size=1), 1, {decoder!r})
            await pool.decode({png((1, 1, 1))!r})
            print(psutil.Process().children()[0].pid, flush=True)
            await (pool.decode(b"hang") if {busy} else asyncio.sleep(1000))

        asyncio.run(main())
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    child.wait(60)  # raises TimeoutExpired
    assert not child.is_running()


def test_busy_seconds_count_decoding():
    async def run():
        pool = DecoderPool(config(), 1)
        try:
            start = time.perf_counter()
            await asyncio.gather(*(pool.decode(png((1, 1, 1))) for _ in range(3)))
            return pool.busy_seconds, time.perf_counter() - start
        finally:
            pool.close()

    busy, wall = asyncio.run(run())
    assert 0 < busy <= wall


@pytest.mark.slow
@needs_bad_images
def test_real_malformed_files_end_in_an_image_or_a_reason():
    """Hundreds of files that broke other decoders: none may crash or hang this one."""
    names = ("LICENSE", "SOURCE", "MANIFEST.tsv", "LICENSE-MIT", "LICENSE-APACHE")
    files = [file for file in BAD_IMAGES.rglob("*") if file.is_file() and file.name not in names]
    results = outcomes([file.read_bytes() for file in files], workers=2, max_aspect=1000)
    reasons = Counter(str(result.reason) if isinstance(result, DecodeRefusal) else "image" for result in results)
    assert set(reasons) <= {
        *("image", "decode_error", "decode_truncated", "unsupported_format", "not_image"),
        *("too_many_pixels", "animated", "bad_aspect", "too_small"),
    }
    assert reasons["image"] > len(files) / 2


def test_refusals_inside_the_parent_are_exceptions_like_any():
    with pytest.raises(DecodeRefusal, match="not_image: this is text"):
        raise outcomes([b"words"])[0]
