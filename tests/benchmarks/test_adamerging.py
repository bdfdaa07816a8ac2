"""The baseline of the costs: the same coefficients as by automatic differentiation of its definition."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import adamerging


@pytest.mark.parametrize("layer_wise", [False, True])
def test_coefficients_are_those_of_its_definition(layer_wise) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    base = {"a": random(5, 4), "b": random(3, 5), "count": torch.tensor(7)}
    vectors = [{"a": random(5, 4), "b": random(3, 5)} for _ in range(3)]
    batches = [random(6, 4) for _ in vectors]
    logits = [lambda state, found=found: torch.tanh(found @ state["a"].T) @ state["b"].T for found in batches]

    lambdas = torch.full((3, 2 if layer_wise else 1), adamerging.START, requires_grad=True)
    optimiser = torch.optim.Adam([lambdas], lr=adamerging.RATE)

    def expected() -> dict[str, torch.Tensor]:
        columns = {"a": lambdas[:, 0], "b": lambdas[:, -1]}
        return {key: base[key] + torch.einsum("t,tij->ij", column, torch.stack([one[key] for one in vectors]))
                for key, column in columns.items()}  # fmt: skip

    for _ in range(5):
        optimiser.zero_grad()
        chances = [torch.softmax(one(expected()), dim=-1) for one in logits]
        sum(-(one * one.log()).sum(dim=-1).mean() for one in chances).backward()
        optimiser.step()

    found = adamerging.merge(base, vectors, logits=logits, layer_wise=layer_wise, steps=5)
    for key, value in expected().items():
        assert torch.allclose(found[key], value, atol=1e-5), key
    assert found["count"] == 7
