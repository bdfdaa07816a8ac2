"""OTMF read through the head as it will be aligned."""

from __future__ import annotations

import pytest
import torch

from otmf import continual, heads, task_vectors
from otmf.objectives import losses
from tests import makers
from tests.otmf.methods.baselines.test_adamerging import Line
from tests.otmf.methods.test_otmf_curvature import ANCHORED

ALIGNED = ANCHORED | {"head_ridge": 10.0, "steps": 1, "batch_size": 6, "memory_size": 6}


def at_start(line: Line, count: int, of: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the start of a step, masks at one, gives to the inputs of a task, and the logits its expert gives them."""
    other = Line(line.backbone, **line.values)
    for earlier in range(1, count):
        other.step(earlier)
    other.values |= {"steps": 0}
    model, inputs = task_vectors.add(line.base, other.step(count).vector), makers.pictures(6, seed=of)[0]
    expert = task_vectors.add(line.base, line.expert(of))
    return line.encoder.teach(model, inputs), line.head(of).logits(line.encoder.teach(expert, inputs))


def lost(line: Line, of: int, head: heads.Head, found: torch.Tensor) -> float:
    """The share of what a task's fine-tuning did to its inputs that merged features have lost, as a head reads them."""
    inputs = makers.pictures(6, seed=of)[0]
    base, expert = (
        losses.centred(line.head(of), line.encoder.teach(state, inputs))
        for state in (line.base, task_vectors.add(line.base, line.expert(of)))
    )
    scale = head.weight.norm(dim=1).mean() / line.head(of).weight.norm(dim=1).mean()  # both in units of the frozen head
    apart = scale * losses.centred(head, found) - expert
    return float(apart.square().sum(1).mean() / (expert - base).square().sum(1).mean())


def first_loss(done: continual.Step, side: str) -> float:
    return next(entry["loss"] for entry in done.learned.trace if entry["side"] == side)


def test_merged_model_is_read_through_the_head_aligned_to_its_start(backbone) -> None:
    line = Line(backbone, **ALIGNED)
    line.step(1)
    done = line.step(2)
    found, wanted = at_start(line, 2, of=2)
    aligned = heads.aligned(line.head(2), found, wanted, ridge=10.0)
    assert first_loss(done, "post") == pytest.approx(lost(line, 2, aligned, found), rel=1e-5)
    assert first_loss(done, "post") < lost(line, 2, line.head(2), found)
    torch.testing.assert_close(line.state["method.otmf.head.2.aligned"], aligned.weight)
    assert "method.otmf.head.1.aligned" not in line.state  # the first task is merged whole: its head fits as it came


def test_remembered_inputs_are_read_through_the_head_that_was_aligned(backbone) -> None:
    line = Line(backbone, **ALIGNED | {"pre_images": "previous_task"})
    for count in (1, 2):
        line.step(count)
    aligned = heads.Head(line.state["method.otmf.head.2.aligned"], line.head(2).bias)
    found, _ = at_start(line, 3, of=2)
    assert first_loss(line.step(3), "pre") == pytest.approx(lost(line, 2, aligned, found), rel=1e-5)
    assert lost(line, 2, aligned, found) != pytest.approx(lost(line, 2, line.head(2), found), rel=1e-2)


def test_head_that_would_fit_what_is_particular_to_few_inputs_is_not_aligned(backbone) -> None:
    line = Line(backbone, **ALIGNED | {"head_ridge": 0.1})
    line.step(1)
    done = line.step(2)
    found, _ = at_start(line, 2, of=2)
    assert heads.degrees_of_freedom(found, ridge=0.1) > 0.2 * len(found)
    assert first_loss(done, "post") == pytest.approx(lost(line, 2, line.head(2), found), rel=1e-5)
    assert "method.otmf.head.2.aligned" not in line.state


@pytest.mark.parametrize(("ridge", "strength"), [(10.0, 0.03), (0.1, 3.0)])  # aligned, and not (the tests above)
def test_retention_is_that_of_how_the_model_was_read(backbone, ridge, strength) -> None:
    def merged(**values) -> task_vectors.Vector:
        line = Line(backbone, **ALIGNED | {"head_ridge": ridge, "steps": 3, "learning_rate": 0.1} | values)
        line.step(1)
        return line.step(2).vector

    found = merged(retention=3.0, aligned_retention=0.03)
    same, other = merged(retention=strength), merged(retention=3.03 - strength)
    for key, value in found.items():
        torch.testing.assert_close(value, same[key])
    assert task_vectors.norm(task_vectors.subtract(same, other)) > 1e-4


def test_objectives_on_features_align_no_head(backbone) -> None:
    line = Line(backbone, objective="mse", head_ridge=0.1, steps=1)
    line.head = lambda count: None
    line.step(1)
    line.step(2)
    assert not [key for key in line.state if "head" in key]
