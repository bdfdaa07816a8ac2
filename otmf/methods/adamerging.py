"""AdaMerging, continually: how much of the merged vector and of the new one, chosen so that predictions are sure.

Coefficients of two vectors stand for those of all tasks, so neither memory nor time grows with their number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from otmf import heads, task_vectors
from otmf.methods import _table


def task_wise(arrival: _table.Arrival) -> _table.Outcome:
    """a D + b tau with one coefficient each. See `layer_wise`."""
    return _merged(arrival, layer_wise=False)


def layer_wise(arrival: _table.Arrival) -> _table.Outcome:
    """a_k D_k + b_k tau_k with two coefficients for each tensor k, from a = 1 and b = `coefficient`.

    Adam steps on the mean entropy of predictions: of the new task's unlabelled inputs under its head, and, where there is a memory, of
    remembered inputs under the heads of their tasks. State: `head.<step>.weight` and `.bias`, the heads that memory needs.

    Source: Yang et al. (2024), arXiv:2310.02575; continually as a baseline of arXiv:2505.11883, which has no memory.
    """
    return _merged(arrival, layer_wise=True)


def _merged(arrival: _table.Arrival, *, layer_wise: bool) -> _table.Outcome:
    if arrival.data is None or arrival.data.head is None:
        raise ValueError(
            f"expected unlabelled inputs and the head of the new task for method {arrival.options.method}; received none; choose a method "
            "that sees nothing"
        )
    state = _kept(arrival)
    unknown = [] if arrival.data.pre_steps is None else arrival.data.pre_steps.unique().tolist()
    unknown = [step for step in unknown if f"head.{step}.weight" not in state]
    if unknown:
        raise ValueError(
            f"expected the heads of all remembered inputs for method {arrival.options.method}; received none of step {unknown[0]}, which used "
            "another method; use it from the first step on, or set pre_images: none"
        )
    if arrival.merged_vector is None:
        return _table.Outcome({key: value.clone() for key, value in arrival.task_vector.items()}, state)
    vectors, options = (arrival.merged_vector, arrival.task_vector), arrival.options
    keys = list(arrival.task_vector)
    start = torch.tensor([[1.0], [options.coefficient]]).repeat(1, len(keys) if layer_wise else 1)
    coefficients = start.requires_grad_()
    optimiser = torch.optim.Adam([coefficients], lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        merged = _combined(vectors, coefficients, keys)
        full = {key: (arrival.pretrained[key] + value).requires_grad_() for key, value in merged.items()}
        _loss(arrival, {**arrival.pretrained, **full}, state, generator).backward()
        slopes = torch.tensor([
            [0.0 if full[key].grad is None else float((vector[key] * full[key].grad).sum()) for key in keys] for vector in vectors
        ])  # fmt: skip
        coefficients.grad = slopes if layer_wise else slopes.sum(dim=1, keepdim=True)
        optimiser.step()
    return _table.Outcome(_combined(vectors, coefficients, keys), state)


def _kept(arrival: _table.Arrival) -> dict[str, Tensor]:
    """The heads that remembered inputs are scored with, the new one among them."""
    if arrival.options.pre_images == "none":
        return {}
    head, place = arrival.data.head, f"head.{arrival.count}"
    return {**arrival.state, f"{place}.weight": head.weight, f"{place}.bias": head.bias}


def _combined(vectors: tuple, coefficients: Tensor, keys: list[str]) -> task_vectors.Vector:
    found = coefficients.detach().expand(2, len(keys))
    return {
        key: found[0, place] * vectors[0][key] + found[1, place] * vectors[1][key] for place, key in enumerate(keys)
    }


def _loss(
    arrival: _table.Arrival, full: task_vectors.State, state: dict[str, Tensor], generator: torch.Generator
) -> Tensor:
    size, data = arrival.options.batch_size, arrival.data
    chosen = torch.randperm(len(data.post.inputs), generator=generator)[:size]
    loss = entropy(data.head.logits(data.features(full, data.post.inputs[chosen])))
    if data.pre is None:
        return loss
    chosen = torch.randperm(len(data.pre.inputs), generator=generator)[:size]
    features, steps = data.features(full, data.pre.inputs[chosen]), data.pre_steps[chosen]
    old = [
        entropy(heads.Head(state[f"head.{step}.weight"], state[f"head.{step}.bias"]).logits(features[steps == step]))
        * (steps == step).float().mean()
        for step in steps.unique().tolist()
    ]
    return loss + torch.stack(old).sum()


def entropy(logits: Tensor) -> Tensor:
    """The mean entropy of the predictions of logits (n, classes), in nats."""
    return -(functional.softmax(logits, dim=-1) * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
