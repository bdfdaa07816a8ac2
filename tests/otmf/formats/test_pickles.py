"""Pickles: read without their code, damaged or hostile ones refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch

from otmf import checkpoints, formats
from otmf.formats import pickles
from tests.otmf.formats.examples import clip, same


class ImageEncoder(torch.nn.Module):
    """As task arithmetic saves it: a whole object, with transforms and functions in it."""

    def __init__(self, model: open_clip.CLIP) -> None:
        super().__init__()
        self.model = model
        self.train_preprocess = open_clip.image_transform(16, is_train=True)
        self.val_preprocess = open_clip.image_transform(16, is_train=False)
        self.cache_dir = Path("/somewhere")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_image_encoders_are_read_without_their_code(base, tmp_path, protocol, monkeypatch) -> None:
    encoder = ImageEncoder(clip())
    torch.save(encoder, tmp_path / "finetuned.pt", pickle_protocol=protocol)
    monkeypatch.delattr(f"{__name__}.ImageEncoder")
    found = formats.read(tmp_path / "finetuned.pt", base=base)
    assert found.form == "pickled model"
    assert same(found.state, dict(sorted(encoder.model.visual.state_dict().items())))


def test_everything_that_a_state_dict_has_is_found_in_a_pickled_model(tmp_path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2).half())
    model.register_buffer("passing", torch.ones(2), persistent=False)
    model[2].tied = model[2].weight
    torch.save(model, tmp_path / "m.pt")
    assert same(pickles.read(tmp_path / "m.pt"), dict(sorted(model.state_dict().items())))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_pickle_is_not_run(base, tmp_path, hidden) -> None:
    encoder = ImageEncoder(clip())
    encoder.cache_dir = Evil(tmp_path / "ran")
    torch.save(encoder if hidden else Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    if hidden:
        formats.read(tmp_path / "evil.pt", base=base)
    else:
        with pytest.raises(
            checkpoints.CheckpointError,
            match=r"expected a model with parameters in evil.pt; received an object without",
        ):
            formats.read(tmp_path / "evil.pt", base=base)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "it would have run"


def rewritten(path: Path, content: bytes) -> None:
    """The archive of torch.save with another data.pkl."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("data.pkl") else part)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", pickle.dumps(range(3))[:-4], b"\x80\x02" + b"(" * 100_000 + b".", b"\x80\x04\x8d" + (2**60).to_bytes(8, "little"),
     b"\x80\x02cbuiltins\neval\n(V1/0\ntR."],
)  # fmt: skip
def test_damaged_pickles_are_refused_in_one_sentence(base, tmp_path, content) -> None:
    torch.save(ImageEncoder(clip()), tmp_path / "m.pt")
    rewritten(tmp_path / "m.pt", content)
    with pytest.raises(checkpoints.CheckpointError, match="expected a model") as caught:
        formats.read(tmp_path / "m.pt", base=base)
    assert "\n" not in str(caught.value)


def test_tensor_that_reaches_beyond_its_storage_is_refused() -> None:
    storage = pickles._Storage(torch.arange(6.0))
    assert pickles._tensor(storage, 2, (2, 2), (2, 1)).tolist() == [[2, 3], [4, 5]]
    for offset, size, stride in (
        (3, (2, 2), (2, 1)),
        (0, (2**60,), (1,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (7, (), ()),
        (0, (2**20, 2**20), (0, 0)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            pickles._tensor(storage, offset, size, stride)


def test_modules_that_name_each_other_without_end_are_refused_at_once() -> None:
    inner = pickles.Inert()
    inner._parameters = {"weight": torch.ones(1)}
    for _ in range(40):
        outer = pickles.Inert()
        outer._modules = {"a": inner, "b": inner}
        inner = outer
    with pytest.raises(ValueError, match="expected modules in modules; received them nested without end"):
        list(pickles._tensors(inner, "", 0, iter(range(1000))))


def test_pickle_may_not_ask_for_memory_it_does_not_fill(base, tmp_path) -> None:
    torch.save(ImageEncoder(clip()), tmp_path / "m.pt")
    rewritten(tmp_path / "m.pt", b"\x80\x02Nr" + (2**24).to_bytes(4, "little") + b".")
    with pytest.raises(checkpoints.CheckpointError, match="a memo with places that nothing takes"):
        formats.read(tmp_path / "m.pt", base=base)


def test_names_of_one_storage_share_it(tmp_path) -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
    for layer in model[1:]:
        layer.weight = model[0].weight
    torch.save(model, tmp_path / "m.pt")
    found = pickles.read(tmp_path / "m.pt")
    assert len({found[f"{number}.weight"].data_ptr() for number in range(3)}) == 1
