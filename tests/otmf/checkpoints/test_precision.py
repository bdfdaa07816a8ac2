"""Rounding to another precision: what is written, what is reported, what is refused."""

from __future__ import annotations

import pytest
import torch

from otmf import checkpoints
from otmf.checkpoints import precision

BASE = {"a": torch.tensor([1.0, 2.0, 3.0]), "n": torch.tensor(5)}


def test_error_is_that_of_the_values_written() -> None:
    state = {"a": BASE["a"] + torch.tensor([0.001, 0.0, 0.0]), "n": BASE["n"]}
    found, told = precision.rounded(state, "bfloat16", base=BASE)
    assert (found["a"].dtype, found["n"].dtype) == (torch.bfloat16, torch.int64)
    error = float((found["a"].float() - state["a"]).norm())
    assert told.relative == pytest.approx(error / float(state["a"].norm()))
    assert told.of_change == pytest.approx(error / 0.001, rel=1e-3)
    assert (told.tensor, told.largest) == ("a", pytest.approx(told.relative))


def test_what_the_precision_holds_is_kept_exactly() -> None:
    found, told = precision.rounded({"a": BASE["a"] * 2, "n": BASE["n"]}, "float16", base=BASE)
    assert torch.equal(found["a"].float(), BASE["a"] * 2)
    assert (told.relative, told.of_change, told.largest) == (0, 0, 0)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(
        checkpoints.CheckpointError, match="expected values within the range of float16; received larger ones in a"
    ):
        precision.rounded({"a": BASE["a"] * 1e5, "n": BASE["n"]}, "float16", base=BASE)
