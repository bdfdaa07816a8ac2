"""Small image sets that need no download: six tasks of different domains, and one broad mixture to pretrain on.

All images are RGB, 32 by 32 pixels, uint8. Two tasks are real pictures that scikit-learn carries (`digits`, `photos`);
the others are drawn. One seed gives the same bytes on every run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from otmf.data.embedded import canvas, characters, marks, photographs, shapes, textures


def names() -> tuple[str, ...]:
    """The names of the tasks that `render` knows, in the order the demonstration merges them; the last is the newcomer."""
    return tuple(_TASKS)


def render(name: str, *, seed: int = 0) -> canvas.Images:
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


def mixture(*, seed: int = 0, each: int = 100) -> canvas.Images:
    """The broad mixture a small encoder is pretrained on: symbols, outlines, patterns, lines, counts, places and hues.

    No class of a task occurs here, nor do the fonts of `glyphs` with their letters or any pixel of the two photographs.

    Args:
        seed: >= 0, as in `render`.
        each: training images per class; a tenth as many are there to test on.

    Returns:
        About a hundred classes of their own.
    """
    rng = _generator("mixture", seed)
    parts = (
        characters.symbols,
        shapes.outlines,
        textures.patterns,
        marks.lines,
        marks.counts,
        marks.places,
        marks.hues,
    )
    return canvas.joined([canvas.drawn(part(), rng, each, max(1, each // 10)) for part in parts])


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


_TASKS: dict[str, Callable[[np.random.Generator], canvas.Images]] = {
    "digits": photographs.digits,
    "photos": photographs.photos,
    "glyphs": lambda rng: canvas.drawn(characters.glyphs(), rng, 100, 30),
    "shapes": lambda rng: canvas.drawn(shapes.outlined(shapes.SHAPES, clutter=True), rng, 120, 36),
    "textures": lambda rng: canvas.drawn(textures.textured(textures.TEXTURES, distort=3.0, noise=0.12), rng, 120, 36),
    "dice": lambda rng: canvas.drawn(marks.dice(), rng, 200, 60),
}
