from __future__ import annotations

import torch

from otmf.merging import batches


def test_batches_cover_all_inputs_before_any_repeats() -> None:
    found = batches.drawn(48, 16, seed=0)
    seen = torch.cat([next(found) for _ in range(3)])
    assert sorted(seen.tolist()) == list(range(48))
    assert len(next(batches.drawn(5, 16, seed=0))) == 5
