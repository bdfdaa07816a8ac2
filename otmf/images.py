"""Images of a task, as they lie in a gathered folder: loaded, checked, read in batches. No torch here."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from otmf import cards

Array = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
ARRAYS = "images.npz"
DESCRIPTION = "task.json"
MAX_PIXELS = 64_000_000


class ImageSet(Protocol):
    """Images that can be read by position. `labels` is int64 (n,), or None where a task brought none."""

    labels: NDArray[np.int64] | None

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int] | NDArray[np.int64], size: int | None) -> Array:
        """Pixels (n, size, size, 3); `size` None keeps the images' own size, which must then be one."""
        ...

    def fingerprints(self) -> list[str]:
        """sha256 of each image's decoded pixels, in hexadecimal."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images held in memory: pixels (n, height, width, 3) uint8."""

    pixels: Array
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, positions: Sequence[int] | NDArray[np.int64], size: int | None) -> Array:
        chosen = self.pixels[np.asarray(positions, dtype=np.int64)]
        if size is None or chosen.shape[1:3] == (size, size):
            return chosen
        return np.stack([_fit(Image.fromarray(pixels), size) for pixels in chosen])

    def fingerprints(self) -> list[str]:
        return [_fingerprint(pixels) for pixels in self.pixels]


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded when they are read."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Sequence[int] | NDArray[np.int64], size: int | None) -> Array:
        pictures = [_open(self.files[int(position)]) for position in positions]
        return np.stack([np.asarray(picture) if size is None else _fit(picture, size) for picture in pictures])

    def fingerprints(self) -> list[str]:
        return [_fingerprint(np.asarray(_open(file))) for file in self.files]


@dataclass(frozen=True)
class TaskImages:
    """All images of one task, with the names of its classes and the prompts for zero-shot heads."""

    name: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    train: ImageSet
    test: ImageSet


def load(folder: Path) -> TaskImages:
    """The images in a folder written by `gather`.

    Raises:
        CardError: if files are missing or arrays are malformed.
    """
    description = describe(folder)
    classes = tuple(description["classes"])
    if (folder / ARRAYS).exists():
        train, test = _array_sets(folder / ARRAYS)
    else:
        train, test = (file_set(folder / part, classes) for part in ("train", "test"))
    return TaskImages(description["name"], classes, tuple(description["prompts"]), train, test)


def describe(folder: Path) -> dict:
    """The content of `task.json` in a gathered folder."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise cards.CardError(f"expected {DESCRIPTION} in {folder}; received none; onboard the task's card again")
    return json.loads(path.read_text(encoding="utf-8"))


def check(task: TaskImages, *, needs_training_labels: bool = True) -> None:
    """Refuses images that cannot make a task; decodes every image once.

    Raises:
        CardError: if a part is empty, a label lies outside the classes, only one class occurs, a class has no image,
            there are fewer images than classes, or an image does not decode.
    """
    count = len(task.classes)
    for part, images in (("train", task.train), ("test", task.test)):
        if len(images) == 0:
            raise cards.CardError(f"task {task.name}: expected images in the {part} part; received none; add some")
        _check_labels(task, part, images, count, required=part == "test" or needs_training_labels)
        _check_pictures(images)


def _check_labels(task: TaskImages, part: str, images: ImageSet, count: int, *, required: bool) -> None:
    labels = images.labels
    if labels is None:
        if required:
            raise cards.CardError(
                f"task {task.name}: expected labels for the {part} images; received none; "
                "add them, or bring a checkpoint"
            )
        return
    if labels.shape != (len(images),):
        raise cards.CardError(
            f"task {task.name}: expected one label for each of the {len(images)} {part} images; "
            f"received {labels.shape}; mend the arrays"
        )
    outside = labels[(labels < 0) | (labels >= count)]
    if outside.size:
        raise cards.CardError(
            f"task {task.name}: expected {part} labels from 0 to {count - 1}, one for each class; "
            f"received {int(outside[0])} ({outside.size} such); mend the labels or the classes"
        )
    if not required:
        return
    if part == "train" and len(images) < count:
        raise cards.CardError(
            f"task {task.name}: expected at least one train image for each of {count} classes; "
            f"received {len(images)} images; add images or drop classes"
        )
    present = np.bincount(labels, minlength=count)
    if (present > 0).sum() < 2:
        raise cards.CardError(
            f"task {task.name}: expected {part} images of at least two classes; received only "
            f"{task.classes[int(labels[0])]!r}; add images of the others"
        )
    absent = [task.classes[position] for position in np.flatnonzero(present == 0)]
    if part == "train" and absent:
        raise cards.CardError(
            f"task {task.name}: expected train images of every class; received none of "
            f"{', '.join(absent[:3])} ({len(absent)} such); add images or drop the classes"
        )


def _check_pictures(images: ImageSet) -> None:
    if isinstance(images, FileImages):
        for file in images.files:
            _open(file)


def read_picture(path: Path, size: int) -> Array:
    """One picture file as pixels (size, size, 3): the shorter side resized to `size`, then the centre cropped."""
    return _fit(_open(path), size)


def decode_picture(content: bytes, name: str, size: int) -> Array:
    """One picture from its file's bytes, as `read_picture`; `name` is what errors call it."""
    return _fit(_open(io.BytesIO(content), name), size)


