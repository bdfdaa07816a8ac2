"""Distillation: one step by a few lines of autograd, what it starts from, and what it keeps."""

from __future__ import annotations

import pytest
import torch

from otmf import task_vectors
from tests import makers
from tests.otmf.methods.baselines.test_adamerging import Line


@pytest.mark.parametrize("start", ["merged", "sum"])
def test_a_step_is_adams_on_the_squared_distance_of_features(backbone, start) -> None:
    """Adam's first step is the learning rate times the sign of the gradient."""
    line = Line(backbone, method="distillation", start=start, steps=1, learning_rate=0.01, batch_size=6, memory_size=6)
    line.step(1)
    tau, kept = line.expert(2), {name: line.state[f"memory.{name}"] for name in ("inputs", "targets")}
    begin = {key: value + (tau[key] if start == "sum" else 0) for key, value in line.merged.items()}
    leaves = {key: (line.base[key] + value).requires_grad_() for key, value in begin.items()}
    expert, loss = task_vectors.add(line.base, tau), 0.0
    new = makers.pictures(6, seed=2)[0]
    for inputs, targets in ((kept["inputs"].numpy(), kept["targets"]), (new, line.encoder.teach(expert, new))):
        found = line.encoder.features({**line.base, **leaves}, line.encoder.prepare(inputs))
        loss = loss + (found - targets).square().mean()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    found = line.step(2).vector
    for key, gradient in gradients.items():
        sure = gradient.abs() > 1e-6
        expected = begin[key] - 0.01 * gradient.sign()
        torch.testing.assert_close(found[key][sure], expected[sure].detach(), atol=2e-4, rtol=0)


def test_objectives_on_predictions_keep_heads(backbone) -> None:
    line = Line(backbone, method="distillation", objective="logits", steps=1, memory_size=6)
    line.step(1)
    line.step(2)
    assert torch.equal(line.state["method.distillation.head.1.weight"], line.head(1).weight)


def test_without_memory_it_learns_the_new_task_alone(backbone) -> None:
    line = Line(backbone, method="distillation", steps=1, pre_images="none")
    line.step(1)
    done = line.step(2)
    assert done.saw["pre_images"] == 0
    assert not [key for key in done.state if key.startswith("memory")]


def test_training_that_diverges_is_stopped(backbone) -> None:
    line = Line(backbone, method="distillation", steps=3, learning_rate=1e300, pre_images="none")
    line.step(1)
    with pytest.raises(ValueError, match="expected a finite loss on the post side; received .* at step 1"):
        line.step(2)
