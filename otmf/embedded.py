"""Small image sets that need no download: six tasks of different domains, and one broad mixture to pretrain on.

All images are RGB, 32 by 32 pixels, uint8. Two tasks are real pictures that scikit-learn carries (`digits`, `photos`);
the others are drawn. One seed gives the same bytes on every run. Shapes below: n images, pixels (32, 32).

Every drawn picture is made in three moves: a pose (each pixel's coordinates u, v inside the drawn object, in units of
half the picture), an ink (n, 32, 32) in [0, 1] computed from u and v, and two colours between which the ink chooses.
"""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
SIZE = 32
LETTERS = "ABCEFGHKMRSZ"
LETTER_FONTS = {
    "train": ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral", "cmr10", "DejaVuSerif-Bold",
              "DejaVuSans-Oblique", "STIXGeneralItalic"),
    "test": ("DejaVuSerif-Italic", "STIXGeneralBol", "cmss10", "cmb10", "DejaVuSans-BoldOblique"),
}  # fmt: skip
SYMBOLS = "ΓΔΘΛΞΠΣΦΨΩαβγδζθλμξπφψωБДЖИЛЦЧШЩЭЮЯ∀∂∃∇∈∫≈≡⊂⊗♠♣♥♦♪☀☂☎⚓✂✈♛♞"
SYMBOL_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique")
PHOTO_REGIONS = {
    # class: (photograph, boxes (left, top, right, bottom) to train on, boxes to test on); a box to test on lies in the
    # middle of its region and shares no pixel with one to train on
    "roof": ("china", ((96, 62, 176, 134), (228, 62, 320, 134), (66, 244, 176, 286), (228, 244, 348, 286)),
             ((180, 62, 224, 134), (180, 244, 224, 286))),
    "gallery": ("china", ((98, 184, 180, 236), (232, 184, 318, 236), (86, 286, 180, 344), (232, 286, 338, 344)),
                ((184, 184, 228, 236), (184, 286, 228, 344))),
    "pine": ("china", ((566, 150, 640, 250), (566, 310, 640, 427)), ((566, 254, 640, 306),)),
    "shrubs": ("china", ((340, 330, 420, 427), (476, 310, 556, 427)), ((424, 320, 472, 427),)),
    "bush": ("china", ((0, 350, 80, 427), (128, 350, 206, 427)), ((84, 350, 124, 427),)),
    "lake": ("china", ((356, 196, 426, 290), (476, 196, 546, 272)), ((430, 196, 472, 280),)),
    "sky": ("china", ((340, 0, 460, 120), (520, 0, 640, 120)), ((464, 0, 516, 120),)),
    "petals": ("flower", ((196, 130, 280, 310), (332, 130, 416, 310)), ((284, 130, 328, 310),)),
    "rim": ("flower", ((200, 76, 270, 140), (350, 76, 416, 140), (200, 300, 270, 364), (350, 300, 416, 364)),
            ((274, 66, 346, 112), (274, 330, 346, 376))),
    "leaf": ("flower", ((0, 0, 160, 190), (0, 240, 160, 427), (460, 0, 640, 190), (460, 240, 640, 427)),
             ((0, 194, 160, 236), (460, 194, 640, 236))),
}  # fmt: skip


@dataclass(frozen=True)
class Images:
    """A labelled image set: x is (n, 32, 32, 3) uint8, y is (n,) int64 and counts into `classes`."""

    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]
    classes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The names of the tasks that `render` knows, in the order the demonstration merges them; the last is the newcomer."""
    return tuple(_TASKS)


def render(name: str, *, seed: int = 0) -> Images:
    """The images of one task.

    Args:
        name: one of `names()`.
        seed: >= 0. Decides poses, colours and the split; the same seed gives the same bytes.

    Returns:
        6 to 12 classes with about 1,200 images to train on and 360 to test on (`digits`: 1,797 in all).

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in _TASKS:
        raise ValueError(f"expected a task out of {', '.join(_TASKS)}; received {name!r}; correct the name")
    return _TASKS[name](_generator(name, seed))


