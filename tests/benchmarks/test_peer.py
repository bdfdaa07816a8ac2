"""Our merge methods and FusionBench's are the same functions of the same state dicts."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import bench_peer, peer

SHAPES = {"token_embedding.weight": (50, 12), "a.weight": (12, 16), "a.bias": (12,), "b.weight": (16, 12), "proj": (12, 8),
          "kernel": (4, 3, 2, 2), "scale": (1,)}  # fmt: skip
METHODS = ("task_arithmetic", "ties", "magmax", "opcm", "iso_c", "tsv_m", "wudi")


def state(seed: int, size: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: size * torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def pairs() -> dict[str, peer.Pair]:
    return peer.pairs()


def test_these_methods_are_compared(pairs) -> None:
    assert tuple(pairs) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_both_merge_alike(pairs, name) -> None:
    found = bench_peer.compared(pairs[name], state(0, 1.0), [state(seed, 0.01) for seed in (1, 2, 3, 4)], repeat=2)
    assert found["difference"] < 1e-10
    assert 0 < found["least"] <= found["ratio"] <= found["greatest"]
    assert found["seconds"] > 0 < found["their_seconds"]


def test_a_difference_is_seen(pairs, monkeypatch) -> None:
    """The comparison itself can fail."""
    plain = peer.ours
    monkeypatch.setattr(peer, "ours", lambda *given: {k: v * 1.001 for k, v in plain(*given).items()})
    assert (
        bench_peer.compared(pairs["opcm"], state(0, 1.0), [state(1, 0.01), state(2, 0.01)], repeat=1)["difference"]
        > 5e-4
    )


def test_their_model_has_our_tensors_the_right_way_round() -> None:
    given = state(0, 1.0)
    model = peer.Model(given)
    assert all(torch.equal(value, given[key]) for key, value in model.state(given).items())
    linear = [place for place, child in model.named_children() if isinstance(child, torch.nn.Linear)]
    assert [list(SHAPES)[int(place)] for place in linear] == ["a.weight", "b.weight", "proj"]
    assert (model.get_submodule("4").in_features, model.get_submodule("4").out_features) == (12, 8)