def _open(source: Path | io.BytesIO, name: str = "") -> Image.Image:
    path = name or source
    try:
        with Image.open(source, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise cards.CardError(
                    f"expected an image of at most {MAX_PIXELS} pixels; received {path} with "
                    f"{picture.width}x{picture.height}; make it smaller"
                )
            if picture.mode.startswith("I"):
                picture = Image.fromarray((np.asarray(picture, dtype=np.uint32) >> 8).astype(np.uint8))
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise cards.CardError(
            f"expected an image file; received {path}, which does not exist; check the path"
        ) from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, cards.CardError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise cards.CardError(
            f"expected an image that decodes; received {path} ({reason}); replace or remove it"
        ) from error


def _fit(picture: Image.Image, size: int) -> Array:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _fingerprint(pixels: Array) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _array_sets(path: Path) -> tuple[ArrayImages, ArrayImages]:
    with open_arrays(path) as arrays:

        def part(name: str) -> ArrayImages:
            pixels = read_array(arrays, f"{name}_x", path)
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
                raise cards.CardError(
                    f"expected {name}_x as uint8 of shape (n, height, width, 3) in {path.name}; received "
                    f"{pixels.dtype} of shape {pixels.shape}; convert the array"
                )
            key = f"{name}_y"
            labels = read_array(arrays, key, path) if key in arrays else None
            if labels is not None and not np.issubdtype(labels.dtype, np.integer):
                raise cards.CardError(
                    f"expected {key} as whole numbers in {path.name}; received {labels.dtype}; "
                    "write the position of each class instead"
                )
            return ArrayImages(pixels, None if labels is None else labels.astype(np.int64))

        return part("train"), part("test")


def read_array(arrays: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray:
    try:
        return arrays[key]
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise cards.CardError(
            f"expected {key} as a plain array in {path.name}; received one that does not read ({reason}); write it "
            "with numpy.savez"
        ) from error


def open_arrays(path: Path) -> np.lib.npyio.NpzFile:
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        missing = sorted({"train_x", "test_x"} - set(arrays.files))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise cards.CardError(
            f"expected an npz archive of plain arrays; received {path} ({reason}); write it with numpy.savez"
        ) from error
    if missing:
        arrays.close()
        raise cards.CardError(
            f"expected arrays train_x, train_y, test_x and test_y in {path}; received none named "
            f"{', '.join(missing)}; add them"
        )
    return arrays


def file_set(folder: Path, classes: tuple[str, ...]) -> FileImages:
    if not folder.is_dir():
        raise cards.CardError(
            f"expected a folder {folder.name} with one folder for each class; received none at {folder}; add it"
        )
    files: list[Path] = []
    labels: list[int] = []
    unlabelled = False
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise cards.CardError(
                f"expected image files inside {folder}; received {path.name!r}, which is no file or leads outside; remove it"
            )
        place = path.relative_to(folder).parts
        if len(place) == 1:
            unlabelled = True
            labels.append(0)
        elif place[0] in classes:
            labels.append(classes.index(place[0]))
        else:
            raise cards.CardError(
                f"expected folders named after the classes in {folder}; received {place[0]!r}, a label "
                f"outside the {len(classes)} classes; rename it or add the class"
            )
        files.append(path)
    if unlabelled and len({len(path.relative_to(folder).parts) == 1 for path in files}) > 1:
        raise cards.CardError(
            f"expected images either all in folders of their classes or all beside each other in {folder}; received both; "
            "move them"
        )
    return FileImages(tuple(files), None if unlabelled else np.asarray(labels, dtype=np.int64))
