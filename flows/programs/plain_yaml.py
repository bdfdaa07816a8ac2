"""YAML as plain objects. A text is parsed once, as many ask for a long line's parameters; the pickle of it never leaves this process."""

from __future__ import annotations

import functools
import pickle
from typing import Any

from ruamel.yaml import YAML


def load(text: str) -> Any:
    """What a YAML text says, as DVC reads it, in objects of the caller's own. Raises YAMLError if it does not parse."""
    return pickle.loads(_pickled(text))


@functools.lru_cache(maxsize=8)
def _pickled(text: str) -> bytes:
    return pickle.dumps(YAML(typ="safe").load(text))
