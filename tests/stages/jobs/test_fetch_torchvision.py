"""Data sets of torchvision, read by torchvision itself from what they look like on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otmf.data import images
from stages.jobs import fetch_torchvision
from tests import makers, torchvision_raw


def written(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = makers.arrays(seed=1, train=9, test=6)
    torchvision_raw.WRITERS[name](folder / "sets", arrays)
    target = folder / "out"
    target.mkdir()
    fetch_torchvision.main(None, name, str(folder / "sets"), str(target))
    return target, arrays


@pytest.mark.parametrize("name", ["MNIST", "KMNIST", "FashionMNIST", "EMNIST"])
def test_sets_without_files_of_pictures_become_arrays(tmp_path, name) -> None:
    target, arrays = written(name, tmp_path)
    train, test = images.sets(target, ())
    assert np.array_equal(train.labels, arrays["train_y"])
    assert np.array_equal(test.labels, arrays["test_y"])
    grey = np.asarray(Image.fromarray(arrays["test_x"][3]).convert("L").convert("RGB"))
    assert np.array_equal(test.pixels[3], grey.transpose(1, 0, 2) if name == "EMNIST" else grey)


@pytest.mark.parametrize("name", ["DTD", "Food101", "OxfordIIITPet", "GTSRB"])
def test_files_of_pictures_are_copied_byte_for_byte(tmp_path, name) -> None:
    target, arrays = written(name, tmp_path)
    train, test = images.sets(target, ("0", "1", "2"))
    assert np.array_equal(np.sort(train.labels), np.sort(arrays["train_y"]))
    assert len(test) == 6
    theirs = {path.read_bytes() for path in (tmp_path / "sets").rglob("*") if path.suffix in (".jpg", ".ppm")}
    assert {path.read_bytes() for path in target.rglob("*") if path.is_file()} == theirs


def test_set_that_is_not_there_and_may_not_be_downloaded_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"expected torchvision's FER2013 in .*put it there by hand"):
        fetch_torchvision.main(None, "FER2013", str(tmp_path / "sets"), str(tmp_path))
