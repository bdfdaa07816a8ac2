"""Heads aligned after a merge: which inputs each is aligned on, and that a turned feature space is turned back."""

from __future__ import annotations

import numpy as np
import torch

from otmf import heads
from otmf.continual import alignment, memory

TURNED = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # what the merge did to features
INPUTS = np.array([[2.0, 0.1], [0.2, 3.0], [-1.0, 0.3], [1.0, 1.0]], dtype=np.float32)
HEAD = heads.Head(torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, 0.0]]), torch.zeros(3))


def aligned(
    kept: memory.Memory | None, new: np.ndarray = INPUTS, of_old: float = 1e-6
) -> tuple[dict[str, heads.Head], dict[str, int]]:
    both = {"old": HEAD, "new": HEAD}
    return alignment.after_step(
        both, both, ["old", "new"], teach=lambda read: torch.from_numpy(read) @ TURNED, inputs=new,
        targets=torch.from_numpy(new), kept=kept, ridge=1e-6, ridge_of_old=of_old,
    )  # fmt: skip


def remembered(step: int) -> memory.Memory:
    inputs = torch.from_numpy(INPUTS)
    return memory.Memory(inputs, inputs, torch.full((4,), step))


def test_new_head_is_turned_with_the_features_and_the_old_one_stays_without_a_memory() -> None:
    found, used = aligned(None)
    torch.testing.assert_close(found["new"].weight, HEAD.weight @ TURNED, atol=1e-4, rtol=0)
    assert found["old"] is HEAD
    assert used == {"new": 4}


def test_old_head_is_aligned_on_what_is_remembered_of_its_own_step() -> None:
    found, used = aligned(remembered(1))
    torch.testing.assert_close(found["old"].weight, HEAD.weight @ TURNED, atol=1e-4, rtol=0)
    assert used == {"old": 4, "new": 4}


def test_old_head_is_held_by_its_own_ridge() -> None:
    found, _ = aligned(remembered(1), of_old=1e6)
    torch.testing.assert_close(found["old"].weight, HEAD.weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["new"].weight, HEAD.weight @ TURNED, atol=1e-4, rtol=0)


def test_memory_of_the_new_task_is_not_counted_twice() -> None:
    assert aligned(remembered(2))[1] == {"new": 4}


def test_task_without_inputs_keeps_its_head() -> None:
    found, used = aligned(None, INPUTS[:0])
    assert found["new"] is HEAD
    assert used == {}
