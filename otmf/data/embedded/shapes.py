"""Filled shapes and outlines, on strokes and clouds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otmf.data.embedded import canvas


def _polygon(corners: int, angle: canvas.Array, *, dent: float = 1.0) -> canvas.Array:
    """Radius of a regular polygon in the directions `angle`; dent < 1 pulls the middle of each side inwards: a star."""
    slot = np.pi / corners
    offset = np.abs(angle % (2 * slot) - slot)  # 0 at the middle of a side, `slot` at a corner
    middle = dent * np.cos(slot)
    return middle * np.sin(slot) / (middle * np.sin(offset) + np.sin(slot - offset))


SHAPES: dict[str, Callable[[canvas.Array], canvas.Array]] = {
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


OUTLINES: dict[str, Callable[[canvas.Array], canvas.Array]] = {
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


def outlined(table: dict[str, Callable[[canvas.Array], canvas.Array]], *, clutter: bool) -> canvas.Drawing:
    """Filled or hollow outlines in any pose, on strewn strokes if `clutter`."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        n = len(labels)
        u, v = canvas.pose(rng, n, turn=0.4, scale=(0.5, 0.85), shift=0.15)
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        signed = np.empty_like(radius)
        for label, outline in enumerate(table.values()):
            rows = labels == label
            signed[rows] = outline(angle[rows]) - radius[rows]
        hollow = rng.random((n, 1, 1)) < 0.25
        ink = canvas.soft(np.where(hollow, 0.17 - np.abs(signed - 0.17), signed), 0.12)
        if clutter:
            ink = np.maximum(ink, 0.45 * _strokes(rng, n, 3))
        return canvas.coloured(rng, ink, clutter=0.5 if clutter else 0.3, noise=0.05)

    return canvas.Drawing(tuple(table), paint)


def _strokes(rng: np.random.Generator, n: int, count: int) -> canvas.Array:
    """Ink of `count` short thin strokes anywhere in each picture."""
    ink = np.zeros((n, canvas.SIZE, canvas.SIZE), np.float32)
    for _ in range(count):
        u, v = canvas.pose(rng, n, turn=np.pi, scale=(1, 1), shift=0.9)
        ink = np.maximum(ink, canvas.soft(np.minimum(0.35 - np.abs(u), 0.05 - np.abs(v)), 0.06))
    return ink


def outlines() -> canvas.Drawing:
    return outlined(OUTLINES, clutter=False)
