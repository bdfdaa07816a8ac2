"""Pictures and labels of a data set that torchvision reads, written as a card can bring them: as arrays, or as files in folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from otmf.data import images, torchvision_sets
from stages.context import current_line
from stages.context.run import say

TRACKED = False
_LISTS = (("_samples", None), ("_image_files", "_labels"), ("_images", "_labels"))


def main(line: current_line.Line, name: str, root: str, target: str) -> None:
    """Writes the parts of a data set below `target`: `images.npz` where all pictures have one size and come from no files of
    their own, else `train/POSITION/` and `test/POSITION/`. What is not in `root` yet is downloaded where that is allowed."""
    wanted, folder = torchvision_sets.DATASETS[name], Path(target)
    parts = {"train": _open(name, Path(root), wanted.train), "test": _open(name, Path(root), wanted.test)}
    if all(_files(part) is not None for part in parts.values()):
        for part, found in parts.items():
            for number, (path, label) in enumerate(_files(found)):
                place = _place(folder, part, label - wanted.first, number, path.suffix.lower())
                shutil.copyfile(path, place)
    else:
        _drawn(parts, wanted, folder)
    say(f"{name}: {', '.join(f'{len(found)} {part}' for part, found in parts.items())}")


def _open(name: str, root: Path, given: Any) -> Any:
    downloads = {"download": True} if torchvision_sets.DATASETS[name].downloads else {}
    root.mkdir(parents=True, exist_ok=True)
    try:
        return getattr(datasets, name)(str(root), **given, **downloads)
    except (RuntimeError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        way = (
            "try again with the network"
            if downloads
            else "its owners let nobody download it by program: put it there by hand"
        )
        raise ValueError(f"expected torchvision's {name} in {root}; received: {reason}; {way}") from error


def _files(found: Any) -> list[tuple[Path, int]] | None:
    """The pictures' own files with their labels, where a data set has such and they are of kinds that cards bring."""
    for files, labels in _LISTS:
        listed = getattr(found, files, None)
        if not listed or (labels is not None and len(getattr(found, labels, ())) != len(listed)):
            continue
        pairs = listed if labels is None else list(zip(listed, getattr(found, labels), strict=True))
        if all(isinstance(path, str | Path) and Path(path).suffix.lower() in images.SUFFIXES for path, _ in pairs):
            return [(Path(path), int(label)) for path, label in pairs]
    return None


def _drawn(parts: dict[str, Any], wanted: torchvision_sets.Packaged, folder: Path) -> None:
    """Pictures as torchvision gives them: together as arrays, or one by one where their sizes differ."""
    read = {
        part: [(_pixels(picture, wanted), int(label) - wanted.first) for picture, label in found]
        for part, found in parts.items()
    }
    if len({pixels.shape for found in read.values() for pixels, _ in found}) == 1:
        arrays = {}
        for part, found in read.items():
            arrays[f"{part}_x"] = np.stack([pixels for pixels, _ in found])
            arrays[f"{part}_y"] = np.asarray([label for _, label in found], dtype=np.int64)
        np.savez(folder / images.ARRAYS, **arrays)
        return
    for part, found in read.items():
        for number, (pixels, label) in enumerate(found):
            Image.fromarray(pixels).save(_place(folder, part, label, number, ".png"))


def _pixels(picture: Image.Image, wanted: torchvision_sets.Packaged) -> np.ndarray:
    found = picture.convert("RGB")
    return np.asarray(found.transpose(Image.Transpose.TRANSPOSE) if wanted.lying else found)


def _place(folder: Path, part: str, label: int, number: int, suffix: str) -> Path:
    path = folder / part / str(label) / f"{number:06d}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
