"""Training masks: the loop against a plain transcription of the paper's, its choices, and messages."""

from __future__ import annotations

import math

import pytest
import torch

from otmf import settings, task_vectors
from otmf.merging import batches, curvature, fusion, mask_training, retention
from otmf.objectives import transport
from tests.otmf import two_layers
from tests.otmf.two_layers import features, merge, side, vector


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    return two_layers.state()


PAPER = settings.merge("paper", {"steps": 20})
DEFAULT = settings.merge("transport", {"steps": 20})


def test_first_step_returns_the_task_vector_whole(model) -> None:
    tau = vector(model, 1)
    found = mask_training.merge_step(model, None, tau, features=features, pre=None, post=None, options=PAPER)
    assert all(torch.equal(found.vector[key], tau[key]) for key in tau)
    assert found.masks == {}


def transcribed(model, options: settings.Otmf, pre_side: mask_training.Side, post_side: mask_training.Side):
    """METHODS section 1 as it stands: masks as leaves, autograd through the fused state, two Adams, even and odd steps."""
    merged, tau = vector(model, 1), vector(model, 2)
    found = {name: {k: torch.ones_like(v, requires_grad=True) for k, v in tau.items()} for name in ("pre", "post")}
    adams = {name: torch.optim.Adam(mask.values(), lr=options.learning_rate) for name, mask in found.items()}
    sides = {"pre": pre_side, "post": post_side}
    positions = {
        name: batches.drawn(len(sides[name].inputs), options.batch_size, seed=options.seed + place)
        for place, name in enumerate(sides)
    }
    a, b = (options.alpha, 1 - options.alpha) if options.combination == "convex" else (1.0, options.scale)
    for step in range(options.steps):
        names = (("pre", "post")[step % 2],) if options.alternate else ("pre", "post")
        loss = 0.0
        for name in names:
            fused = {k: a * found["pre"][k] * merged[k] + b * found["post"][k] * tau[k] for k in tau}
            state = {**model, **{k: model[k] + fused[k] for k in fused}}
            chosen = next(positions[name])
            loss = loss + transport.sinkhorn_divergence(
                features(state, sides[name].inputs[chosen]), sides[name].targets[chosen], epsilon=options.epsilon
            )
        for adam in adams.values():
            adam.zero_grad()
        loss.backward()
        for name in names if options.alternate else ("pre", "post"):
            adams[name].step()
    return {name: {k: v.detach() for k, v in mask.items()} for name, mask in found.items()}


@pytest.mark.parametrize("options", [PAPER, DEFAULT], ids=["paper", "default"])
def test_masks_are_those_of_a_plain_transcription(model, options) -> None:
    """Loose tolerance: the product rule is applied in another order, and Adam divides by small moments."""
    found = merge(model, options)
    expected = transcribed(model, options, side(model, vector(model, 1), 3), side(model, vector(model, 2), 4))
    for name in ("pre", "post"):
        for key in expected[name]:
            torch.testing.assert_close(found.masks[name][key].value(), expected[name][key], atol=2e-3, rtol=0)


def test_alternating_steps_train_one_side_at_a_time(model) -> None:
    found = merge(model, settings.merge("paper", {"steps": 1}))
    assert all(torch.equal(mask.value(), torch.ones_like(mask.value())) for mask in found.masks["post"].values())
    assert any(not torch.equal(mask.value(), torch.ones_like(mask.value())) for mask in found.masks["pre"].values())
    assert [entry["side"] for entry in merge(model, PAPER).trace] == ["pre", "post"] * 10


def test_learning_brings_the_cost_down_on_both_sides(model) -> None:
    found = merge(model, settings.merge("transport", {"steps": 150}))
    assert found.cost_after["pre"] < found.cost_before["pre"]
    assert found.cost_after["post"] < found.cost_before["post"]


def test_no_old_inputs_leaves_the_pre_mask_of_an_alternating_merge_alone(model) -> None:
    found = merge(model, PAPER, pre=None)
    assert all(torch.equal(mask.value(), torch.ones_like(mask.value())) for mask in found.masks["pre"].values())
    assert {entry["side"] for entry in found.trace} == {"post"}


def test_merge_is_a_function_of_its_inputs(model) -> None:
    one, other = merge(model, DEFAULT), merge(model, DEFAULT)
    assert all(torch.equal(one.vector[key], other.vector[key]) for key in one.vector)
    assert one.trace == other.trace


def test_merge_modifies_none_of_its_inputs(model) -> None:
    before = {key: value.clone() for key, value in model.items()}
    merge(model, DEFAULT)
    assert all(torch.equal(model[key], before[key]) for key in model)


