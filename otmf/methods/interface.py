"""What every merge method is given and gives back. One signature for all; what a method may see is declared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from otmf import heads, settings, task_vectors
from otmf.merging import mask_training

Recall = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


def computed(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Nothing is recalled."""
    return compute()


@dataclass(frozen=True)
class Data:
    """Unlabelled inputs of a merge, given only to methods that declare them.

    Attributes:
        features: (state, inputs) -> (n, d).
        pre, post: old and new inputs with their teachers' features; None where that side may see nothing.
        report: called after each optimiser step.
        pre_steps: shape (n,), of which step each old input is; None where they are not remembered.
        head: of the new task, frozen before it was fine-tuned; None where the caller has none.
        recall: (name, compute) -> tensors that are a function of the arriving task alone: its expert, its inputs, its head and what the name
            says. They are the same in every order of the tasks, for a caller that keeps them.
    """

    features: mask_training.Features
    pre: mask_training.Side | None
    post: mask_training.Side | None
    report: mask_training.Report | None = None
    pre_steps: Tensor | None = None
    head: heads.Head | None = None
    recall: Recall = computed


@dataclass(frozen=True)
class Arrival:
    """One task vector arriving at a line.

    Attributes:
        pretrained: theta0.
        merged_vector: D, or None at the first step.
        task_vector: tau_t.
        count: t, from 1.
        state: what the method's last step left, empty at the first.
        options: all settings of the step.
        data: None for a method that sees nothing.
    """

    pretrained: Mapping[str, Tensor]
    merged_vector: Mapping[str, Tensor] | None
    task_vector: Mapping[str, Tensor]
    count: int
    state: Mapping[str, Tensor]
    options: settings.Merge
    data: Data | None = None


@dataclass(frozen=True)
class Outcome:
    """The merged vector after a step, the method's state for the next one, for learned merges how it was learned, and what else there is to
    say of the step, as numbers by name."""

    vector: task_vectors.Vector
    state: dict[str, Tensor] = field(default_factory=dict)
    learned: mask_training.Merged | None = None
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A row of the methods table.

    Attributes:
        step: the merge of one arrival.
        sees: what it declares to see, and is given.
        reads_first: whether, with those settings, it reads the first task's inputs too.
        joint: the same method on all task vectors at once, where that is another merge: (vectors, options) -> merged vector.
    """

    step: Callable[[Arrival], Outcome]
    sees: Literal["nothing", "unlabelled"]
    reads_first: Callable[[settings.Merge], bool] = lambda options: False
    joint: Callable[[Sequence[Mapping[str, Tensor]], settings.Merge], task_vectors.Vector] | None = None


def zero(arrival: Arrival) -> Mapping[str, Tensor]:
    """The merged vector so far, zero at the first step."""
    if arrival.merged_vector is None:
        return {key: value.new_zeros(value.shape) for key, value in arrival.task_vector.items()}
    return arrival.merged_vector


def require_state(arrival: Arrival) -> None:
    """Refuses a step whose method needs what earlier steps left, where they left nothing.

    Raises:
        ValueError: naming the method.
    """
    if arrival.count > 1 and not arrival.state:
        name = arrival.options.method
        raise ValueError(
            f"expected what {arrival.count - 1} earlier steps of method {name} left; received nothing, as they used another method; use {name} "
            "from the first step on, or keep that method"
        )


def added(arrival: Arrival, name: str, value: Tensor) -> Tensor:
    """A running sum of the state after adding to it."""
    return arrival.state[name] + value if name in arrival.state else value.clone()


def generator(seed: int, name: str, content: bytes = b"") -> torch.Generator:
    """Random numbers of a tensor's own: from the seed, its name and what it holds, not from what was drawn before."""
    digest = hashlib.sha256(f"{seed}:{name}".encode() + content).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
