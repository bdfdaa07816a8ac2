"""Small sets of pictures in the forms that torchvision's data sets have on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Arrays = dict[str, np.ndarray]


def _numbers(array: np.ndarray, path: Path) -> None:
    """The file format of MNIST: a magic number with the count of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def _mnist(name: str, root: Path, arrays: Arrays, prefix: str = "", first: int = 0) -> None:
    for part, called in (("train", "train"), ("test", "test" if prefix else "t10k")):
        grey = np.stack([np.asarray(Image.fromarray(pixels).convert("L")) for pixels in arrays[f"{part}_x"]])
        raw = root / name / "raw"
        _numbers(grey, raw / f"{prefix}{called}-images-idx3-ubyte")
        _numbers(arrays[f"{part}_y"] + first, raw / f"{prefix}{called}-labels-idx1-ubyte")


def _picture(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _textures(root: Path, arrays: Arrays) -> None:
    folder = root / "dtd/dtd"
    (folder / "labels").mkdir(parents=True)
    for part in ("train", "test"):
        lines = []
        for number, (pixels, label) in enumerate(zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)):
            lines.append(f"class_{label}/{part}_{number}.jpg")
            _picture(pixels, folder / "images" / lines[-1])
        (folder / f"labels/{part}1.txt").write_text("\n".join(lines), encoding="utf-8")


def _food(root: Path, arrays: Arrays) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        found: dict[str, list[str]] = {}
        for number, (pixels, label) in enumerate(zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)):
            found.setdefault(f"dish_{label}", []).append(f"dish_{label}/{part}_{number}")
            _picture(pixels, folder / "images" / f"dish_{label}/{part}_{number}.jpg")
        (folder / f"meta/{part}.json").write_text(json.dumps(found), encoding="utf-8")


def _pets(root: Path, arrays: Arrays) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, called in (("train", "trainval"), ("test", "test")):
        lines = []
        for number, (pixels, label) in enumerate(zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)):
            lines.append(f"kind_{label}_{part}{number} {label + 1} 1 1")
            _picture(pixels, folder / "images" / f"kind_{label}_{part}{number}.jpg")
        (folder / f"annotations/{called}.txt").write_text("\n".join(lines), encoding="utf-8")


def _signs(root: Path, arrays: Arrays) -> None:
    folder = root / "gtsrb"
    for number, (pixels, label) in enumerate(zip(arrays["train_x"], arrays["train_y"], strict=True)):
        _picture(pixels, folder / f"GTSRB/Training/{label:05d}/{number:05d}.ppm")
    lines = ["Filename;ClassId"]
    for number, (pixels, label) in enumerate(zip(arrays["test_x"], arrays["test_y"], strict=True)):
        _picture(pixels, folder / f"GTSRB/Final_Test/Images/{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;{label}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "MNIST": lambda root, arrays: _mnist("MNIST", root, arrays),
    "KMNIST": lambda root, arrays: _mnist("KMNIST", root, arrays),
    "FashionMNIST": lambda root, arrays: _mnist("FashionMNIST", root, arrays),
    "EMNIST": lambda root, arrays: _mnist("EMNIST", root, arrays, prefix="emnist-letters-", first=1),
    "DTD": _textures,
    "Food101": _food,
    "OxfordIIITPet": _pets,
    "GTSRB": _signs,
}
