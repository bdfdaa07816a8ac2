"""Memory: bounded, shared evenly, kept whole."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from otmf.continual import memory


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 80), st.integers(0, 5))
@hypothesis_settings(max_examples=40, deadline=None)
def test_memory_is_bounded_and_shared_evenly(arrivals, size, seed) -> None:
    kept = None
    for step, count in enumerate(arrivals, start=1):
        pixels = torch.full((count, 1, 1, 3), step, dtype=torch.uint8)
        kept = memory.admit(kept, pixels, torch.full((count, 2), float(step)), step=step, size=size, seed=seed)
    assert len(kept) <= size
    assert torch.equal(kept.inputs[:, 0, 0, 0].long(), kept.steps), "inputs, targets and steps stay together"
    assert torch.equal(kept.targets[:, 0], kept.steps.float())
    counts = torch.bincount(kept.steps, minlength=len(arrivals) + 1)[1:]
    fair = size // len(arrivals)
    assert all(int(count) >= min(fair, arrived) for count, arrived in zip(counts[-1:], arrivals[-1:], strict=True))


def test_memory_of_the_last_task_forgets_the_others() -> None:
    kept = None
    for step in (1, 2):
        kept = memory.admit(kept, torch.zeros(5, 1, 1, 3), torch.zeros(5, 2), step=step, size=3, only_last=True)
    assert kept.steps.tolist() == [2, 2, 2]


def test_memory_of_size_zero_keeps_nothing() -> None:
    assert memory.admit(None, torch.zeros(5, 1, 1, 3), torch.zeros(5, 2), step=1, size=0) is None
    assert memory.to_tensors(None) == {}
    assert memory.from_tensors({}) is None


def test_memory_survives_a_checkpoint() -> None:
    kept = memory.admit(None, torch.zeros(5, 1, 1, 3), torch.zeros(5, 2), step=1, size=3)
    again = memory.from_tensors(memory.to_tensors(kept))
    assert torch.equal(again.targets, kept.targets)
