"""What all embedded pictures are made of: a pose, an ink, two colours.

Shapes: n images, pixels (32, 32). A pose gives each pixel coordinates u, v inside the drawn object, in units of half the
picture; an ink (n, 32, 32) in [0, 1] is computed from u and v; two colours are chosen between by the ink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


SIZE = 32


@dataclass(frozen=True)
class Images:
    """A labelled image set: x is (n, 32, 32, 3) uint8, y is (n,) int64 and counts into `classes`."""

    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """Named classes and the rule that draws them: paint(rng, labels (n,), training) gives (n, 32, 32, 3) in [0, 1]."""

    classes: tuple[str, ...]
    paint: Callable[[np.random.Generator, NDArray[np.int64], bool], Array]


def drawn(drawing: Drawing, rng: np.random.Generator, train_each: int, test_each: int) -> Images:
    """The images of a drawing: equally many of each class, in random order."""
    sides = []
    for each, training in ((train_each, True), (test_each, False)):
        labels = rng.permutation(np.repeat(np.arange(len(drawing.classes)), each))
        sides += [_bytes(drawing.paint(rng, labels, training)), labels]
    return Images(*sides, drawing.classes)


def joined(parts: list[Images]) -> Images:
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


def uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Array:
    """Random numbers of shape (n, 1, 1), one per picture."""
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def pose(
    rng: np.random.Generator, n: int, *, turn: float, scale: tuple[float, float], shift: float, shear: float = 0.0
) -> tuple[Array, Array]:
    """Coordinates (u, v), each (n, 32, 32), inside an object turned by up to `turn` radians, scaled and shifted."""
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
    x, y = line[None, None, :] - uniform(rng, -shift, shift, n), line[None, :, None] - uniform(rng, -shift, shift, n)
    angle, size = uniform(rng, -turn, turn, n), uniform(rng, *scale, n)
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / size, (np.cos(angle) * y - np.sin(angle) * x) / size
    return u + uniform(rng, -shear, shear, n) * v, v


def clouds(rng: np.random.Generator, n: int, cells: int, channels: int = 1) -> Array:
    """Smooth random fields (n, 32, 32, channels) in [0, 1]: a coarse random grid, enlarged linearly."""
    grid = rng.random((n, cells + 1, cells + 1, channels), dtype=np.float32)
    place = np.arange(SIZE) * (cells / SIZE)
    low, part = place.astype(int), (place % 1).astype(np.float32)
    rows = grid[:, low] * (1 - part)[:, None, None] + grid[:, low + 1] * part[:, None, None]
    return rows[:, :, low] * (1 - part)[:, None] + rows[:, :, low + 1] * part[:, None]


def coloured(rng: np.random.Generator, ink: Array, *, clutter: float = 0.25, noise: float = 0.03) -> Array:
    """Pictures (n, 32, 32, 3): ink (n, 32, 32) in a light random colour on cloudy paper in a dark one."""
    n = len(ink)
    paper = rng.uniform(0, 0.35, (n, 1, 1, 3)).astype(np.float32) + clutter * (clouds(rng, n, 4, 3) - 0.5)
    pen = rng.uniform(0.55, 1, (n, 1, 1, 3)).astype(np.float32)
    pictures = paper + (pen - paper) * ink[..., None]
    return pictures + noise * rng.standard_normal(pictures.shape, dtype=np.float32)


def soft(signed: Array, width: float = 0.06) -> Array:
    """Ink from a signed distance (positive inside), with an edge of the given width."""
    return np.clip(signed / width + 0.5, 0, 1)
