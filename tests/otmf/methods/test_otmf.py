"""OTMF in the chain: objectives on predictions keep the heads of what is remembered, and no others."""

from __future__ import annotations

import pytest
import torch

from otmf import settings, task_vectors
from otmf.objectives import losses
from tests import makers
from tests.otmf.methods.baselines.test_adamerging import Line
from tests.otmf.methods.test_otmf_curvature import ANCHORED


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
        losses.kl(line.head(int(kind)).logits(features[k : k + 1]), line.head(int(kind)).logits(targets[k : k + 1]))
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


def test_running_mean_is_the_mean_of_all_vectors_with_masks_at_one(backbone) -> None:
    line = Line(backbone, combination="convex", schedule="running_mean", steps=0)
    for count in (1, 2, 3):
        line.step(count)
    for key in line.merged:
        torch.testing.assert_close(line.merged[key], sum(line.expert(count)[key] for count in (1, 2, 3)) / 3)


@pytest.mark.parametrize("combination", ["sum", "convex"])
def test_norm_preserving_has_the_mean_norm_of_the_task_vectors(backbone, combination) -> None:
    line = Line(backbone, combination=combination, schedule="norm_preserving", steps=0)
    for count in (1, 2, 3):
        before = line.merged
        line.step(count)
    norms = [task_vectors.norm(line.expert(count)) for count in (1, 2, 3)]
    assert task_vectors.norm(line.merged) == pytest.approx(sum(norms) / 3)
    a, b = (1.0, 1.0) if combination == "sum" else (0.8, 0.2)
    direction = {key: a * before[key] + b * line.expert(3)[key] for key in before}
    assert task_vectors.cosine(line.merged, direction) == pytest.approx(1)


def test_closed_form_start_is_wudi_for_linear_maps_and_the_sum_for_all_else(backbone) -> None:
    line, wudi = Line(backbone, start="closed_form", steps=0), Line(backbone, method="wudi")
    for count in (1, 2, 3):
        before = line.merged
        line.step(count)
        wudi.step(count)
    linear = {key.removeprefix("method.wudi.gram.") for key in wudi.state if ".gram." in key}
    assert linear
    for key, value in line.merged.items():
        expected = wudi.merged[key] if key in linear else before[key] + line.expert(3)[key]
        torch.testing.assert_close(value, expected)


def test_null_space_start_is_that_method_for_linear_maps(backbone) -> None:
    line, other = Line(backbone, start="null_space", steps=0), Line(backbone, method="null_space")
    for count in (1, 2):
        line.step(count)
        other.step(count)
    for key, value in line.merged.items():
        linear = value.ndim == 2 and "embedding" not in key
        torch.testing.assert_close(value, other.merged[key] if linear else line.expert(1)[key] + line.expert(2)[key])


@pytest.mark.parametrize("values", [{"start": "closed_form"}, {"schedule": "norm_preserving"}])
def test_start_whose_sums_were_not_kept_is_refused(backbone, values) -> None:
    line = Line(backbone, steps=1)
    line.step(1)
    line.values = {**values, "steps": 1}
    with pytest.raises(
        ValueError,
        match="expected what 1 earlier steps left for .*; received nothing, .*; set it from the first step on",
    ):
        line.step(2)


def test_running_mean_of_a_sum_is_refused() -> None:
    with pytest.raises(
        settings.SettingsError, match="expected combination convex beside schedule running_mean; received sum"
    ):
        settings.merge("transport", {"schedule": "running_mean"})


def test_units_of_tasks_are_kept_beside_their_heads(backbone) -> None:
    line = Line(backbone, **ANCHORED, memory_size=6)
    line.step(1)
    inputs = makers.pictures(6, seed=1)[0]
    base, expert = (
        losses.centred(line.head(1), line.encoder.teach(state, inputs))
        for state in (line.base, task_vectors.add(line.base, line.expert(1)))
    )
    moved = float((expert - base).square().sum(1).mean())
    assert float(line.state["method.otmf.head.1.unit"]) == pytest.approx(moved)
    line.step(2)
    done = line.step(3)
    assert {entry["side"] for entry in done.learned.trace} == {"pre", "post"}
    assert set(kept(line)) == {f"method.otmf.head.{count}.weight" for count in (1, 2, 3)}


def test_step_of_another_objective_leaves_what_the_next_one_needs(backbone) -> None:
    """As a card may ask for, or a gate that merges with unbalanced transport."""
    line = Line(backbone, **ANCHORED, memory_size=6)
    line.step(1)
    line.values |= {"objective": "sinkhorn_divergence", "reach": 0.5}
    line.step(2)
    line.values |= {"objective": "logits", "reach": None}
    line.step(3)
    assert set(kept(line)) == {f"method.otmf.head.{count}.weight" for count in (1, 2, 3)}
    assert all(f"method.otmf.head.{count}.unit" in line.state for count in (1, 2, 3))
