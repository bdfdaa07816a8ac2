"""JSON that somebody brought: a key that occurs twice is refused, as readers differ in which of the two they take."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str) -> Any:
    """A document of JSON. Raises ValueError if it is none, or an object names a key twice."""
    return json.loads(text, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:60]!r} named twice")
        found[key] = value
    return found
