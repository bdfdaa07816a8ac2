"""Fisher merging against its definition, in float64, on an encoder of one linear map."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from otmf import heads, methods, settings
from otmf.merging import mask_training
from otmf.methods.baselines import fisher

SHAPES = {"block.weight": (4, 6), "block.bias": (4,), "idle.weight": (2, 2)}  # nothing depends on the last
PRETRAINED = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in SHAPES.items()}


def features(state, inputs):
    return inputs @ state["block.weight"].T + state["block.bias"]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Task:
    def __init__(self, seed: int, inputs: int = 20) -> None:
        self.vector = {
            key: drawn(100 * seed + place, *shape) for place, (key, shape) in enumerate(SHAPES.items(), start=1)
        }
        self.inputs = drawn(100 * seed + 50, inputs, 6)
        self.head = heads.Head(3 * drawn(100 * seed + 60, 3, 4), drawn(100 * seed + 70, 3))

    def arrival(self, count=1, merged=None, state=None, head: heads.Head | None = None, **values) -> methods.Arrival:
        side = mask_training.Side(self.inputs, features(self.vector, self.inputs))
        data = methods.Data(features, None, side, head=head or self.head)
        options = settings.merge("default", {"method": "fisher", **values})
        return methods.Arrival(PRETRAINED, merged, self.vector, count, state or {}, options, data)


def stream(tasks, **values):
    merged, state = None, {}
    for count, task in enumerate(tasks, start=1):
        found = methods.merge(task.arrival(count, merged, state, **values))
        merged, state = found.vector, found.state
    return merged, state


TASKS = [Task(seed) for seed in (1, 2, 3)]


def test_information_is_the_mean_squared_slope_of_a_drawn_class() -> None:
    task = Task(1, inputs=1500)
    found = fisher.information(task.arrival())
    leaves = {key: value.clone().requires_grad_() for key, value in task.vector.items()}
    expected = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in SHAPES.items()}
    for one in task.inputs[:, None]:
        p = task.head.logits(features(leaves, one)).softmax(dim=1)[0]
        for probability in p:
            gradients = torch.autograd.grad(probability.log(), list(leaves.values()), retain_graph=True, allow_unused=True)  # fmt: skip
            for key, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    expected[key] += probability.item() * gradient**2 / len(task.inputs)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0.25, atol=0.05 * float(expected[key].max()))
        torch.testing.assert_close(value.sum(), expected[key].sum(), rtol=0.1, atol=0)


@pytest.mark.parametrize("normalise", [True, False])
def test_merge_is_the_mean_weighed_by_information_over_all_tasks(normalise) -> None:
    found, _ = stream(TASKS, normalise=normalise)
    every = [fisher.information(task.arrival()) for task in TASKS]
    lengths = [sum(float(F.square().sum()) for F in own.values()) ** 0.5 if normalise else 1 for own in every]
    weights = [{key: F / length + 1e-6 for key, F in own.items()} for own, length in zip(every, lengths, strict=True)]
    for key in SHAPES:
        total = sum(weight[key] for weight in weights)
        expected = sum(weight[key] * task.vector[key] for weight, task in zip(weights, TASKS, strict=True)) / total
        torch.testing.assert_close(found[key], expected, atol=1e-10, rtol=1e-10)
    assert float(weights[0]["block.weight"].max()) > 1e-3


def test_what_no_prediction_depends_on_is_averaged() -> None:
    found, _ = stream(TASKS)
    torch.testing.assert_close(found["idle.weight"], sum(task.vector["idle.weight"] for task in TASKS) / 3)


def test_order_does_not_matter_and_the_state_does_not_grow() -> None:
    found, state = stream(TASKS)
    other, _ = stream(TASKS[::-1])
    for key in SHAPES:
        torch.testing.assert_close(found[key], other[key], atol=1e-10, rtol=1e-10)
    _, first = stream(TASKS[:1])
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in state.items()}


def test_zero_vector_and_a_head_that_tells_nothing_apart_stay_finite() -> None:
    still = Task(4)
    still.vector = {key: torch.zeros_like(value) for key, value in still.vector.items()}
    found, _ = stream([still, TASKS[0]])
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    flat = heads.Head(torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert all(float(value.abs().max()) == 0 for value in fisher.information(TASKS[0].arrival(head=flat)).values())


def test_inputs_and_their_head_are_required() -> None:
    arrival = TASKS[0].arrival()
    with pytest.raises(ValueError, match="expected unlabelled inputs and the head of the new task for method fisher"):
        methods.merge(dataclasses.replace(arrival, data=dataclasses.replace(arrival.data, head=None)))
    with pytest.raises(ValueError, match="expected what 1 earlier steps of method fisher left; received nothing"):
        methods.merge(TASKS[1].arrival(2, TASKS[0].vector))
