"""Heads that a method keeps in its state, so that remembered inputs can be scored: `head.<step>.weight` and `head.<step>.bias`; where it counts
in units of tasks, `head.<step>.unit`; and, where the merged model was read through an aligned head, `head.<step>.aligned`, its weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from otmf import heads, task_vectors
from otmf.methods import interface
from otmf.objectives import losses

MOST_FREEDOM = 0.2  # degrees of freedom of a head for each input it is aligned on


def kept(arrival: interface.Arrival, unit: float | None = None) -> dict[str, Tensor]:
    """The state after this step: the heads kept so far and that of the new task.

    Raises:
        ValueError: if the caller has no head, or none was kept for a remembered input.
    """
    head, name = required(arrival), arrival.options.method
    unknown = [step for step in _steps(arrival) if f"head.{step}.weight" not in arrival.state]
    if unknown:
        raise ValueError(
            f"expected the heads of all remembered inputs for method {name}; received none of step {unknown[0]}, which kept none; "
            "use this method with these settings from the first step on, or set pre_images: none"
        )
    if arrival.options.pre_images in ("none", "new_task"):
        return {}
    place = f"head.{arrival.count}"
    before = {} if arrival.options.pre_images == "previous_task" else arrival.state
    found = {key: value for key, value in before.items() if key.startswith("head.")}
    if unit is not None:
        found[f"{place}.unit"] = torch.tensor(unit, dtype=torch.float64)
    return {**found, f"{place}.weight": head.weight, f"{place}.bias": head.bias}


def without_heads_of_others(outcome: interface.Outcome, steps: Sequence[int]) -> interface.Outcome:
    """Without the heads of steps of which no input is remembered any more: a state that would grow with the line.

    Args:
        outcome: of a step.
        steps: of which inputs are remembered for the next.
    """
    needed = {str(step) for step in steps}
    state = {
        key: value for key, value in outcome.state.items() if not key.startswith("head.") or key.split(".")[1] in needed
    }
    return dataclasses.replace(outcome, state=state)


def aligned(arrival: interface.Arrival, merged: task_vectors.State) -> heads.Head | None:
    """The new task's head, aligned without labels to a merged model: the one through which it will be read (`heads.aligned`).

    None where the inputs are too few for the width of the features: what such a head leaves of the loss is particular to those inputs, and masks
    would learn that.

    Args:
        arrival: with unlabelled inputs and options that have `head_ridge`.
        merged: the model's tensors at the start of the step.
    """
    frozen, ridge = required(arrival), arrival.options.head_ridge
    found = of_new_inputs(arrival, merged)
    if heads.degrees_of_freedom(found, ridge=ridge) > MOST_FREEDOM * len(found):
        return None
    return heads.aligned(frozen, found, frozen.logits(arrival.data.post.targets), ridge=ridge)


def of_new_inputs(arrival: interface.Arrival, state: task_vectors.State) -> Tensor:
    """The features (n, d) that a model gives to the new task's unlabelled inputs, without gradient."""
    with torch.no_grad():
        return torch.cat([arrival.data.features(state, inputs) for inputs in arrival.data.post.inputs.split(64)])


def required(arrival: interface.Arrival) -> heads.Head:
    """The head of the new task.

    Raises:
        ValueError: if the caller has none.
    """
    head = None if arrival.data is None else arrival.data.head
    if head is None:
        raise ValueError(
            f"expected unlabelled inputs and the head of the new task for method {arrival.options.method}; received none; choose a method that "
            "sees nothing"
        )
    return head


def predictors(arrival: interface.Arrival, unit: float | None = None) -> tuple[losses.Predictors, losses.Predictors]:
    """The heads of old inputs, each that of its own task, and of new ones. Old inputs that are none have the new head.

    With the `unit` of the new task, those of old ones are what was kept, or 1. Where an old head was aligned, the student is read through that one.
    """
    new = losses.Predictors((arrival.data.head,), units=None if unit is None else (unit,))
    if arrival.data.pre_steps is None:
        return new, new
    steps = _steps(arrival)
    device = arrival.data.head.weight.device
    own = [
        heads.Head(arrival.state[f"head.{step}.weight"], arrival.state[f"head.{step}.bias"]).to(device)
        for step in steps
    ]
    place = sum((arrival.data.pre_steps == step).long() * number for number, step in enumerate(steps))
    units = None if unit is None else [float(arrival.state.get(f"head.{step}.unit", 1.0)) for step in steps]
    students = [
        heads.Head(arrival.state.get(f"head.{step}.aligned", head.weight).to(device), head.bias)
        for step, head in zip(steps, own, strict=True)
    ]
    return losses.Predictors(students, place, units, teachers=own), new


def _steps(arrival: interface.Arrival) -> list[int]:
    """The steps that remembered inputs came with, in order."""
    steps = None if arrival.data is None else arrival.data.pre_steps
    return [] if steps is None else steps.unique().tolist()
