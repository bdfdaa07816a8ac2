"""Checkpoints: whole files, same bytes, header checks, and nothing that runs code."""

from __future__ import annotations

import math
import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from otmf import checkpoints
from otmf.checkpoints import writer

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4), "n": torch.tensor(3)}


@pytest.fixture
def reference(tmp_path):
    checkpoints.save(STATE, tmp_path / "reference.safetensors")
    return tmp_path / "reference.safetensors"


def test_what_is_saved_is_loaded(reference) -> None:
    found = checkpoints.load(reference)
    assert list(found) == ["a", "b", "n"]
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_same_tensors_give_the_same_bytes_whatever_their_order(tmp_path, reference) -> None:
    checkpoints.save(dict(reversed(STATE.items())), tmp_path / "other.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == reference.read_bytes()


def test_tensors_that_share_memory_are_saved_apart(tmp_path) -> None:
    checkpoints.save({"one": STATE["a"], "two": STATE["a"]}, tmp_path / "tied.safetensors")
    assert torch.equal(checkpoints.load(tmp_path / "tied.safetensors")["two"], STATE["a"])


def test_note_is_kept_in_the_header(tmp_path) -> None:
    checkpoints.save(STATE, tmp_path / "x.safetensors", note="classes")
    assert checkpoints.metadata(tmp_path / "x.safetensors") == {"note": "classes"}


def test_failed_write_leaves_the_old_file_and_no_part(tmp_path, reference, monkeypatch) -> None:
    before = reference.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save({"a": torch.zeros(9)}, reference)
    assert reference.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]


def test_two_that_write_one_file_at_once_do_not_take_each_others_part(tmp_path, reference, monkeypatch) -> None:
    """As two runs of a comparison do that both compute an expert's features."""
    plain, others = os.fsync, iter([{"a": torch.zeros(9)}])

    def interrupted(descriptor: int) -> None:
        plain(descriptor)
        for other in others:
            checkpoints.save(other, reference)

    monkeypatch.setattr(os, "fsync", interrupted)
    checkpoints.save(STATE, reference)
    assert list(checkpoints.load(reference)) == ["a", "b", "n"]
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 40, -3])
def test_truncated_file_is_refused(tmp_path, reference, keep) -> None:
    (tmp_path / "cut.safetensors").write_bytes(reference.read_bytes()[:keep])
    with pytest.raises(
        checkpoints.CheckpointError, match="expected a whole safetensors file; received cut.safetensors"
    ):
        checkpoints.header(tmp_path / "cut.safetensors")


def test_file_that_is_absent_is_refused(tmp_path) -> None:
    with pytest.raises(
        checkpoints.CheckpointError, match="expected a file of weights; received .* which does not exist"
    ):
        checkpoints.load(tmp_path / "none.safetensors")


class Code:
    """Runs a command when unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_with_code_is_refused_and_nothing_of_it_runs(tmp_path) -> None:
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    torch.save({"a": Code(tmp_path / "ran")}, tmp_path / "worse.pt")
    for name in ("bad.pt", "worse.pt"):
        with pytest.raises(
            checkpoints.CheckpointError, match=f"expected a pickle of tensors alone in {name}; .*nothing of it was run"
        ):
            checkpoints.read_foreign(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_pickle_of_tensors_is_read(tmp_path) -> None:
    for content in (STATE, {"state_dict": STATE}):
        torch.save(content, tmp_path / "good.pt")
        found = checkpoints.read_foreign(tmp_path / "good.pt")
        assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_pickle_of_something_else_is_refused(tmp_path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(
        checkpoints.CheckpointError, match="expected a state dict of tensors in list.pt; received something else"
    ):
        checkpoints.read_foreign(tmp_path / "list.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value) -> None:
    broken = {**STATE, "b": torch.tensor([1.0, value, 1.0, 1.0])}
    with pytest.raises(
        checkpoints.CheckpointError, match=r"expected finite values in x; received NaN or infinity in 1 tensors \(b\)"
    ):
        checkpoints.check_finetuned(broken, STATE, name="x")


def test_state_identical_to_the_base_is_refused() -> None:
    with pytest.raises(
        checkpoints.CheckpointError, match="expected x to differ from the pretrained model; received an identical one"
    ):
        checkpoints.check_finetuned(STATE, STATE, name="x")


@given(
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
            lambda key: key != "__metadata__"
        ),
        st.tuples(st.sampled_from(list(writer.DTYPES.values())), st.lists(st.integers(0, 4), max_size=3)),
        max_size=8,
    ),
    note=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bytes_are_those_that_safetensors_writes(tmp_path, shapes, note) -> None:
    drawn = {key: torch.arange(math.prod(shape)).to(dtype).reshape(shape) for key, (dtype, shape) in shapes.items()}
    save_file(drawn, tmp_path / "theirs", metadata={"note": note} if note else None)
    checkpoints.save(drawn, tmp_path / "ours", **({"note": note} if note else {}))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_deferred_tensors_are_read_when_written_and_give_the_same_bytes(reference, tmp_path) -> None:
    found = checkpoints.load_deferred(reference)
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        key: (value.shape, value.dtype) for key, value in STATE.items()
    }
    checkpoints.save(found, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == reference.read_bytes()
