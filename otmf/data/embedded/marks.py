"""Dice, bars, counted spots, places and hues."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otmf.data.embedded import canvas

_PIPS = ((4,), (0, 8), (0, 4, 8), (0, 2, 6, 8), (0, 2, 4, 6, 8), (0, 2, 3, 5, 6, 8))  # places in a 3 by 3 grid


def dice() -> canvas.Drawing:
    """One face of a die, one to six pips."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        n = len(labels)
        u, v = canvas.pose(rng, n, turn=0.5, scale=(0.55, 0.85), shift=0.15)
        turned = rng.random((n, 1, 1)) < 0.5
        u, v = np.where(turned, v, u), np.where(turned, -u, v)
        pips = np.stack([_pip(u, v, place) for place in range(9)])  # (9, n, 32, 32)
        shown = np.array([[place in face for face in _PIPS] for place in range(9)])[:, labels]
        face = canvas.soft(0.95 - (np.abs(u) ** 6 + np.abs(v) ** 6) ** (1 / 6), 0.1)
        return canvas.coloured(rng, face * (1 - 0.9 * (pips * shown[..., None, None]).max(0)), clutter=0.4, noise=0.05)

    return canvas.Drawing(("one", "two", "three", "four", "five", "six"), paint)


def _pip(u: canvas.Array, v: canvas.Array, place: int) -> canvas.Array:
    """Ink of a round spot in one place of the face's 3 by 3 grid."""
    return canvas.soft(0.2 - np.hypot(u - 0.52 * (place % 3 - 1), v - 0.52 * (place // 3 - 1)), 0.1)


def lines() -> canvas.Drawing:
    """One bar in one of eight directions, anywhere."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        n = len(labels)
        x, y = canvas.pose(rng, n, turn=0.0, scale=(1, 1), shift=0.4)
        angle = (labels[:, None, None] + canvas.uniform(rng, -0.4, 0.4, n)) * np.float32(np.pi / 8)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        bar = np.minimum(canvas.uniform(rng, 0.4, 0.8, n) - np.abs(u), canvas.uniform(rng, 0.05, 0.15, n) - np.abs(v))
        return canvas.coloured(rng, canvas.soft(bar), clutter=0.4, noise=0.05)

    return canvas.Drawing(tuple(f"bar at {22.5 * k:g} degrees" for k in range(8)), paint)


def _spots(rng: np.random.Generator, n: int, *, shift: float) -> canvas.Array:
    """Ink of one round or flat spot per picture."""
    u, v = canvas.pose(rng, n, turn=np.pi, scale=(0.12, 0.25), shift=shift)
    return canvas.soft(1 - np.hypot(u, v * canvas.uniform(rng, 1, 1.6, n)), 0.4)


def counts() -> canvas.Drawing:
    """One to six spots, anywhere."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        ink = np.zeros((len(labels), canvas.SIZE, canvas.SIZE), np.float32)
        for k in range(6):
            ink = np.maximum(ink, _spots(rng, len(labels), shift=0.75) * (labels >= k)[:, None, None])
        return canvas.coloured(rng, ink, clutter=0.4, noise=0.05)

    return canvas.Drawing(tuple(f"{k} spots" for k in range(1, 7)), paint)


def places() -> canvas.Drawing:
    """One spot in one of nine places."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        spots = _spots(rng, len(labels), shift=0.12)
        moves = 10 * np.stack([labels // 3 - 1, labels % 3 - 1], 1)
        ink = np.stack([np.roll(spot, tuple(move), (0, 1)) for spot, move in zip(spots, moves, strict=True)])
        return canvas.coloured(rng, ink, clutter=0.4, noise=0.05)

    return canvas.Drawing(tuple(f"spot in place {k}" for k in range(1, 10)), paint)


def hues() -> canvas.Drawing:
    """Clouds of one hue and one grain: three hues, three grains."""

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        pictures = np.empty((len(labels), canvas.SIZE, canvas.SIZE, 3), np.float32)
        for label, cells in enumerate((3, 7, 16) * 3):
            rows = labels == label
            pictures[rows] = 0.7 * canvas.clouds(rng, rows.sum(), cells, 1) + 0.3 * canvas.clouds(
                rng, rows.sum(), cells, 3
            )
            pictures[rows] *= np.where(np.arange(3) == label // 3, 1.0, rng.uniform(0.4, 0.9, (rows.sum(), 1, 1, 3)))
        return pictures

    return canvas.Drawing(
        tuple(f"{hue} {grain}" for hue in ("red", "green", "blue") for grain in ("mist", "clouds", "sand")), paint
    )
