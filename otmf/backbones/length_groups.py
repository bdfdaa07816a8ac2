"""Which texts are computed together."""

from __future__ import annotations

from collections.abc import Sequence

WORTH = 128  # tokens that are not computed: for fewer, one more pass through the encoder is not made


def cuts(lengths: Sequence[int], begin: int = 0) -> list[int]:
    """Where to part texts that are ordered by length, so that few columns are computed in which a text is over.

    Args:
        lengths: tokens of each, ascending.
        begin: added to each position.
    """
    count = len(lengths)
    spared = {cut: cut * (lengths[-1] - lengths[cut - 1]) for cut in range(1, count)}
    cut = max(spared, key=spared.__getitem__, default=0)
    if not cut or spared[cut] < WORTH:
        return []
    return [*cuts(lengths[:cut], begin), begin + cut, *cuts(lengths[cut:], begin + cut)]
