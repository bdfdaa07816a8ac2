"""OTMF in the chain: objectives on predictions keep the heads of what is remembered, and no others."""

from __future__ import annotations

import pytest
import torch

from otmf import continual, curvature, heads, objectives, settings, task_vectors
from tests import makers
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


ANCHORED = {"start": "curvature", "retention": 2.0, "objective": "logits", "steps": 2}


def curvature_of(line: Line) -> curvature.Curvature:
    mark = "method.otmf.curvature."
    return curvature.from_tensors({key.removeprefix(mark): v for key, v in line.state.items() if key.startswith(mark)})


def test_curvature_of_all_tasks_is_kept_in_memory_that_does_not_grow(backbone) -> None:
    """Each task's, at its expert, has its own task vector at Q = 1; the sum at two tasks is of the same shapes."""
    line = Line(backbone, **ANCHORED, pre_images="none")
    line.step(1)
    first, shapes = curvature_of(line), {key: value.shape for key, value in line.state.items()}
    assert first.of(line.expert(1)) == pytest.approx(1)
    line.step(2)
    assert {key: value.shape for key, value in line.state.items()} == shapes
    total = curvature_of(line)
    for key, (A,) in first.inner.items():
        assert float(total.inner[key][0].trace()) > float(A.trace())


def balance(line: Line, weight_of_old: float) -> task_vectors.Vector:
    """Where the line's curvature so far, so many times as heavy, and that of its second task balance."""
    old, tau, inputs = curvature_of(line), line.expert(2), makers.pictures(6, seed=2)[0]
    new = curvature.of_predictions(
        lambda state, x: objectives.centred(line.head(2), line.encoder.features(state, x)),
        task_vectors.add(line.base, tau), line.encoder.prepare(inputs), probes=1, batch_size=4, seed=0,
    )  # fmt: skip
    return curvature.merged(
        line.merged, old.scaled(weight_of_old), tau, new.scaled(1 / new.of(tau)), count=2, damping=1e-2
    )


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_merge_begins_where_old_and_new_curvature_balance(backbone, weight) -> None:
    line = Line(backbone, **ANCHORED | {"steps": 0}, pre_images="none", weight_of_old=weight)
    line.step(1)
    expected = balance(line, weight)
    found = line.step(2).vector
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("start", ["curvature", "ones"])
def test_retention_draws_back_towards_that_balance_wherever_a_merge_begins(backbone, start) -> None:
    """So strong that nothing else is left of what masks, or the start, changed in what predictions depend on."""
    values = ANCHORED | {"retention": 1e12, "start": start, "pre_images": "none", "weight_of_old": 5.0}
    line = Line(backbone, **values)
    line.step(1)
    expected, old = balance(line, 5.0), curvature_of(line)
    done = line.step(2)
    assert any(bool((mask.value() != 1).any()) for mask in done.learned.masks["post"].values())
    apart = {key: value - expected[key] for key, value in done.vector.items()}
    assert old.of(apart) < 1e-6 * old.of(expected)


def test_units_of_tasks_are_kept_beside_their_heads(backbone) -> None:
    line = Line(backbone, **ANCHORED, memory_size=6)
    line.step(1)
    inputs = makers.pictures(6, seed=1)[0]
    base, expert = (
        objectives.centred(line.head(1), line.encoder.teach(state, inputs))
        for state in (line.base, task_vectors.add(line.base, line.expert(1)))
    )
    moved = float((expert - base).square().sum(1).mean())
    assert float(line.state["method.otmf.head.1.unit"]) == pytest.approx(moved)
    line.step(2)
    done = line.step(3)
    assert {entry["side"] for entry in done.learned.trace} == {"pre", "post"}
    assert set(kept(line)) == {f"method.otmf.head.{count}.weight" for count in (1, 2, 3)}


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
        objectives.centred(line.head(of), line.encoder.teach(state, inputs))
        for state in (line.base, task_vectors.add(line.base, line.expert(of)))
    )
    scale = head.weight.norm(dim=1).mean() / line.head(of).weight.norm(dim=1).mean()  # both in units of the frozen head
    apart = scale * objectives.centred(head, found) - expert
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


def test_expert_that_is_the_base_merges_without_nan(backbone) -> None:
    line = Line(backbone, **ANCHORED, memory_size=6)
    zero = {key: torch.zeros_like(value) for key, value in line.expert(1).items()}
    own = line.expert
    line.expert = lambda count: zero if count in (1, 3) else own(count)
    for count in (1, 2, 3):
        done = line.step(count)
        assert all(bool(value.isfinite().all()) for value in done.vector.values()), count


def test_head_that_tells_no_class_from_another_is_refused(backbone) -> None:
    line = Line(backbone, **ANCHORED, pre_images="none")
    head = line.head(1)
    line.head = lambda count: heads.Head(head.weight[:1].expand_as(head.weight).clone(), head.bias)
    with pytest.raises(
        ValueError, match="expected a head that tells classes apart .* received one whose 3 class vectors are equal"
    ):
        line.step(1)


@pytest.mark.parametrize(("first", "second"), [((), ("ln_*",)), (("ln_*",), ())])
def test_curvature_outlives_a_change_of_what_is_left_out(backbone, first, second) -> None:
    line = Line(backbone, **ANCHORED, pre_images="none")
    whole = line.values
    for count, left_out in enumerate((first, second, ()), start=1):
        line.values = {**whole, "left_out": list(left_out)}
        line.step(count)
    known = curvature_of(line)
    assert known.inner.keys() | known.diagonal.keys() == line.merged.keys()


def test_start_that_would_undo_old_tasks_is_damped_and_said(backbone) -> None:
    """A task vector fifty times as long, started from as a plain sum: only so much of it is taken as the bound allows."""
    values = ANCHORED | {"start": "ones", "steps": 0, "pre_images": "none"}
    line = Line(backbone, **values, largest_damage=0.1)
    own = line.expert
    line.expert = lambda count: {key: (50 if count == 2 else 1) * value for key, value in own(count).items()}
    line.step(1)
    old, D = curvature_of(line), line.merged
    done = line.step(2)
    change = {key: done.vector[key] - D[key] for key in D}
    assert old.of(change) == pytest.approx(0.1)
    assert done.notes["foretold_damage"] == pytest.approx(old.of(line.expert(2)))
    assert done.notes["share_of_the_start"] == pytest.approx((0.1 / done.notes["foretold_damage"]) ** 0.5)
    gentle = Line(backbone, **values, largest_damage=1e9)
    gentle.step(1)
    assert gentle.step(2).notes["share_of_the_start"] == 1


def test_steps_that_kept_no_curvature_are_named(backbone) -> None:
    line = Line(backbone, steps=1)
    line.step(1)
    line.values = ANCHORED
    with pytest.raises(
        ValueError,
        match="expected what 1 earlier steps left for start: curvature, .* or leave it out with preset: transport",
    ):
        line.step(2)  # fmt: skip


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
