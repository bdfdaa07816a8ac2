"""OTMF in the chain: objectives on predictions keep the heads of what is remembered, and no others."""

from __future__ import annotations

import pytest
import torch

from otmf import objectives, task_vectors
from tests.otmf.methods.test_adamerging import Line


def kept(line: Line) -> list[str]:
    return sorted(key for key in line.state if key.endswith(".weight") and ".head." in key)


@pytest.mark.parametrize(
    ("pre_images", "expected"),
    [("memory", [1, 2, 3]), ("previous_task", [3]), ("new_task", []), ("none", [])],
)
@pytest.mark.parametrize("objective", ["kl", "entropy"])
def test_heads_are_kept_for_what_is_remembered(backbone, objective, pre_images, expected) -> None:
    line = Line(backbone, objective=objective, pre_images=pre_images, memory_size=6, steps=2)
    for count in (1, 2, 3):
        done = line.step(count)
    assert kept(line) == [f"method.otmf.head.{count}.weight" for count in expected]
    assert {entry["side"] for entry in done.learned.trace} == ({"post"} if pre_images == "none" else {"pre", "post"})
    for count in expected:
        assert torch.equal(line.state[f"method.otmf.head.{count}.bias"], line.head(count).bias)


def test_objectives_on_features_keep_no_head_and_need_none(backbone) -> None:
    line = Line(backbone, objective="mse", steps=1)
    line.head = lambda count: None
    line.step(1)
    line.step(2)
    assert kept(line) == []


def test_first_loss_is_that_of_each_inputs_own_head(backbone) -> None:
    """Six remembered inputs of two tasks, all in one batch: the mean of KL(expert | sum of vectors) under the heads of their tasks."""
    line = Line(backbone, objective="kl", memory_size=6, steps=1, batch_size=6)
    line.step(1)
    line.step(2)
    kinds, inputs, targets = (line.state[f"memory.{name}"] for name in ("steps", "inputs", "targets"))
    fused = {key: line.merged[key] + value for key, value in line.expert(3).items()}
    features = line.encoder.teach(task_vectors.add(line.base, fused), inputs.numpy())
    rows = [
        objectives.kl(line.head(int(kind)).logits(features[k : k + 1]), line.head(int(kind)).logits(targets[k : k + 1]))
        for k, kind in enumerate(kinds)
    ]
    done = line.step(3)
    assert sorted(kinds.tolist()) == [1, 1, 1, 2, 2, 2]
    assert done.learned.trace[0] == {"step": 0, "side": "pre", "loss": pytest.approx(float(torch.stack(rows).mean()))}


def test_memory_whose_heads_were_not_kept_is_refused(backbone) -> None:
    line = Line(backbone, steps=1)
    line.step(1)
    line.values = {"objective": "kl"}
    with pytest.raises(
        ValueError, match="expected the heads of all remembered inputs for method otmf; received none of step 1"
    ):
        line.step(2)


def test_no_head_is_refused(backbone) -> None:
    line = Line(backbone, objective="kl", steps=1)
    line.head = lambda count: None
    with pytest.raises(
        ValueError, match="expected unlabelled inputs and the head of the new task for method otmf; received none"
    ):
        line.step(1)
