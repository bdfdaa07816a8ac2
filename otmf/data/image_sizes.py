"""What decoding a picture will take, told by the head of its file: small files can hold very large pictures. No torch here."""

from __future__ import annotations

import io
import re
import struct

from PIL import Image

from otmf.data import images

SCANS = 16  # of a JPEG; progressive ones have about ten, and each one beyond is work on the whole picture
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]")  # marker and length of a scan with one to four components
_TILE = (322, 323)  # TIFF's tags of a tile's width and height


def pixels(content: bytes) -> int:
    """Pixels that a decoder computes for a picture's file, without decoding it.

    A JPEG of many scans counts as many times as it would be computed, a TIFF with a tile larger than the picture as that tile.
    What no decoder takes counts as nothing: decoding it fails at once.
    """
    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as picture:
            found = picture.width * picture.height
            if picture.format == "JPEG":
                found *= max(1, len(_SCAN.findall(content)) // SCANS)
            if picture.format == "TIFF":
                width, height = (picture.tag_v2.get(tag, 0) for tag in _TILE)
                found = max(found, _whole(width) * _whole(height))
            return found
    except Image.DecompressionBombError:
        return 2 * Image.MAX_IMAGE_PIXELS  # it is more than that; how much more is not told
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        return 0


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
