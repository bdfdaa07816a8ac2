"""LiNeS: a merged vector scaled linearly with depth, little in the first blocks and more in the last."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from otmf import task_vectors

_BLOCK = re.compile(r"(?:^|\.)(resblocks|layers?|blocks?|stages|h)\.(\d+)\.")


def factors(keys: Iterable[str], first: float, last: float) -> dict[str, float]:
    """Name -> first + (last - first) l / (L - 1) for a tensor of block l of L, from 0; `first` for what is in no block.

    Of an encoder-decoder, each half is counted by itself.

    Source: Wang et al. (2025), arXiv:2410.17146.
    """
    places = {key: _place(key) for key in keys}
    deepest: dict[str, int] = {}
    for half, block in (place for place in places.values() if place):
        deepest[half] = max(deepest.get(half, 0), block)
    return {
        key: first if place is None or not deepest[place[0]] else first + (last - first) * place[1] / deepest[place[0]]
        for key, place in places.items()
    }


def scaled(vector: Mapping[str, Tensor], by: Mapping[str, float], *, back: bool = False) -> task_vectors.Vector:
    """The vector with each tensor times its factor; with `back`, what was so before."""
    return {key: value / by[key] if back else value * by[key] for key, value in vector.items()}


def _place(key: str) -> tuple[str, int] | None:
    """What stands before a block's number, and that number; None for a tensor in no block. Of blocks in blocks, the outermost."""
    found = _BLOCK.search(key)
    return None if found is None else (key[: found.start(2)], int(found[2]))
