"""Letters and symbols in the typefaces that matplotlib carries."""

from __future__ import annotations

import pathlib

import numpy as np
from numpy.typing import NDArray

from otmf.data.embedded import canvas

LETTERS = "ABCEFGHKMRSZ"


LETTER_FONTS = {
    "train": ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral", "cmr10", "DejaVuSerif-Bold",
              "DejaVuSans-Oblique", "STIXGeneralItalic"),
    "test": ("DejaVuSerif-Italic", "STIXGeneralBol", "cmss10", "cmb10", "DejaVuSans-BoldOblique"),
}  # fmt: skip


SYMBOLS = "ΓΔΘΛΞΠΣΦΨΩαβγδζθλμξπφψωБДЖИЛЦЧШЩЭЮЯ∀∂∃∇∈∫≈≡⊂⊗♠♣♥♦♪☀☂☎⚓✂✈♛♞"


SYMBOL_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique")


def glyphs() -> canvas.Drawing:
    """Twelve capital letters; other typefaces and a stronger slant in the test images."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        pages = _atlas(LETTERS, LETTER_FONTS["train" if training else "test"])
        sheets = pages[rng.integers(len(pages), size=len(labels)), labels]
        u, v = canvas.pose(rng, len(labels), turn=0.2, scale=(0.6, 0.95), shift=0.12, shear=0.2)
        return canvas.coloured(rng, _stamped(sheets, u, v), clutter=0.5, noise=0.06)

    return canvas.Drawing(tuple(LETTERS), paint)


def symbols() -> canvas.Drawing:
    """Greek, Cyrillic, mathematical and pictorial symbols, for the mixture."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        pages = _atlas(SYMBOLS, SYMBOL_FONTS)
        sheets = pages[rng.integers(len(pages), size=len(labels)), labels]
        u, v = canvas.pose(rng, len(labels), turn=0.2, scale=(0.6, 0.95), shift=0.15, shear=0.2)
        return canvas.coloured(rng, _stamped(sheets, u, v), clutter=0.4, noise=0.04)

    return canvas.Drawing(tuple(f"symbol {character}" for character in SYMBOLS), paint)


def _atlas(characters: str, fonts: tuple[str, ...]) -> canvas.Array:
    """Every character in every font, (fonts, characters, 48, 48) in [0, 1], scaled to fill the same square."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pages = np.zeros((len(fonts), len(characters), 48, 48), np.float32)
    for row, font_name in enumerate(fonts):
        font = ImageFont.truetype(str(folder / f"{font_name}.ttf"), 64)
        for column, character in enumerate(characters):
            sheet = Image.new("L", (192, 192))
            ImageDraw.Draw(sheet).text((64, 48), character, fill=255, font=font)
            drawn = sheet.crop(sheet.getbbox())
            drawn.thumbnail((44, 44), Image.Resampling.BOX)
            frame = Image.new("L", (48, 48))
            frame.paste(drawn, ((48 - drawn.width) // 2, (48 - drawn.height) // 2))
            pages[row, column] = np.asarray(frame, np.float32) / 255
    return pages


def _stamped(sheets: canvas.Array, u: canvas.Array, v: canvas.Array) -> canvas.Array:
    """Ink (n, 32, 32): sheet i of (n, 48, 48) read at the coordinates u, v of picture i, linearly between its pixels."""
    x, y = np.clip((u + 1) * 24, 0, 46.99), np.clip((v + 1) * 24, 0, 46.99)
    column, row = x.astype(np.int64), y.astype(np.int64)
    across, down = (x - column).astype(np.float32), (y - row).astype(np.float32)
    first = np.arange(len(sheets))[:, None, None] * (48 * 48) + row * 48 + column
    flat = np.ascontiguousarray(sheets).reshape(-1)
    upper = flat[first] * (1 - across) + flat[first + 1] * across
    lower = flat[first + 48] * (1 - across) + flat[first + 49] * across
    return upper * (1 - down) + lower * down
