"""RegMean and LOT as running sums: the closed forms over all tasks at once."""

from __future__ import annotations

import pytest
import torch

from otmf import continual, settings, task_vectors
from otmf.merging import layer_inputs
from tests import makers


class Line:
    """Three experts of the small backbone, each with pictures of its own."""

    def __init__(self, backbone) -> None:
        self.base = backbone.initial_state(seed=0)
        self.encoder = continual.Encoder(backbone.features, backbone.prepare)
        self.pixels = [makers.pictures(10, seed=seed)[0] for seed in range(3)]
        generator = torch.Generator().manual_seed(0)
        self.vectors = [
            {
                key: 0.05 * torch.randn(value.shape, generator=generator)
                for key, value in task_vectors.floats(self.base).items()
            }
            for _ in range(3)
        ]

    def stream(self, order, **values):
        merged, state = None, {}
        options = settings.merge("default", {"unlabelled_images": 10, **values})
        for count, place in enumerate(order, start=1):
            done = continual.advance(self.base, merged, self.vectors[place], count=count, state=state, options=options,
                                     encoder=self.encoder, unlabelled=lambda place=place: self.pixels[place])  # fmt: skip
            merged, state = done.vector, done.state
        return merged, state

    def grams(self, place) -> dict[str, torch.Tensor]:
        expert = task_vectors.add(self.base, self.vectors[place])
        return layer_inputs.grams(self.encoder.features, expert, self.encoder.prepare(self.pixels[place]))


@pytest.fixture(scope="module")
def line(backbone) -> Line:
    return Line(backbone)


@pytest.mark.parametrize("method", ["regmean", "lot"])
def test_merge_is_the_closed_form_over_all_tasks(line, method) -> None:
    found, _ = line.stream(range(3), method=method)
    grams = [line.grams(place) for place in range(3)]
    for key, tau in line.vectors[0].items():
        taus = [vector[key] for vector in line.vectors]
        if key not in grams[0]:
            torch.testing.assert_close(found[key], sum(taus) / 3)
            continue
        G = [gram[key] for gram in grams]
        if method == "regmean":
            G = [0.95 * gram / 10 + 0.05 * torch.diag(torch.diag(gram / 10)) for gram in G]
        wide = [(tau.T if key == "proj" else tau).double() for tau in taus]
        expected = sum(tau @ gram for tau, gram in zip(wide, G, strict=True)) @ torch.linalg.pinv(
            sum(G), hermitian=True
        )
        torch.testing.assert_close(
            found[key], (expected.T if key == "proj" else expected).to(tau.dtype), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("method", ["regmean", "lot"])
def test_order_does_not_matter_and_the_state_does_not_grow(line, method) -> None:
    found, state = line.stream([0, 1, 2], method=method)
    other, more = line.stream([2, 0, 1], method=method)
    for key, value in found.items():
        torch.testing.assert_close(value, other[key], atol=1e-5, rtol=1e-4)
    _, first = line.stream([0], method=method)
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in state.items()}
    assert not any(key.startswith("memory.") for key in more)
