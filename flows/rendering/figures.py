"""Figures of pages: tables as heat maps, curves as inline SVG."""

from __future__ import annotations

import io
from typing import Any


def heat(matrix: Any) -> list[dict[str, Any]]:
    """Rows of the heat map: step name and cells with a value in per cent and a colour, or None above the diagonal."""
    return [{"step": step, "cells": [None if value != value else {"value": f"{100 * value:.1f}", "colour": _colour(value)}
                                     for value in row]} for step, row in zip(matrix.index, matrix.to_numpy(), strict=True)]  # fmt: skip


def _colour(value: float) -> str:
    """A background from pale to deep blue; the text on it stays dark up to the end of the scale."""
    return f"hsl(205 70% {96 - 46 * value:.0f}%)"


def svg(draw: Any, *, size: tuple[float, float] = (3.2, 2.1)) -> str:
    """A small figure as inline SVG: text stays text, and the same figure gives the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "otmf", "font.size": 8, "axes.spines.top": False,
                            "axes.spines.right": False}):  # fmt: skip
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        pyplot.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
