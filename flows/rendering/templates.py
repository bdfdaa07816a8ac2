"""The templates of pages: one environment of jinja, in which the words of other people mean nothing but themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from flows.programs import plain_text

PAGES = Path(__file__).parents[1] / "pages"  # templates, and scripts that are handed out with a version


def plain(text: str) -> str:
    """Somebody's words as one line of Markdown that means nothing but itself."""
    return re.sub(r"([\\`*_\[\]<>|#~!])", r"\\\1", plain_text.plain(" ".join(str(text).split())))


def _written(value: Any) -> Any:
    """A value as a page shows it: what would change how a terminal or browser shows the rest is written out."""
    return plain_text.plain_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_written)  # fmt: skip
    environment.filters["percent"] = lambda value, signed=False: (
        "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"
    )
    environment.filters["plain"] = plain
    environment.filters["spread"] = per_cent
    environment.filters["plain_spread"] = lambda spread: (
        "-" if spread is None else " ± ".join(f"{value:.4g}" for value in spread if value is not None)
    )
    environment.filters["ranks"] = lambda found: "-" if found is None else f"{found[0]:+.2f} ({found[1]:.2g})"
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.4g}"
    return environment


def per_cent(spread: tuple[float, float | None] | None, signed: bool = False) -> str:
    """A mean and its deviation as text in per cent; the mean alone of a single value."""
    if spread is None:
        return ""
    found, deviation = spread
    return f"{100 * found:{'+' if signed else ''}.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")
