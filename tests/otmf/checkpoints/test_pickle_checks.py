"""Pickles that would keep their reader busy for ever, or fill its memory, told by their operations alone."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest
import torch

from otmf import checkpoints
from otmf.checkpoints import pickle_checks
from otmf.formats import pickles


def saved(folder, *, legacy: bool = False):
    path = folder / "model.pt"
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_passes(tmp_path, legacy) -> None:
    path = saved(tmp_path, legacy=legacy)
    pickle_checks.check(path)
    assert torch.equal(checkpoints.read_foreign(path)["weight"], torch.ones(3))


@pytest.mark.parametrize("protocol", range(6))
def test_tuple_whose_hash_takes_for_ever_is_refused(protocol) -> None:
    nested: object = ()
    for _ in range(50):
        nested = (nested, nested)
    with pytest.raises(pickle.UnpicklingError, match="tuples in tuples without end"):
        pickle_checks.check_operations(io.BytesIO(pickle.dumps({"a": nested}, protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_tuples_pass(protocol) -> None:
    content = {"a": [(1, 2), ((3,), "x", (4, (5, 6)))], "b": {"c": (1, 2)}}
    pickle_checks.check_operations(io.BytesIO(pickle.dumps(content, protocol)))


def repacked(path, change) -> None:
    """An archive of torch.save with its files written anew by a function."""
    with zipfile.ZipFile(path) as archive:
        files = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        change(archive, files)


def compressed(archive, files) -> None:
    for name, content in files:
        archive.writestr(name, content, zipfile.ZIP_DEFLATED)


def doubled(archive, files) -> None:
    for name, content in [*files, files[-1]]:
        archive.writestr(name, content)


def swapped(archive, files) -> None:
    for name, content in files:
        archive.writestr(name, b"big" if name.endswith("byteorder") else content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("change", [compressed, doubled, swapped])
@pytest.mark.parametrize("read", [checkpoints.read_foreign, pickles.read])
def test_archives_that_are_not_as_torch_writes_them_are_refused(tmp_path, change, read) -> None:
    path = saved(tmp_path)
    repacked(path, change)
    with pytest.raises(ValueError, match="nothing of it was run"):
        read(path)


def test_tensor_marked_as_negated_is_refused(tmp_path) -> None:
    module = torch.nn.Linear(2, 2)
    module.weight = torch.nn.Parameter(torch._neg_view(-module.weight.detach()))
    torch.save(module, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="a tensor that is not what its storage says"):
        pickles.read(tmp_path / "model.pt")
