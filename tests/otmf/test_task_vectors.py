"""Task vectors: arithmetic, and the messages of unlike states."""

from __future__ import annotations

import pytest
import torch

from otmf import task_vectors

BASE = {"a": torch.arange(6.0).reshape(2, 3), "h": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}


def test_adding_what_was_subtracted_gives_the_expert_back() -> None:
    expert = {"a": BASE["a"] + 0.5, "h": BASE["h"] * 2, "n": torch.tensor(9)}
    found = task_vectors.add(BASE, task_vectors.subtract(expert, BASE))
    torch.testing.assert_close(found["a"], expert["a"])
    torch.testing.assert_close(found["h"], expert["h"])
    assert found["n"] == 3, "buffers of whole numbers are the base's"


def test_half_precision_is_subtracted_in_single() -> None:
    found = task_vectors.subtract({**BASE, "h": BASE["h"] + 1}, BASE)
    assert found["h"].dtype == torch.float32
    assert "n" not in found


def test_norm_and_cosine_are_those_of_the_flattened_vectors() -> None:
    one, other = (
        {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])},
        {"a": torch.tensor([4.0]), "b": torch.tensor([[-3.0]])},
    )
    assert task_vectors.norm(one) == pytest.approx(5)
    assert task_vectors.cosine(one, other) == pytest.approx(0)
    assert task_vectors.cosine(one, {key: 0 * value for key, value in one.items()}) == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": BASE["a"], "h": BASE["h"]}, r"received 1 missing \(n\) and 0 extra"),
        (
            {**BASE, "a": torch.ones(3, 2)},
            r"expected tensors of equal shape and dtype; received 1 that differ \(a: \(3, 2\)",
        ),
        ({**BASE, "h": torch.ones(2)}, "received 1 that differ .h: .*torch.float32 against"),
    ],
)
def test_states_that_differ_are_refused(other, message) -> None:
    with pytest.raises(ValueError, match=message):
        task_vectors.subtract(other, BASE)


def test_patterns_name_floating_point_tensors() -> None:
    assert task_vectors.matching(["h", "a*"], {**BASE, "c": torch.ones(1)}, setting="finetune.left_out") == ["a", "h"]
    assert task_vectors.matching([], BASE, setting="finetune.left_out") == []


@pytest.mark.parametrize(("patterns", "message"), [(["h", "n"], "received 'n', which none matches; its names are such as a"),
                                                   (["?"], "expected finetune.left_out to leave some tensors")])  # fmt: skip
def test_patterns_of_nothing_and_of_everything_are_refused(patterns, message) -> None:
    with pytest.raises(ValueError, match=message):
        task_vectors.matching(patterns, BASE, setting="finetune.left_out")
