"""Surfaces filled with a texture or a pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from otmf.data.embedded import canvas


def _saw(x: canvas.Array) -> canvas.Array:
    """A triangle wave in [-1, 1], period 2 pi, 1 at x = 0."""
    return np.abs((x / np.pi) % 2 - 1) * 2 - 1


TEXTURES: dict[str, Callable[[canvas.Array, canvas.Array], canvas.Array]] = {
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


PATTERNS: dict[str, Callable[[canvas.Array, canvas.Array], canvas.Array]] = {
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


def textured(
    table: dict[str, Callable[[canvas.Array, canvas.Array], canvas.Array]], *, distort: float, noise: float
) -> canvas.Drawing:
    """Surfaces: any direction, several periods to a picture, warped by `distort` radians."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        n = len(labels)
        u, v = canvas.pose(rng, n, turn=0.5, scale=(0.08, 0.14), shift=0.4)
        a, b = u + distort * canvas.clouds(rng, n, 3)[..., 0], v + distort * canvas.clouds(rng, n, 3)[..., 0]
        strength = np.empty_like(a)
        for label, texture in enumerate(table.values()):
            rows = labels == label
            strength[rows] = texture(a[rows], b[rows])
        ink = 0.5 + 0.5 * np.tanh(strength * canvas.uniform(rng, 0.7, 3, n))
        return canvas.coloured(rng, ink, clutter=0.5, noise=noise)

    return canvas.Drawing(tuple(table), paint)


def patterns() -> canvas.Drawing:
    return textured(PATTERNS, distort=1.5, noise=0.06)
