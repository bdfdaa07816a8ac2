"""Where texts that are ordered by length are parted."""

from __future__ import annotations

import pytest

from otmf.backbones import length_groups


@pytest.mark.parametrize(
    ("lengths", "cuts"),
    [([], []), ([5], []), ([5] * 100, []), ([1, 130], [1]), ([2, 129], []), ([10] * 8 + [40] * 8 + [200], [8, 16])],
)
def test_cuts_are_made_where_they_spare_enough(lengths, cuts) -> None:
    assert length_groups.cuts(lengths) == cuts
