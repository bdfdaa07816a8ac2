"""Images of a task, as they lie in a gathered folder: loaded, checked, read in batches. No torch here."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otmf.data import cards
from otmf.runtime import foreign_parsers
from otmf.settings import limits

Array = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
ARRAYS = "images.npz"
SHOWN = 10  # names of classes in a sentence
LARGE, DENSEST = 1 << 30, 200  # arrays beyond LARGE bytes that were compressed more than DENSEST times are no pictures


@dataclass(frozen=True)
class Fit:
    """How a picture becomes a square, as open_clip names it.

    Attributes:
        size: of the square, in pixels.
        mode: `shortest` resizes the shorter side and crops the centre, `longest` the longer side and pads with black, `squash`
            resizes both.
        interpolation: of the resizing.
    """

    size: int
    mode: Literal["shortest", "longest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True)
class ArrayImages:
    """Images held in memory: pixels (n, height, width, 3) uint8."""

    pixels: Array
    labels: NDArray[np.int64] | None
    noun: ClassVar = "images"

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, positions: Sequence[int] | NDArray[np.int64], fit: Fit) -> Array:
        chosen = self.pixels[np.asarray(positions, dtype=np.int64)]
        if chosen.shape[1:3] == (fit.size, fit.size):
            return chosen
        return np.stack([_fit(Image.fromarray(pixels), fit) for pixels in chosen])

    def check(self) -> None:
        """Nothing: arrays were checked when they were read."""

    def fingerprints(self) -> list[str]:
        return [_fingerprint(pixels) for pixels in self.pixels]


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded when they are read."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    noun: ClassVar = "images"

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Sequence[int] | NDArray[np.int64], fit: Fit) -> Array:
        return np.stack([_fit(_open(self.files[int(position)]), fit) for position in positions])

    def check(self) -> None:
        """Decodes every file once. Raises CardError for the first that does not decode."""
        for file in self.files:
            _open(file)

    def fingerprints(self) -> list[str]:
        return [_fingerprint(np.asarray(_open(file))) for file in self.files]


def decode_picture(content: bytes, name: str, fit: Fit) -> Array:
    """One picture from its file's bytes as pixels (size, size, 3); `name` is what errors call it."""
    return _fit(_open(io.BytesIO(content), name), fit)


def _open(source: Path | io.BytesIO, name: str = "") -> Image.Image:
    path = name or source
    limits.require_time()
    if isinstance(source, Path) and not source.exists():
        raise cards.CardError(f"expected an image file; received {path}, which does not exist; check the path")
    with (
        foreign_parsers.reading(
            lambda reason: cards.CardError(
                f"expected an image that decodes; received {path} ({_told(reason)}); replace or remove it"
            ),
            ours=(cards.CardError,),
        ),
        Image.open(source, formats=FORMATS) as picture,
    ):
        if picture.width * picture.height > limits.now().pixels:
            raise cards.CardError(
                f"expected an image of at most {limits.now().pixels} pixels; received {path} with "
                f"{picture.width}x{picture.height}; make it smaller, or raise limits.pixels in params.yaml"
            )
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture, dtype=np.uint32) >> 8).astype(np.uint8))
        return picture.convert("RGB")


def _told(reason: str) -> str:
    """Why a picture does not decode, without the names that the decoder has for its own parts."""
    return f"in none of the formats {', '.join(FORMATS)}" if reason.startswith("cannot identify") else reason


def _fit(picture: Image.Image, fit: Fit) -> Array:
    """As torchvision does it for open_clip: the longer side rounded down, the place of the crop to even.

    What would be cropped away is not computed: a long thin picture takes no more memory than another.
    """
    size, (width, height) = fit.size, picture.size
    how = Image.Resampling[fit.interpolation.upper()]
    if fit.mode == "squash":
        return np.asarray(picture.resize((size, size), how))
    if fit.mode == "longest":
        return _padded(picture, size, how)
    across, down = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    left, top = round((across - size) / 2), round((down - size) / 2)
    wide, high = width / across, height / down
    box = (left * wide, top * high, min((left + size) * wide, width), min((top + size) * high, height))
    return np.asarray(picture.resize((size, size), how, box=box))


