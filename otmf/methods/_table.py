"""What every merge method is given and gives back. One signature for all; what a method may see is declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from otmf import fusion, settings, task_vectors


@dataclass(frozen=True)
class Data:
    """Unlabelled inputs of a merge, given only to methods that declare them."""

    features: fusion.Features
    pre: fusion.Side | None
    post: fusion.Side | None
    report: fusion.Report | None = None


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
    """The merged vector after a step, the method's state for the next one, and, for learned merges, how it was learned."""

    vector: task_vectors.Vector
    state: dict[str, Tensor] = field(default_factory=dict)
    learned: fusion.Merged | None = None


@dataclass(frozen=True)
class Method:
    """A row of the methods table."""

    step: Callable[[Arrival], Outcome]
    sees: Literal["nothing", "unlabelled"]
    source: str


def zero(arrival: Arrival) -> Mapping[str, Tensor]:
    """The merged vector so far, zero at the first step."""
    if arrival.merged_vector is None:
        return {key: value.new_zeros(value.shape) for key, value in arrival.task_vector.items()}
    return arrival.merged_vector