def mixture(*, seed: int = 0, each: int = 100) -> Images:
    """The broad mixture a small encoder is pretrained on: symbols, outlines, patterns, lines, counts, places and hues.

    No class of a task occurs here, nor do the fonts of `glyphs` with their letters or any pixel of the two photographs.

    Args:
        seed: >= 0, as in `render`.
        each: training images per class; a tenth as many are there to test on.

    Returns:
        About a hundred classes of their own.
    """
    rng = _generator("mixture", seed)
    parts = (_symbols, _outlines, _patterns, _lines, _counts, _places, _hues)
    return _joined([_drawn(part(), rng, each, max(1, each // 10)) for part in parts])


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


# ---------------------------------------------------------------------------------------------- pose, ink and colour


@dataclass(frozen=True)
class _Drawing:
    """Named classes and the rule that draws them: paint(rng, labels (n,), training) gives (n, 32, 32, 3) in [0, 1]."""

    classes: tuple[str, ...]
    paint: Callable[[np.random.Generator, NDArray[np.int64], bool], Array]


def _drawn(drawing: _Drawing, rng: np.random.Generator, train_each: int, test_each: int) -> Images:
    """The images of a drawing: equally many of each class, in random order."""
    sides = []
    for each, training in ((train_each, True), (test_each, False)):
        labels = rng.permutation(np.repeat(np.arange(len(drawing.classes)), each))
        sides += [_bytes(drawing.paint(rng, labels, training)), labels]
    return Images(*sides, drawing.classes)


def _joined(parts: list[Images]) -> Images:
    """Several image sets as one: the classes follow one another."""
    starts = np.cumsum([0] + [len(part.classes) for part in parts])[:-1]
    return Images(
        np.concatenate([part.train_x for part in parts]),
        np.concatenate([part.train_y + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.test_x for part in parts]),
        np.concatenate([part.test_y + start for part, start in zip(parts, starts, strict=True)]),
        tuple(name for part in parts for name in part.classes),
    )


def _bytes(pictures: Array) -> NDArray[np.uint8]:
    return (np.clip(pictures, 0, 1) * 255 + 0.5).astype(np.uint8)


def _uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Array:
    """Random numbers of shape (n, 1, 1), one per picture."""
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def _pose(
    rng: np.random.Generator, n: int, *, turn: float, scale: tuple[float, float], shift: float, shear: float = 0.0
) -> tuple[Array, Array]:
    """Coordinates (u, v), each (n, 32, 32), inside an object turned by up to `turn` radians, scaled and shifted."""
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
    x, y = line[None, None, :] - _uniform(rng, -shift, shift, n), line[None, :, None] - _uniform(rng, -shift, shift, n)
    angle, size = _uniform(rng, -turn, turn, n), _uniform(rng, *scale, n)
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / size, (np.cos(angle) * y - np.sin(angle) * x) / size
    return u + _uniform(rng, -shear, shear, n) * v, v


def _clouds(rng: np.random.Generator, n: int, cells: int, channels: int = 1) -> Array:
    """Smooth random fields (n, 32, 32, channels) in [0, 1]: a coarse random grid, enlarged linearly."""
    grid = rng.random((n, cells + 1, cells + 1, channels), dtype=np.float32)
    place = np.arange(SIZE) * (cells / SIZE)
    low, part = place.astype(int), (place % 1).astype(np.float32)
    rows = grid[:, low] * (1 - part)[:, None, None] + grid[:, low + 1] * part[:, None, None]
    return rows[:, :, low] * (1 - part)[:, None] + rows[:, :, low + 1] * part[:, None]


def _coloured(rng: np.random.Generator, ink: Array, *, clutter: float = 0.25, noise: float = 0.03) -> Array:
    """Pictures (n, 32, 32, 3): ink (n, 32, 32) in a light random colour on cloudy paper in a dark one."""
    n = len(ink)
    paper = rng.uniform(0, 0.35, (n, 1, 1, 3)).astype(np.float32) + clutter * (_clouds(rng, n, 4, 3) - 0.5)
    pen = rng.uniform(0.55, 1, (n, 1, 1, 3)).astype(np.float32)
    pictures = paper + (pen - paper) * ink[..., None]
    return pictures + noise * rng.standard_normal(pictures.shape, dtype=np.float32)


def _soft(signed: Array, width: float = 0.06) -> Array:
    """Ink from a signed distance (positive inside), with an edge of the given width."""
    return np.clip(signed / width + 0.5, 0, 1)


# ----------------------------------------------------------------------------------------------- letters and symbols


def _atlas(characters: str, fonts: tuple[str, ...]) -> Array:
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


def _stamped(sheets: Array, u: Array, v: Array) -> Array:
    """Ink (n, 32, 32): sheet i of (n, 48, 48) read at the coordinates u, v of picture i, linearly between its pixels."""
    x, y = np.clip((u + 1) * 24, 0, 46.99), np.clip((v + 1) * 24, 0, 46.99)
    column, row = x.astype(np.int64), y.astype(np.int64)
    across, down = (x - column).astype(np.float32), (y - row).astype(np.float32)
    first = np.arange(len(sheets))[:, None, None] * (48 * 48) + row * 48 + column
    flat = np.ascontiguousarray(sheets).reshape(-1)
    upper = flat[first] * (1 - across) + flat[first + 1] * across
    lower = flat[first + 48] * (1 - across) + flat[first + 49] * across
    return upper * (1 - down) + lower * down


def _glyphs() -> _Drawing:
    """Twelve capital letters; other typefaces and a stronger slant in the test images."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        pages = _atlas(LETTERS, LETTER_FONTS["train" if training else "test"])
        sheets = pages[rng.integers(len(pages), size=len(labels)), labels]
        u, v = _pose(rng, len(labels), turn=0.2, scale=(0.6, 0.95), shift=0.12, shear=0.2)
        return _coloured(rng, _stamped(sheets, u, v), clutter=0.5, noise=0.06)

    return _Drawing(tuple(LETTERS), paint)


def _symbols() -> _Drawing:
    """Greek, Cyrillic, mathematical and pictorial symbols, for the mixture."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        pages = _atlas(SYMBOLS, SYMBOL_FONTS)
        sheets = pages[rng.integers(len(pages), size=len(labels)), labels]
        u, v = _pose(rng, len(labels), turn=0.2, scale=(0.6, 0.95), shift=0.15, shear=0.2)
        return _coloured(rng, _stamped(sheets, u, v), clutter=0.4, noise=0.04)

    return _Drawing(tuple(f"symbol {character}" for character in SYMBOLS), paint)


# ----------------------------------------------------------------------------------------------- shapes and outlines


def _polygon(corners: int, angle: Array, *, dent: float = 1.0) -> Array:
    """Radius of a regular polygon in the directions `angle`; dent < 1 pulls the middle of each side inwards: a star."""
    slot = np.pi / corners
    offset = np.abs(angle % (2 * slot) - slot)  # 0 at the middle of a side, `slot` at a corner
    middle = dent * np.cos(slot)
    return middle * np.sin(slot) / (middle * np.sin(offset) + np.sin(slot - offset))


_SHAPES: dict[str, Callable[[Array], Array]] = {
    # outline: radius as a function of the direction in radians
    "circle": lambda a: np.full_like(a, 0.85),
    "ellipse": lambda a: 0.45 / np.sqrt((0.45 * np.cos(a)) ** 2 + np.sin(a) ** 2),
    "triangle": lambda a: _polygon(3, a),
    "square": lambda a: _polygon(4, a),
    "pentagon": lambda a: _polygon(5, a),
    "star": lambda a: _polygon(5, a, dent=0.5),
    "cross": lambda a: np.minimum(1, 0.3 / np.maximum(1e-3, np.minimum(np.abs(np.sin(a)), np.abs(np.cos(a))))),
    "petal": lambda a: 0.9 - 0.55 * np.abs(np.sin(a / 2 + np.pi / 4)) ** 0.6 + 0.1 * np.sin(a) ** 2,
    "flower": lambda a: 0.7 + 0.28 * np.cos(6 * a),
    "fan": lambda a: np.where(np.cos(a) > 0.2, 1.0, 0.12),
}
_OUTLINES: dict[str, Callable[[Array], Array]] = {
    "hexagon": lambda a: _polygon(6, a),
    "blade": lambda a: _polygon(3, a, dent=0.45),
    "sparkle": lambda a: _polygon(4, a, dent=0.45),
    "sun": lambda a: _polygon(9, a, dent=0.7),
    "trefoil": lambda a: 0.65 + 0.3 * np.cos(3 * a),
    "bone": lambda a: 0.6 + 0.35 * np.cos(2 * a),
    "drop": lambda a: 0.45 + 0.5 * np.maximum(0, np.cos(a)) ** 4,
    "moon": lambda a: np.where(np.cos(a) > -0.2, 0.9, 0.3),
    "needle": lambda a: 0.2 / np.sqrt((0.2 * np.cos(a)) ** 2 + np.sin(a) ** 2),
    "comma": lambda a: 0.25 + 0.7 * (a % (2 * np.pi)) / (2 * np.pi),
    "gear": lambda a: 0.75 + 0.2 * np.sign(np.cos(8 * a)),
    "bow": lambda a: 0.15 + 0.8 * np.abs(np.cos(a)),
}


def _outlined(table: dict[str, Callable[[Array], Array]], *, clutter: bool) -> _Drawing:
    """Filled or hollow outlines in any pose, on strewn strokes if `clutter`."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        n = len(labels)
        u, v = _pose(rng, n, turn=0.4, scale=(0.5, 0.85), shift=0.15)
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        signed = np.empty_like(radius)
        for label, outline in enumerate(table.values()):
            rows = labels == label
            signed[rows] = outline(angle[rows]) - radius[rows]
        hollow = rng.random((n, 1, 1)) < 0.25
        ink = _soft(np.where(hollow, 0.17 - np.abs(signed - 0.17), signed), 0.12)
        if clutter:
            ink = np.maximum(ink, 0.45 * _strokes(rng, n, 3))
        return _coloured(rng, ink, clutter=0.5 if clutter else 0.3, noise=0.05)

    return _Drawing(tuple(table), paint)


def _strokes(rng: np.random.Generator, n: int, count: int) -> Array:
    """Ink of `count` short thin strokes anywhere in each picture."""
    ink = np.zeros((n, SIZE, SIZE), np.float32)
    for _ in range(count):
        u, v = _pose(rng, n, turn=np.pi, scale=(1, 1), shift=0.9)
        ink = np.maximum(ink, _soft(np.minimum(0.35 - np.abs(u), 0.05 - np.abs(v)), 0.06))
    return ink


# --------------------------------------------------------------------------------------------- textures and patterns


def _saw(x: Array) -> Array:
    """A triangle wave in [-1, 1], period 2 pi, 1 at x = 0."""
    return np.abs((x / np.pi) % 2 - 1) * 2 - 1


_TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    # signed strength at the coordinates (a, b), in radians of the texture's own period
    "stripes": lambda a, b: np.sin(a),
    "checks": lambda a, b: 3 * np.sin(a) * np.sin(b),
    "dots": lambda a, b: np.cos(a) + np.cos(b) - 0.7,
    "waves": lambda a, b: np.sin(b + 1.6 * np.sin(0.8 * a)),
    "zigzag": lambda a, b: np.sin(b + 1.8 * _saw(a)),
    "rings": lambda a, b: np.sin(np.hypot(a, b)),
    "rays": lambda a, b: np.sin(9 * np.arctan2(b, a)),
    "bricks": lambda a, b: 0.8 - 2 * np.maximum(np.cos(b), np.cos(0.5 * a + np.pi / 2 * np.sign(np.sin(b / 2)))) ** 5,
    "grid": lambda a, b: np.maximum(np.cos(a), np.cos(b)) ** 5 - 0.5,
    "weave": lambda a, b: np.where(np.sin(a / 2) * np.sin(b / 2) > 0, np.sin(2 * a), np.sin(2 * b)),
}
_PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "honeycomb": lambda a, b: np.cos(a) + np.cos(0.5 * a + 0.87 * b) + np.cos(0.5 * a - 0.87 * b) - 0.3,
    "plaid": lambda a, b: 0.7 * np.sin(a) + 0.7 * np.sin(2 * b),
    "spiral": lambda a, b: np.sin(np.hypot(a, b) + 2 * np.arctan2(b, a)),
    "chirp": lambda a, b: np.sin(0.08 * a * np.abs(a)),
    "scales": lambda a, b: np.sin(b + np.abs(np.sin(a / 2)) * 2),
    "diamonds": lambda a, b: np.abs(_saw(a)) + np.abs(_saw(b)) - 1,
    "dashes": lambda a, b: np.minimum(np.sin(a), np.sin(0.4 * b) + 0.3),
    "bands": lambda a, b: np.sin(a) + np.sin(1.7 * a),
    "saddle": lambda a, b: np.sin(0.06 * a * b),
    "ladders": lambda a, b: np.where(np.sin(0.5 * a) > 0, np.sin(1.5 * b), -0.8),
    "steps": lambda a, b: _saw(a + np.sign(np.sin(b)) * np.pi / 2),
    "quilt": lambda a, b: np.sin(a) * np.cos(2 * b) * 2 + np.sin(b),
}


def _textured(table: dict[str, Callable[[Array, Array], Array]], *, distort: float, noise: float) -> _Drawing:
    """Surfaces: any direction, several periods to a picture, warped by `distort` radians."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        n = len(labels)
        u, v = _pose(rng, n, turn=0.5, scale=(0.08, 0.14), shift=0.4)
        a, b = u + distort * _clouds(rng, n, 3)[..., 0], v + distort * _clouds(rng, n, 3)[..., 0]
        strength = np.empty_like(a)
        for label, texture in enumerate(table.values()):
            rows = labels == label
            strength[rows] = texture(a[rows], b[rows])
        ink = 0.5 + 0.5 * np.tanh(strength * _uniform(rng, 0.7, 3, n))
        return _coloured(rng, ink, clutter=0.5, noise=noise)

    return _Drawing(tuple(table), paint)


# ------------------------------------------------------------------------------------- the rest of the mixture


def _outlines() -> _Drawing:
    return _outlined(_OUTLINES, clutter=False)


def _patterns() -> _Drawing:
    return _textured(_PATTERNS, distort=1.5, noise=0.06)


def _lines() -> _Drawing:
    """One bar in one of eight directions, anywhere."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        n = len(labels)
        x, y = _pose(rng, n, turn=0.0, scale=(1, 1), shift=0.4)
        angle = (labels[:, None, None] + _uniform(rng, -0.4, 0.4, n)) * np.float32(np.pi / 8)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        bar = np.minimum(_uniform(rng, 0.4, 0.8, n) - np.abs(u), _uniform(rng, 0.05, 0.15, n) - np.abs(v))
        return _coloured(rng, _soft(bar), clutter=0.4, noise=0.05)

    return _Drawing(tuple(f"bar at {22.5 * k:g} degrees" for k in range(8)), paint)


def _spots(rng: np.random.Generator, n: int, *, shift: float) -> Array:
    """Ink of one round or flat spot per picture."""
    u, v = _pose(rng, n, turn=np.pi, scale=(0.12, 0.25), shift=shift)
    return _soft(1 - np.hypot(u, v * _uniform(rng, 1, 1.6, n)), 0.4)


def _counts() -> _Drawing:
    """One to six spots, anywhere."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        ink = np.zeros((len(labels), SIZE, SIZE), np.float32)
        for k in range(6):
            ink = np.maximum(ink, _spots(rng, len(labels), shift=0.75) * (labels >= k)[:, None, None])
        return _coloured(rng, ink, clutter=0.4, noise=0.05)

    return _Drawing(tuple(f"{k} spots" for k in range(1, 7)), paint)


def _places() -> _Drawing:
    """One spot in one of nine places."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        spots = _spots(rng, len(labels), shift=0.12)
        moves = 10 * np.stack([labels // 3 - 1, labels % 3 - 1], 1)
        ink = np.stack([np.roll(spot, tuple(move), (0, 1)) for spot, move in zip(spots, moves, strict=True)])
        return _coloured(rng, ink, clutter=0.4, noise=0.05)

    return _Drawing(tuple(f"spot in place {k}" for k in range(1, 10)), paint)


def _hues() -> _Drawing:
    """Clouds of one hue and one grain: three hues, three grains."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        pictures = np.empty((len(labels), SIZE, SIZE, 3), np.float32)
        for label, cells in enumerate((3, 7, 16) * 3):
            rows = labels == label
            pictures[rows] = 0.7 * _clouds(rng, rows.sum(), cells, 1) + 0.3 * _clouds(rng, rows.sum(), cells, 3)
            pictures[rows] *= np.where(np.arange(3) == label // 3, 1.0, rng.uniform(0.4, 0.9, (rows.sum(), 1, 1, 3)))
        return pictures

    return _Drawing(
        tuple(f"{hue} {grain}" for hue in ("red", "green", "blue") for grain in ("mist", "clouds", "sand")), paint
    )


# ------------------------------------------------------------------------------------------------------ the tasks


def _digits(rng: np.random.Generator) -> Images:
    """Handwritten digits, 8 by 8 pixels enlarged, 1,797 in all."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    order = rng.permutation(len(found.target))
    small = (found.images[order] * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for p in small])
    x, y = np.repeat(large[..., None], 3, -1), found.target[order].astype(np.int64)
    return Images(x[:1400], y[:1400], x[1400:], y[1400:], tuple("0123456789"))


def _photos(rng: np.random.Generator) -> Images:
    """Patches of two photographs, ten things to tell apart; tested on pixels no training patch touches."""
    from sklearn.datasets import load_sample_image

    photographs = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        regions = list(PHOTO_REGIONS.values())
        boxes = [(photographs[regions[k][0]], regions[k][1 if training else 2]) for k in labels]
        pictures = np.stack([_patch(rng, photograph, choice) for photograph, choice in boxes])
        return _jittered(rng, pictures.astype(np.float32) / 255)

    return _drawn(_Drawing(tuple(PHOTO_REGIONS), paint), rng, 120, 36)


def _patch(
    rng: np.random.Generator, photograph: NDArray[np.uint8], boxes: tuple[tuple[int, ...], ...]
) -> NDArray[np.uint8]:
    """A square of 24 to 36 pixels out of one of the boxes, as 32 by 32, mirrored half the time."""
    from PIL import Image

    left, top, right, bottom = boxes[rng.integers(len(boxes))]
    side = int(rng.integers(24, 37))
    x, y = int(rng.integers(left, right - side + 1)), int(rng.integers(top, bottom - side + 1))
    patch = Image.fromarray(photograph[y : y + side, x : x + side]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(patch)[:, :: int(rng.choice((-1, 1)))]


def _jittered(rng: np.random.Generator, pictures: Array) -> Array:
    """Pictures (n, 32, 32, 3) with brightness, contrast and colour balance changed at random."""
    n = len(pictures)
    mean = pictures.mean((1, 2), keepdims=True)
    balance = rng.uniform(0.82, 1.18, (n, 1, 1, 3)).astype(np.float32)
    return (mean + (pictures - mean) * _uniform(rng, 0.7, 1.3, n)[..., None]) * balance + _uniform(rng, -0.08, 0.08, n)[
        ..., None
    ]


_PIPS = ((4,), (0, 8), (0, 4, 8), (0, 2, 6, 8), (0, 2, 4, 6, 8), (0, 2, 3, 5, 6, 8))  # places in a 3 by 3 grid


def _dice() -> _Drawing:
    """One face of a die, one to six pips."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> Array:
        n = len(labels)
        u, v = _pose(rng, n, turn=0.5, scale=(0.55, 0.85), shift=0.15)
        turned = rng.random((n, 1, 1)) < 0.5
        u, v = np.where(turned, v, u), np.where(turned, -u, v)
        pips = np.stack([_pip(u, v, place) for place in range(9)])  # (9, n, 32, 32)
        shown = np.array([[place in face for face in _PIPS] for place in range(9)])[:, labels]
        face = _soft(0.95 - (np.abs(u) ** 6 + np.abs(v) ** 6) ** (1 / 6), 0.1)
        return _coloured(rng, face * (1 - 0.9 * (pips * shown[..., None, None]).max(0)), clutter=0.4, noise=0.05)

    return _Drawing(("one", "two", "three", "four", "five", "six"), paint)


def _pip(u: Array, v: Array, place: int) -> Array:
    """Ink of a round spot in one place of the face's 3 by 3 grid."""
    return _soft(0.2 - np.hypot(u - 0.52 * (place % 3 - 1), v - 0.52 * (place // 3 - 1)), 0.1)


_TASKS: dict[str, Callable[[np.random.Generator], Images]] = {
    "digits": _digits,
    "photos": _photos,
    "glyphs": lambda rng: _drawn(_glyphs(), rng, 100, 30),
    "shapes": lambda rng: _drawn(_outlined(_SHAPES, clutter=True), rng, 120, 36),
    "textures": lambda rng: _drawn(_textured(_TEXTURES, distort=3.0, noise=0.12), rng, 120, 36),
    "dice": lambda rng: _drawn(_dice(), rng, 200, 60),
}
