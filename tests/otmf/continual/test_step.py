"""Streams of merges: what each step sees, what it leaves, and that it does not grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otmf import backbones, continual, heads, methods, settings, task_vectors
from tests import makers
from tests.otmf.methods.baselines.test_adamerging import Line


class Stream:
    """A line of merges over the small backbone, kept in memory."""

    def __init__(self, backbone: backbones.Backbone) -> None:
        self.backbone, self.encoder = backbone, continual.Encoder(backbone.features, backbone.prepare)
        self.pretrained = backbone.initial_state(seed=0)
        self.merged, self.state, self.count = None, {}, 0
        width = self.encoder.teach(self.pretrained, backbone.blank()).shape[1]
        self.head = heads.Head(torch.randn(3, width, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
        self.recall = methods.computed

    def step(self, **values) -> continual.Step:
        self.count += 1
        generator = torch.Generator().manual_seed(self.count)
        tau = {
            key: 0.02 * torch.randn(value.shape, generator=generator)
            for key, value in task_vectors.floats(self.pretrained).items()
        }
        options = settings.merge("transport", {"steps": 2, "batch_size": 4, "memory_size": 12}, values)
        done = continual.advance(self.pretrained, self.merged, tau, count=self.count, state=self.state, options=options,
                                 encoder=self.encoder, unlabelled=self.pixels, head=self.head, recall=self.recall)  # fmt: skip
        self.merged, self.state = done.vector, done.state
        return done

    def pixels(self) -> np.ndarray:
        return makers.pictures(10, seed=100 + self.count)[0]


@pytest.fixture
def stream(backbone) -> Stream:
    return Stream(backbone)


def test_memory_holds_all_old_tasks_and_does_not_grow(stream) -> None:
    sizes = []
    for _ in range(5):
        done = stream.step()
        sizes.append(sum(value.numel() for value in done.state.values()))
    assert len(set(sizes[1:])) == 1
    assert done.saw["pre_steps"] == [1, 2, 3, 4]
    assert done.saw["pre_images"] == 12


def test_merged_vector_that_is_not_finite_is_refused(stream) -> None:
    stream.step(method="task_arithmetic")
    with pytest.raises(
        ValueError, match="expected a finite merged vector from method task_arithmetic; received NaN or infinity"
    ):
        stream.step(method="task_arithmetic", lines=[1e200, 1e200])


def changed(stream: Stream, how) -> dict[str, torch.Tensor]:
    """A task vector after `how` was done to its first tensor of two dimensions, by key."""
    tau = {key: torch.full(value.shape, 0.01) for key, value in task_vectors.floats(stream.pretrained).items()}
    how(tau, next(key for key, value in tau.items() if value.ndim == 2))
    return tau


WRONG = {
    "received NaN or infinity in 1 tensors": lambda tau, key: tau[key].view(-1)[0].fill_(float("nan")),
    "expected a task vector of finite numbers": lambda tau, key: tau[key].view(-1)[0].fill_(float("inf")),
    "received one that differs in 1": lambda tau, key: tau.pop(key),
    "float32 or float64; received 1 others": lambda tau, key: tau.update({key: tau[key].half()}),
    "in the shapes of the model": lambda tau, key: tau.update({key: tau[key][:1]}),
}


@pytest.mark.parametrize("said", WRONG)
@pytest.mark.parametrize("name", ["otmf", "ties", "dare", "tsv_m", "magmax"])
def test_vector_that_is_none_of_this_model_is_refused_before_a_method_sees_it(stream, name, said) -> None:
    options = settings.merge("transport", {"method": name})
    with pytest.raises(ValueError, match=said):
        continual.advance(stream.pretrained, None, changed(stream, WRONG[said]), count=1, state={}, options=options,
                          encoder=stream.encoder, unlabelled=stream.pixels, head=stream.head)  # fmt: skip


@pytest.mark.parametrize("name", ["otmf", "lot", "fisher", "regmean", "adamerging_layer_wise", "distillation"])
def test_method_that_reads_inputs_is_refused_without_any(stream, name) -> None:
    stream.pixels = lambda: makers.pictures(10, seed=0)[0][:0]
    with pytest.raises(
        ValueError, match=f"expected unlabelled inputs of the new task for method {name}; received none"
    ):
        stream.step(method=name)


@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize(
    "values", [{"method": "adamerging_layer_wise", "pre_images": "memory"}, {"method": "distillation", "objective": "kl"}]
)  # fmt: skip
def test_heads_are_kept_only_of_tasks_of_which_inputs_are(stream, values, size) -> None:
    for _ in range(6):
        done = stream.step(memory_size=size, **values)
    heads_of = {int(key.split(".")[3]) for key in done.state if ".head." in key}
    assert heads_of == (set(done.state["memory.steps"].tolist()) if size else set())


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_tensor_of_no_element_is_left_as_it_is(stream, name) -> None:
    stream.pretrained |= {"empty.weight": torch.empty(0, 3), "empty.bias": torch.empty(0)}
    whole, features = stream.encoder, stream.backbone.features
    without = lambda state, inputs: features({key: value for key, value in state.items() if "empty" not in key}, inputs)  # noqa: E731
    stream.encoder = continual.Encoder(without, whole.prepare)
    preset = {"start": "curvature", "granularity": "low_rank"} if name == "otmf" else {}
    for _ in range(2):
        done = stream.step(method=name, **preset)
    assert done.vector["empty.weight"].shape == (0, 3)


def test_remembered_targets_are_those_of_each_tasks_own_expert(stream) -> None:
    stream.step()
    first = stream.state["memory.targets"].clone()
    expert = task_vectors.add(stream.pretrained, stream.merged)
    expected = stream.encoder.teach(expert, stream.state["memory.inputs"].numpy())
    torch.testing.assert_close(first, expected)
    stream.step()
    kept = stream.state["memory.steps"] == 1
    rows = stream.state["memory.targets"][kept]
    assert all(any(torch.equal(row, other) for other in first) for row in rows)


def test_previous_task_alone_is_kept_where_asked(stream) -> None:
    for _ in range(3):
        done = stream.step(pre_images="previous_task")
    assert done.saw["pre_steps"] == [2]


def test_what_was_measured_of_a_task_alone_is_taken_from_the_caller(stream) -> None:
    kept = {}

    def recall(name, compute):
        return kept.setdefault((stream.count, name), compute())

    first, second = stream, Stream(stream.backbone)
    first.recall = recall
    expected = [first.step(start="curvature", retention=0.3) for _ in range(2)]
    assert len(kept) == 2
    second.recall = lambda name, compute: kept[second.count, name]
    for done in expected:
        again = second.step(start="curvature", retention=0.3)
        assert done.state.keys() == again.state.keys()
        assert all(torch.equal(done.state[key], again.state[key]) for key in done.state)


def test_what_depends_on_the_merged_model_is_not_asked_of_the_caller(stream) -> None:
    stream.recall = lambda name, compute: pytest.fail("it asked")
    stream.step(start="curvature", left_out=["ln_*"])


@pytest.mark.parametrize("kind", ["new_task", "none"])
def test_no_old_image_is_kept_where_none_may_be(stream, kind) -> None:
    for _ in range(2):
        done = stream.step(pre_images=kind)
    assert "memory.steps" not in done.state
    assert done.saw["pre_images"] == (10 if kind == "new_task" else 0)


def test_memory_survives_a_step_of_a_method_that_sees_nothing(stream) -> None:
    stream.step()
    assert stream.step(method="running_average").saw["pre_images"] == 0
    assert stream.step().saw["pre_steps"] == [1]


def test_method_that_sees_nothing_is_never_handed_pixels(stream, monkeypatch) -> None:
    monkeypatch.setattr(stream, "pixels", lambda: pytest.fail("it asked for pixels"))
    for _ in range(2):
        stream.step(method="wudi")


@pytest.mark.parametrize("method", ["otmf", "running_average", "task_arithmetic", "wudi"])
def test_what_is_left_out_of_the_merge_stays_as_it_is(stream, method) -> None:
    names = [key for key in task_vectors.floats(stream.pretrained) if key.startswith("ln_")]
    assert names
    done = stream.step(method=method, left_out=["ln_*"])
    assert all(not done.vector[key].any() for key in names), "of the first task nothing is taken either"
    done = stream.step(method=method, left_out=["ln_*"])
    assert set(done.vector) == set(task_vectors.floats(stream.pretrained))
    assert all(not done.vector[key].any() for key in names)
    assert all(done.vector[key].any() for key in done.vector if key not in names)
    assert not any(key.removeprefix("mask.").startswith("ln_") for key in done.state)


WEIGHT = "transformer.resblocks.1.mlp.c_fc.weight"
# methods that merge a matrix by sums over its tasks alone
SUMMED = ("magmax", "iso_c", "wudi", "fisher", "regmean", "lot")


@pytest.mark.parametrize("name", sorted(set(methods.METHODS) - {"otmf"}))
@pytest.mark.parametrize("left_out_at", [1, 2])
def test_tensor_that_one_step_leaves_out_is_merged_by_the_others(backbone, name, left_out_at) -> None:
    line, others = Line(backbone, method=name), Line(backbone, method=name)
    for count in (1, 2, 3):
        line.values = {"method": name, "left_out": [WEIGHT] if count == left_out_at else []}
        before = line.merged or task_vectors.zeros(line.base)
        line.step(count)
        assert torch.equal(line.merged[WEIGHT], before[WEIGHT]) == (count == left_out_at)
    for count, task in enumerate(sorted({1, 2, 3} - {left_out_at}), start=1):
        others.step(count, task)
    if name in SUMMED:
        torch.testing.assert_close(line.merged[WEIGHT], others.merged[WEIGHT], atol=1e-9, rtol=1e-7)


def test_what_earlier_steps_merged_is_kept_when_it_is_left_out_later(stream) -> None:
    before = stream.step().vector
    done = stream.step(left_out=["*.bias"])
    names = [key for key in before if key.endswith(".bias")]
    assert names
    assert all(torch.equal(done.vector[key], before[key]) for key in names)
    assert not any(torch.equal(done.vector[key], before[key]) for key in before if key not in names)
    assert not any(key.endswith(".bias") for side in done.learned.masks.values() for key in side)


def test_masks_are_trained_on_the_model_as_it_will_be(stream) -> None:
    """The expert is compared with as it is; the merged model with what is left out in place."""
    seen = []
    features = stream.encoder.features
    stream.encoder = continual.Encoder(
        lambda state, inputs: (seen.append(state), features(state, inputs))[1], stream.encoder.prepare
    )
    first = stream.step()
    fixed = task_vectors.add(stream.pretrained, first.vector)["ln_pre.weight"]
    seen.clear()
    stream.step(left_out=["ln_*"])
    kept = [torch.equal(state["ln_pre.weight"], fixed) for state in seen]
    assert not kept[0], "the new expert, with its own"
    assert all(kept[1:])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("embed*", "received 'embed\\*', which none matches"), ("*", "leave some tensors of the encoder")],
)
def test_patterns_that_name_nothing_or_everything_are_refused(stream, pattern, said) -> None:
    with pytest.raises(ValueError, match=said):
        stream.step(left_out=[pattern])


@pytest.mark.parametrize("method", ["otmf", "task_arithmetic"])
def test_what_batch_norms_counted_is_averaged(method) -> None:
    """Three variances of 0.6 of the base's, summed as differences, were -0.2 of it, and the features not numbers."""
    backbone = backbones.build({"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}})
    base, merged, state = backbone.initial_state(seed=0), None, {}
    counted = [key for key in base if key.endswith(("running_mean", "running_var"))]
    assert counted
    encoder = continual.Encoder(backbone.features, backbone.prepare)
    pixels = makers.pictures(6, seed=1, size=32)[0]
    options = settings.merge("transport", {"steps": 2, "batch_size": 4}, {"method": method})
    for count in (1, 2, 3):
        tau = {key: torch.zeros_like(value) for key, value in task_vectors.floats(base).items()}
        tau |= {key: 0.01 * count - 0.4 * base[key] for key in counted}
        done = continual.advance(base, merged, tau, count=count, state=state, options=options, encoder=encoder,
                                 unlabelled=lambda: pixels)  # fmt: skip
        merged, state = done.vector, done.state
    for key in counted:
        torch.testing.assert_close(merged[key], 0.02 - 0.4 * base[key])
    assert encoder.teach(task_vectors.add(base, merged), pixels).isfinite().all()


def test_what_another_method_left_is_not_taken_for_ones_own(stream) -> None:
    """Both keep sums under the same names, of other tensors."""
    stream.step(method="wudi")
    with pytest.raises(ValueError, match="expected what 1 earlier steps of method iso_c left; received nothing"):
        stream.step(method="iso_c")


def test_running_sums_that_an_earlier_release_left_are_taken_up(stream) -> None:
    stream.step(method="wudi")
    stream.state = {key.removeprefix("method.wudi."): value for key, value in stream.state.items()}
    former = stream.step(method="wudi").vector
    again = Stream(stream.backbone)
    again.step(method="wudi")
    wanted = again.step(method="wudi").vector
    assert all(torch.equal(former[key], wanted[key]) for key in wanted)