def test_remainder_is_added_to_the_tensors_it_names_and_trained_around(model) -> None:
    pre, post = vector(model, 1), vector(model, 2)
    remainder = {"first.weight": torch.full((5, 6), 0.25)}
    sides = {"pre": side(model, pre, 3), "post": side(model, post, 4)}
    found = [
        mask_training.merge_step(model, pre, post, features=features, options=settings.merge("transport", {"steps": steps}),
                          start=fusion.Start((0.5, 2.0), remainder), **sides)
        for steps in (0, 100)
    ]  # fmt: skip
    for key in post:
        torch.testing.assert_close(found[0].vector[key], 0.5 * pre[key] + 2 * post[key] + remainder.get(key, 0))
    assert sum(found[1].cost_after.values()) < 0.5 * sum(found[1].cost_before.values())
    student = features(task_vectors.add(model, found[1].vector), sides["post"].inputs[:16])
    assert student.isfinite().all()


def of_old_tasks(model, strength: float) -> retention.Retention:
    pre, inputs = vector(model, 1), side(model, vector(model, 1), 3).inputs
    found = curvature.of_predictions(
        features, task_vectors.add(model, pre), inputs, probes=4, batch_size=4, seed=0
    )  # fmt: skip
    return retention.Retention(found, pre, strength)


@pytest.mark.parametrize(("steps", "drawn"), [(3, [3.0]), (10, [10.0]), (12, [10.0, 2.0])])
def test_retention_draws_the_vector_back_every_ten_steps_and_after_the_last(model, steps, drawn) -> None:
    kept, asked = of_old_tasks(model, 0.1), []
    whole = kept.drawn_back
    kept.drawn_back = lambda key, value, count: asked.append((key, count)) or whole(key, value, count)
    found = merge(model, settings.merge("transport", {"steps": steps}), pre=None, retention=kept)
    free = merge(model, settings.merge("transport", {"steps": steps}), pre=None)
    assert [count for key, count in asked if key == "first.weight"] == pytest.approx(drawn)
    if len(drawn) == 1:  # nothing was trained after it: the free merge, drawn back once
        for key, value in free.vector.items():
            torch.testing.assert_close(found.vector[key], whole(key, value, drawn[0]), atol=1e-5, rtol=1e-4)


def test_retention_draws_back_whichever_side_an_alternating_merge_lacks(model) -> None:
    """Ten of twenty steps have a side to train: they are drawn back together, though the last of the twenty trains none."""
    for lacking in ("pre", "post"):
        kept, asked = of_old_tasks(model, 0.1), []
        kept.drawn_back = lambda key, value, count, asked=asked: asked.append(count) or value
        merge(model, settings.merge("paper", {"steps": 20}), retention=kept, **{lacking: None})
        assert asked == [10.0] * len(vector(model, 1))


def test_retention_weakens_with_the_learning_rate(model) -> None:
    kept, asked = of_old_tasks(model, 0.1), []
    kept.drawn_back = lambda key, value, count: asked.append(count) or value
    merge(model, settings.merge("transport", {"steps": 10, "decay": "cosine"}), pre=None, retention=kept)
    expected = sum(0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10))
    assert asked == [pytest.approx(expected)] * len(vector(model, 1))


def test_retention_holds_the_change_of_old_predictions(model) -> None:
    changes = []
    for strength in (1e-9, 1.0):
        kept = of_old_tasks(model, strength)
        found = merge(model, settings.merge("transport", {"steps": 60}), pre=None, retention=kept)
        changes.append(kept.curvature.of({key: value - vector(model, 1)[key] for key, value in found.vector.items()}))
    assert changes[1] < changes[0] / 2


def test_cosine_decay_ends_near_zero(model) -> None:
    """The same first step; the last of forty moves masks by less than a hundredth of what a constant rate may."""
    ends = {}
    for steps in (1, 39, 40):
        for decay in ("none", "cosine"):
            options = settings.merge("transport", {"steps": steps, "decay": decay})
            ends[decay, steps] = merge(model, options).masks["post"]["first.weight"].value()
    torch.testing.assert_close(ends["none", 1], ends["cosine", 1])
    assert not torch.allclose(ends["none", 40], ends["cosine", 40], atol=1e-3)
    assert mask_training.rate(settings.merge("transport", {"steps": 40, "decay": "cosine"}), 39) < 0.01 * 0.02
    assert mask_training.rate(settings.merge("transport", {"steps": 40}), 39) == 0.02


