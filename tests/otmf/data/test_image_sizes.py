"""What decoding will take, told without decoding."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from otmf.data import image_sizes, images


def saved(picture: Image.Image, form: str, **keys: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **keys)
    return stream.getvalue()


@pytest.mark.parametrize("form", images.FORMATS)
def test_head_of_each_format_tells_the_size(form) -> None:
    assert image_sizes.pixels(saved(Image.new("RGB", (30, 20), "red"), form)) == 600


def test_large_picture_in_a_small_file_is_not_decoded_to_be_counted() -> None:
    content = saved(Image.new("1", (9000, 9000)), "PNG")
    assert len(content) < 20_000
    assert image_sizes.pixels(content) == 81_000_000


def test_picture_that_no_decoder_would_take_counts_as_too_many() -> None:
    content = saved(Image.new("1", (30_000, 30_000)), "PNG")
    assert image_sizes.pixels(content) > 100_000_000


def test_jpeg_of_many_scans_counts_as_the_work_it_is() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    content = saved(noise, "JPEG", progressive=True)
    assert image_sizes.pixels(content) == 256
    scan = content.index(b"\xff\xda")
    once_more = content[scan : content.index(b"\xff", scan + 2)]
    assert image_sizes.pixels(content[:-2] + once_more * 160 + content[-2:]) >= 256 * 10


def test_tile_larger_than_its_picture_counts() -> None:
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 20_000, 324: 8, 325: 8}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + b"\0" * 4
    assert image_sizes.pixels(content) == 600_000_000


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"BM" + b"\xff" * 60])
def test_what_no_decoder_takes_counts_as_nothing(content) -> None:
    assert image_sizes.pixels(content) == 0
