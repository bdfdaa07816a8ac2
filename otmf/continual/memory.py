"""The bounded memory of unlabelled inputs that one merge leaves for the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Unlabelled inputs of earlier tasks, each with the features its own expert gave it on arrival.

    Attributes:
        inputs: shape (n, ...), as the backbone reads them.
        targets: shape (n, d).
        steps: shape (n,), the number of the step each input came with.
    """

    inputs: Tensor
    targets: Tensor
    steps: Tensor

    def __len__(self) -> int:
        return len(self.steps)


def admit(
    memory: Memory | None,
    inputs: Tensor,
    targets: Tensor,
    *,
    step: int,
    size: int,
    only_last: bool = False,
    seed: int = 0,
) -> Memory | None:
    """The memory after a task: at most `size` inputs in all, shared evenly by all tasks seen so far.

    A reservoir over tasks: each task's share shrinks to size / t as tasks arrive; which of its inputs stay is drawn
    from the seed. With `only_last` the newest task alone is kept.

    Args:
        memory: before, or None.
        inputs, targets: of the new task's unlabelled inputs.
        step: number of the step, from 1.
        size: greatest number of inputs; 0 keeps none and returns None.
    """
    if size == 0:
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    new = Memory(inputs, targets, torch.full((len(inputs),), step, dtype=torch.int64))
    groups = [new] if memory is None or only_last else [*_by_step(memory), new]
    shares = _shares(size, [len(group) for group in groups])
    kept = [
        _pick(group, torch.randperm(len(group), generator=generator)[:share].sort().values)
        for group, share in zip(groups, shares, strict=True)
    ]
    return Memory(*(torch.cat([getattr(group, name) for group in kept]) for name in ("inputs", "targets", "steps")))


def to_tensors(memory: Memory | None) -> dict[str, Tensor]:
    """The memory as named tensors for a checkpoint; none for an empty one."""
    return (
        {} if memory is None else {f"memory.{name}": getattr(memory, name) for name in ("inputs", "targets", "steps")}
    )


def from_tensors(tensors: Mapping[str, Tensor]) -> Memory | None:
    """The memory in a checkpoint's tensors, or None; inputs were called pixels before there were texts."""
    if "memory.steps" not in tensors:
        return None
    inputs = tensors.get("memory.inputs", tensors.get("memory.pixels"))
    return Memory(inputs, tensors["memory.targets"], tensors["memory.steps"])


def _by_step(memory: Memory) -> list[Memory]:
    return [_pick(memory, torch.nonzero(memory.steps == step).flatten()) for step in memory.steps.unique(sorted=True)]


def _pick(memory: Memory, positions: Tensor) -> Memory:
    return Memory(memory.inputs[positions], memory.targets[positions], memory.steps[positions])


def _shares(size: int, available: list[int]) -> list[int]:
    """Even shares of `size`, none above what is available; later groups get what earlier ones cannot fill."""
    shares, left = [0] * len(available), size
    for rank, place in enumerate(sorted(range(len(available)), key=lambda index: available[index])):
        shares[place] = min(available[place], left // (len(available) - rank))
        left -= shares[place]
    return shares
