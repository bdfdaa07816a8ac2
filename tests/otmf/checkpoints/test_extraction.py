"""Task vectors from file to file: as in memory, each tensor read once, nothing left behind where it is refused."""

from __future__ import annotations

import gc

import pytest
import torch

from otmf import checkpoints, task_vectors
from otmf.checkpoints import extraction
from otmf.checkpoints.deferred import Deferred


@pytest.fixture
def states() -> tuple[dict, dict]:
    torch.manual_seed(0)
    base = {
        "a": torch.randn(4, 3),
        "b": torch.randn(5).double(),
        "c": torch.randn(2, 2).bfloat16(),
        "n": torch.tensor(7),
    }
    return {key: value + 1 if value.is_floating_point() else value for key, value in base.items()}, base


def test_it_is_what_subtraction_in_memory_gives(states, tmp_path) -> None:
    finetuned, base = states
    for name, state in (("f", finetuned), ("p", base)):
        checkpoints.save(state, tmp_path / name)
    found = extraction.extract(
        checkpoints.load_deferred(tmp_path / "f"), checkpoints.load_deferred(tmp_path / "p"), tmp_path / "out", name="x"
    )
    vector = task_vectors.subtract(finetuned, base)
    checkpoints.save(vector, tmp_path / "wanted")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert found.norm == task_vectors.norm(vector)
    assert found.base_norm == task_vectors.norm(task_vectors.floats(base))


def test_each_tensor_is_read_once_and_no_third_is_held(tmp_path) -> None:
    held, most, reads = set(), 0, []

    def deferred(model: int, key: str) -> Deferred:
        def make() -> torch.Tensor:
            nonlocal most
            value = torch.full((1000,), float(model))
            held.add(value.data_ptr())
            reads.append((model, key))
            gc.collect()
            alive = {
                one.data_ptr()
                for one in gc.get_objects()
                if type(one) is torch.Tensor and one.shape == (1000,) and not one.is_meta
            }
            most = max(most, len(alive & held))
            return value

        return Deferred(torch.empty(1000, device="meta"), make)

    models = [{f"k{number}": deferred(model, f"k{number}") for number in range(6)} for model in (2, 1)]
    extraction.extract(*models, tmp_path / "out", name="x")
    assert sorted(reads) == sorted((model, f"k{number}") for model in (1, 2) for number in range(6))
    assert most <= 3
    assert torch.equal(checkpoints.load(tmp_path / "out")["k3"], torch.ones(1000))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state, base: state | {"b": state["b"] * float("nan")}, "expected finite values in the expert; received NaN or infinity in 1 tensors"),
        (lambda state, base: dict(base), "received an identical one"),
        (lambda state, base: state | {"a": torch.zeros(3, 4)}, "expected tensors of equal shape and dtype"),
        (lambda state, base: {key: value for key, value in state.items() if key != "b"}, "received 1 missing (b)"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_no_file(states, tmp_path, change, said) -> None:
    finetuned, base = states
    finetuned = change(finetuned, base)
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        extraction.extract(finetuned, base, tmp_path / "out", name="the expert")
    assert not list(tmp_path.iterdir())


def test_values_named_by_keyword_are_deferred_as_well() -> None:
    one, two = (
        Deferred(torch.empty(2, device="meta"), lambda value=value: torch.full((2,), value)) for value in (1.0, 2.0)
    )
    found = torch.add(input=one, other=two, alpha=2)
    assert isinstance(found, Deferred)
    assert torch.equal(found.make(), torch.full((2,), 5.0))
    assert torch.equal(input=two, other=torch.full((2,), 2.0))
