"""OTMF by curvature: what is kept of it, where a merge begins and is drawn back to, what a start may undo."""

from __future__ import annotations

import pytest
import torch

from otmf import heads, task_vectors
from otmf.merging import curvature
from otmf.objectives import losses
from tests import makers
from tests.otmf.methods.baselines.test_adamerging import Line

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
        lambda state, x: losses.centred(line.head(2), line.encoder.features(state, x)),
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
