"""Distillation, continually: the merged model itself is trained, all of it, to give the features that experts gave. No vector is combined."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import batches, mask_training
from otmf.methods import interface, remembered_heads
from otmf.objectives import losses as objectives
from otmf.settings import merge_methods


def reads_first(options: merge_methods.Distillation) -> bool:
    """Whether the first task's head is to be kept: where the objective is on predictions."""
    return options.objective in objectives.ON_PREDICTIONS


def step(arrival: interface.Arrival) -> interface.Outcome:
    """The merged vector after `steps` Adam steps on the paired objective of the new task's inputs and, where there is a memory, of remembered ones.

    What masks are measured against: the same inputs, teachers and number of steps, without the task vector's directions. It starts from the
    merged vector so far (`start: merged`) or from that plus the new one (`sum`); the first task vector is returned whole. State: with an
    objective on predictions `head.<step>.weight` and `.bias`, the heads that memory needs.

    Source: Hinton et al. (2015), arXiv:1503.02531, of features; with a memory as in Buzzega et al. (2020), arXiv:2004.07211.
    """
    options, data = arrival.options, arrival.data
    pre, post = (None, None) if data is None else (data.pre, data.post)
    state: dict[str, Tensor] = {}
    if reads_first(options):
        state = remembered_heads.kept(arrival)
        of_pre, of_post = remembered_heads.predictors(arrival)
        pre, post = pre and replace(pre, predictors=of_pre), replace(post, predictors=of_post)
    if arrival.merged_vector is None:
        return interface.Outcome({key: tau.clone() for key, tau in arrival.task_vector.items()}, state)
    begin = arrival.merged_vector
    if options.start == "sum":
        begin = task_vectors.combine([(1.0, begin), (1.0, arrival.task_vector)])
    student = {key: (arrival.pretrained[key] + value).requires_grad_() for key, value in begin.items()}
    objective = objectives.chosen(options.objective, epsilon=0.05, reach=None, seed=options.seed)
    optimiser = torch.optim.Adam(student.values(), lr=options.learning_rate, fused=True)
    sides = {
        name: (side, batches.drawn(len(side.inputs), options.batch_size, seed=options.seed + place))
        for place, (name, side) in enumerate((("pre", pre), ("post", post)))
        if side is not None
    }
    for number in range(options.steps):
        losses = {}
        for name, (side, positions) in sides.items():
            chosen = next(positions)
            features = data.features({**arrival.pretrained, **student}, side.inputs[chosen])
            losses[name] = objective(features, side.targets[chosen], side.predictors[chosen])
        values = {name: mask_training.finite(float(loss.detach()), name, number) for name, loss in losses.items()}
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        if data.report is not None:
            data.report(number, values)
    return interface.Outcome({key: value.detach() - arrival.pretrained[key] for key, value in student.items()}, state)
