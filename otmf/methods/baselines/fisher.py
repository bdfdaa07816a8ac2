"""Fisher merging, as running sums: the mean of the task vectors, each number weighed by how much its task's predictions depend on it.

m = sum_i F_i tau_i / sum_i F_i, F_i the diagonal of the Fisher information at expert i. Both sums are kept, so memory does not grow with
the number of tasks, no old input is read again, and the order does not matter, unless tensors are left out.

Source: Matena and Raffel (2022), arXiv:2111.09832. Their code takes the mean over all classes where some are drawn here, a floor where it is
added here, and searches a coefficient for each task on labelled inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import interface, remembered_heads


def step(arrival: interface.Arrival) -> interface.Outcome:
    """One task, with F_i measured on its unlabelled inputs under its own head.

    With `normalise` F_i has length one over all tensors, as in the published code: a task whose expert is unsure does not outweigh the others.
    `floor` is added to it: what no prediction depends on is averaged.

    Raises:
        ValueError: if the caller has no head, or earlier steps used another method.
    """
    interface.require_state(arrival)
    remembered_heads.required(arrival)
    options = arrival.options
    how = f"fisher {options.code_version} {options.draws} {options.seed}"
    found = arrival.data.recall(how, lambda: information(arrival))
    length = task_vectors.norm(found) if options.normalise else 1.0
    vector: task_vectors.Vector = {}
    state: dict[str, Tensor] = {}
    for key, tau in arrival.task_vector.items():
        weight = found[key] / (length or 1.0) + options.floor
        state[f"fisher.{key}"] = interface.added(arrival, f"fisher.{key}", weight)
        state[f"product.{key}"] = interface.added(arrival, f"product.{key}", weight * tau)
        vector[key] = state[f"product.{key}"] / state[f"fisher.{key}"]
    return interface.Outcome(vector, state)


def information(arrival: interface.Arrival) -> dict[str, Tensor]:
    """diag E_x E_{y ~ p(y|x)} (grad log p(y|x))^2 at the expert, key -> the shape of its tensor; `draws` of y for each x."""
    head, data, draws = arrival.data.head, arrival.data, arrival.options.draws
    leaves = {
        key: (arrival.pretrained[key] + value).detach().requires_grad_() for key, value in arrival.task_vector.items()
    }
    full, generator = {**arrival.pretrained, **leaves}, interface.generator(arrival.options.seed, "fisher")
    sums = {key: torch.zeros_like(value) for key, value in leaves.items()}
    for one in data.post.inputs.split(1):
        told = head.logits(data.features(full, one)).log_softmax(dim=1)[0]
        drawn = torch.multinomial(told.detach().double().exp().cpu(), draws, replacement=True, generator=generator)
        for place, y in enumerate(drawn.tolist(), start=1):
            gradients = torch.autograd.grad(
                told[y], list(leaves.values()), allow_unused=True, retain_graph=place < draws
            )
            for key, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    sums[key].add_(gradient.square())
    return {key: value / (draws * len(data.post.inputs)) for key, value in sums.items()}