def test_zero_task_vector_merges_without_nan(model) -> None:
    zero = task_vectors.zeros(model)
    pre = vector(model, 1)
    found = mask_training.merge_step(
        model, pre, zero, features=features, pre=side(model, pre, 3), post=side(model, zero, 4), options=PAPER
    )
    assert all(bool(torch.isfinite(value).all()) for value in found.vector.values())


def test_groups_of_tensors_change_nothing(model, monkeypatch) -> None:
    whole = merge(model, DEFAULT)
    monkeypatch.setattr(mask_training, "GROUP_BYTES", 1)
    assert len(mask_training._groups(vector(model, 1))) == 3
    single = merge(model, DEFAULT)
    assert all(torch.equal(whole.vector[key], single.vector[key]) for key in whole.vector)


def test_report_is_called_at_every_step(model) -> None:
    calls = []
    pre, post = vector(model, 1), vector(model, 2)
    mask_training.merge_step(
        model, pre, post, features=features, pre=side(model, pre, 3), post=side(model, post, 4), options=PAPER,
        report=lambda step, losses: calls.append((step, *losses)),
    )  # fmt: skip
    assert calls == [(step, ("pre", "post")[step % 2]) for step in range(20)]


def test_vectors_over_different_tensors_are_refused(model) -> None:
    pre = vector(model, 1)
    post = {key: value for key, value in pre.items() if key != "first.bias"}
    with pytest.raises(ValueError, match="expected two state dicts with the same keys"):
        mask_training.merge_step(model, pre, post, features=features, pre=None, post=None, options=PAPER)


def test_features_that_are_not_finite_stop_the_merge(model) -> None:
    broken = mask_training.Side(torch.full((20, 6), float("nan")), torch.zeros(20, 4))
    with pytest.raises(ValueError, match="look for NaN in the features"):
        merge(model, DEFAULT, post=broken)


def test_parameters_that_no_feature_depends_on_keep_their_masks() -> None:
    pretrained = {"w": torch.zeros(3, 2), "unused": torch.zeros(2)}
    merged, task = ({key: torch.full_like(value, scale) for key, value in pretrained.items()} for scale in (1.0, 2.0))
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    side = mask_training.Side(inputs, inputs @ torch.ones(3, 2))
    options = settings.Otmf(steps=4, batch_size=4, combination="sum", learning_rate=0.1)
    learned = mask_training.merge_step(
        pretrained, merged, task, features=lambda state, given: given @ state["w"], options=options, pre=side, post=side
    )
    assert bool((learned.masks["pre"]["unused"].value() == 1).all())
    assert not bool((learned.masks["pre"]["w"].value() == 1).all())


def without_a_bias(model, features, **options) -> mask_training.Merged:
    """A merge of two vectors that leave `first.bias` as it is, kept by curvature of everything."""
    pre, post = vector(model, 1), vector(model, 2)
    pre["first.bias"], post["first.bias"] = torch.zeros(5), torch.zeros(5)
    kept = curvature.of_predictions(
        lambda state, inputs: features(state, inputs), model, torch.ones(4, 6), probes=1, batch_size=2, seed=0
    )
    return mask_training.merge_step(
        model, pre, post, features=features, pre=side(model, pre, 3), post=side(model, post, 4),
        options=settings.merge("transport", {"steps": 25, **options}), retention=retention.Retention(kept, pre, 0.1),
    )  # fmt: skip


@pytest.mark.parametrize("granularity", ["element", "low_rank", "sparse"])
def test_tensors_that_no_model_moved_cost_nothing_and_change_nothing(model, granularity, monkeypatch) -> None:
    asked: list[bool] = []

    def seen(state, inputs):
        asked.append(state["first.bias"].requires_grad)
        return features(state, inputs)

    found = without_a_bias(model, seen, granularity=granularity)
    assert not any(asked[-25:])
    assert not found.vector["first.bias"].any()
    monkeypatch.setattr(mask_training, "_moved", lambda vectors, remainder: list(vectors["post"]))
    whole = without_a_bias(model, features, granularity=granularity)
    assert all(torch.equal(found.vector[key], whole.vector[key]) for key in whole.vector)


def test_vectors_that_are_zero_everywhere_merge_to_zero(model) -> None:
    zero = task_vectors.zeros(model)
    found = mask_training.merge_step(
        model, zero, zero, features=features, pre=side(model, zero, 3), post=side(model, zero, 4), options=DEFAULT
    )
    assert not any(value.any() for value in found.vector.values())
