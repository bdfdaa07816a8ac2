"""Methods of the table: each against a few lines that transcribe its definition, in float64, and the known faults."""

from __future__ import annotations

import itertools

import pytest
import torch

from otmf import methods, settings, task_vectors
from otmf.merging import linear_maps
from otmf.settings import merge_methods

KEYS = {
    "block.weight": (6, 4),
    "proj": (4, 3),
    "positional_embedding": (5, 4),
    "block.bias": (6,),
    "conv.weight": (2, 3, 2, 2),
}


def vector(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in KEYS.items()}


def stream(name: str, vectors: list[dict[str, torch.Tensor]], **values) -> dict[str, torch.Tensor]:
    options = settings.merge("default", {"method": name, **values})
    merged, state = None, {}
    for count, tau in enumerate(vectors, start=1):
        found = methods.merge(methods.Arrival({}, merged, tau, count, state, options))
        merged, state = found.vector, found.state
    return merged


def assert_equal(one, other) -> None:
    for key in KEYS:
        torch.testing.assert_close(one[key], other[key], atol=1e-10, rtol=1e-10)


VECTORS = [vector(seed, scale) for seed, scale in ((1, 1.0), (2, 0.5), (3, 2.0))]


def test_running_average_is_the_mean() -> None:
    assert_equal(stream("running_average", VECTORS), {key: sum(v[key] for v in VECTORS) / 3 for key in KEYS})


def test_task_arithmetic_is_the_scaled_sum() -> None:
    found = stream("task_arithmetic", VECTORS, coefficient=0.4)
    assert_equal(found, {key: 0.4 * sum(v[key] for v in VECTORS) for key in KEYS})


def test_wudi_is_its_closed_form() -> None:
    found = stream("wudi", VECTORS, ridge=0.01)
    for key in ("block.weight", "proj"):
        taus = [v[key].T if key == "proj" else v[key] for v in VECTORS]
        grams = [tau.T @ tau / tau.square().sum() for tau in taus]
        total = sum(grams)
        ridge = 0.01 * total.diagonal().mean() * torch.eye(len(total), dtype=torch.float64)
        expected = sum(tau @ gram for tau, gram in zip(taus, grams, strict=True)) @ torch.linalg.inv(total + ridge)
        torch.testing.assert_close(found[key], expected.T if key == "proj" else expected, atol=1e-10, rtol=1e-10)
    for key in ("positional_embedding", "block.bias", "conv.weight"):
        torch.testing.assert_close(found[key], sum(v[key] for v in VECTORS) / 3)


def test_wudi_solves_the_least_interference_problem() -> None:
    """At a vanishing ridge the merge is a stationary point of sum_i |(m - tau_i) tau_i^T|^2 / |tau_i|^2."""
    found = stream("wudi", VECTORS, ridge=1e-9)["block.weight"].clone().requires_grad_()
    loss = sum(
        ((found - v["block.weight"]) @ v["block.weight"].T).square().sum() / v["block.weight"].square().sum()
        for v in VECTORS
    )
    (gradient,) = torch.autograd.grad(loss, found)
    assert float(gradient.abs().max()) < 1e-6


STATIC = sorted(name for name, method in methods.METHODS.items() if method.sees == "nothing")
INVARIANT = ("running_average", "task_arithmetic", "dare", "magmax", "iso_c", "wudi")


@pytest.mark.parametrize("name", INVARIANT)
def test_static_methods_do_not_depend_on_the_order(name) -> None:
    first = stream(name, VECTORS)
    for order in itertools.permutations(VECTORS):
        assert_equal(stream(name, list(order)), first)


@pytest.mark.parametrize("name", STATIC)
def test_zero_task_vectors_give_no_nan(name) -> None:
    zero = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in KEYS.items()}
    for vectors in ([zero], [zero, zero], [zero, VECTORS[0]]):
        assert all(bool(torch.isfinite(value).all()) for value in stream(name, vectors).values())


@pytest.mark.parametrize("name", STATIC)
def test_merge_of_a_rank_deficient_vector_is_finite(name) -> None:
    low = {key: value.clone() for key, value in VECTORS[0].items()}
    low["block.weight"] = torch.outer(torch.arange(6.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    assert bool(torch.isfinite(stream(name, [low, low, VECTORS[1]])["block.weight"]).all())


@pytest.mark.parametrize("name", STATIC)
def test_state_of_a_method_does_not_grow_with_the_number_of_tasks(name) -> None:
    options = settings.merge("default", {"method": name})
    merged, state, sizes = None, {}, []
    for count in range(1, 7):
        found = methods.merge(methods.Arrival({}, merged, vector(count), count, state, options))
        merged, state = found.vector, found.state
        sizes.append(sum(value.numel() for value in state.values()))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("name", STATIC)
def test_low_precision_stays_close_and_in_its_dtype(name) -> None:
    """Vectors are float32 in the chain; what a method makes of them is that of float64 but for rounding."""
    narrow = [{key: value.float() for key, value in v.items()} for v in VECTORS]
    found = stream(name, narrow)
    for key, value in stream(name, [{key: value.double() for key, value in v.items()} for v in narrow]).items():
        assert found[key].dtype == torch.float32
        torch.testing.assert_close(found[key].double(), value, atol=2e-3, rtol=2e-3)


def test_inputs_are_not_modified() -> None:
    before = [{key: value.clone() for key, value in v.items()} for v in VECTORS]
    for name in STATIC:
        stream(name, VECTORS)
    for one, other in zip(VECTORS, before, strict=True):
        assert_equal(one, other)


def test_every_method_of_the_settings_is_in_the_table_with_a_source() -> None:
    assert set(merge_methods.BY_NAME) == set(methods.METHODS)
    assert list(merge_methods.SOURCES) == list(methods.METHODS)
    assert all(source.startswith(("arXiv:", "openreview:")) for source in merge_methods.SOURCES.values())


def test_method_that_declares_to_see_nothing_is_given_nothing() -> None:
    options = settings.merge("default", {"method": "wudi"})
    data = methods.Data(lambda state, inputs: inputs, None, None)
    with pytest.raises(
        ValueError, match="expected no inputs for method wudi, which declares to see nothing; received some"
    ):
        methods.merge(methods.Arrival({}, None, VECTORS[0], 1, {}, options, data))


def test_otmf_without_inputs_is_refused() -> None:
    options = settings.merge("default", {})
    with pytest.raises(ValueError, match="expected unlabelled inputs for method otmf; received none"):
        methods.merge(methods.Arrival({}, VECTORS[0], VECTORS[1], 2, {}, options))


def test_linear_weights_are_told_from_embeddings() -> None:
    assert [key for key in KEYS if linear_maps.is_linear(key, VECTORS[0][key])] == ["block.weight", "proj"]


def test_vectors_of_unlike_models_do_not_add_up() -> None:
    pretrained = {"a": torch.zeros(2), "n": torch.tensor(1)}
    with pytest.raises(
        ValueError, match="expected a vector over the 1 floating-point tensors of the model; received different"
    ):
        task_vectors.add(pretrained, {"b": torch.zeros(2)})


def test_wudi_after_another_method_is_refused() -> None:
    options = settings.merge("default", {"method": "wudi"})
    with pytest.raises(ValueError, match="expected what 1 earlier steps of method wudi left; received nothing"):
        methods.merge(methods.Arrival({}, VECTORS[0], VECTORS[1], 2, {}, options))