def _padded(picture: Image.Image, size: int, how: Image.Resampling) -> Array:
    longest = max(picture.size)
    resized = picture.resize([max(1, round(side * size / longest)) for side in picture.size], how)
    square = Image.new("RGB", (size, size))
    square.paste(resized, [(size - side) // 2 for side in resized.size])
    return np.asarray(square)


def _fingerprint(pixels: Array) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def sets(folder: Path, folders: tuple[str, ...]) -> tuple[ArrayImages | FileImages, ArrayImages | FileImages]:
    """Train and test images in a gathered folder, those of each class in the folder of that name.

    Raises:
        CardError: if files are missing or arrays are malformed.
    """
    if (folder / ARRAYS).exists():
        return _array_sets(folder / ARRAYS)
    train, test = (file_set(folder / part, folders) for part in ("train", "test"))
    return train, test


def _array_sets(path: Path) -> tuple[ArrayImages, ArrayImages]:
    with open_arrays(path) as arrays:

        def part(name: str) -> ArrayImages:
            pixels = read_array(arrays, f"{name}_x", path)
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:]:
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
    limits.require_time()
    with foreign_parsers.reading(
        lambda reason: cards.CardError(
            f"expected {key} as a plain array in {path.name}; received one that does not read ({reason}); write it with numpy.savez"
        )
    ):
        found = arrays[key]
        if not isinstance(found, np.ndarray):
            raise ValueError("a file that is no array")
        return found


def open_arrays(path: Path) -> np.lib.npyio.NpzFile:
    with foreign_parsers.reading(
        lambda reason: cards.CardError(
            f"expected an npz archive of plain arrays; received {path} ({reason}); write it with numpy.savez"
        )
    ):
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        whole, stored = sum(one.file_size for one in arrays.zip.infolist()), max(1, path.stat().st_size)
        if whole > LARGE and whole > DENSEST * stored:
            raise ValueError(f"{stored} bytes that would become {whole}")
        limits.require("MiB in it when unpacked", whole / 2**20, "arrays_mib")
        missing = sorted({"train_x", "test_x"} - set(arrays.files))
    if missing:
        arrays.close()
        raise cards.CardError(
            f"expected arrays train_x, train_y, test_x and test_y in {path}; received none named "
            f"{', '.join(missing)}; add them"
        )
    return arrays


def _no_class(folder: Path, received: str, folders: tuple[str, ...]) -> cards.CardError:
    """The refusal of a folder that is named after no class; it says which class has none."""
    absent = [name for name in folders if not (folder / name).is_dir()]
    near = difflib.get_close_matches(received, absent, n=1) or absent[:1]
    without = f", while the class {near[0]!r} has no folder" if near else ""
    remedy = f"rename it to {near[0]!r}" if near else "remove it"
    shown = ", ".join(folders[:SHOWN]) + (f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else "")
    return cards.CardError(
        f"expected folders named after the classes ({shown}) in {folder}; received the folder {received!r}{without}; {remedy}, or add the "
        "class to the card"
    )


def file_set(folder: Path, folders: tuple[str, ...]) -> FileImages:
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
        elif place[0] in folders:
            labels.append(folders.index(place[0]))
        else:
            raise _no_class(folder, place[0], folders)
        files.append(path)
    if unlabelled and len({len(path.relative_to(folder).parts) == 1 for path in files}) > 1:
        raise cards.CardError(
            f"expected images either all in folders of their classes or all beside each other in {folder}; received both; "
            "move them"
        )
    return FileImages(tuple(files), None if unlabelled else np.asarray(labels, dtype=np.int64))
