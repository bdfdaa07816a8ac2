"""Masks: gradients against autograd, and summaries."""

from __future__ import annotations

import pytest
import torch

from otmf import masks


@pytest.mark.parametrize(
    ("granularity", "shape"), [("element", (2, 3)), ("row", (2, 1)), ("column", (1, 3)), ("tensor", (1, 1))]
)
def test_pulled_back_gradient_is_that_of_autograd(granularity, shape) -> None:
    vector = {"a": torch.randn(2, 3, generator=torch.Generator().manual_seed(0))}
    mask = masks.new(vector, granularity=granularity)["a"].requires_grad_()
    assert tuple(mask.shape) == shape
    outer = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    ((mask * vector["a"]) * outer).sum().backward()
    torch.testing.assert_close(masks.pull_back(outer.clone(), vector["a"], mask.shape), mask.grad)


def test_summary_of_a_mask() -> None:
    found = masks.summarise({"a": torch.tensor([-1.0, 1.0, 3.0, 1.0])})["a"]
    assert found == {
        "mean": 1.0,
        "deviation": pytest.approx(2**0.5),
        "least": -1.0,
        "greatest": 3.0,
        "below_zero": 0.25,
    }
