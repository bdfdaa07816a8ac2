"""Images of a task: gathered from a card into one folder, checked, split, and read back in batches. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from otmf import cards, embedded

Array = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
ARRAYS = "images.npz"
DESCRIPTION = "task.json"
MAX_PIXELS = 64_000_000
MIXTURE = "mixture"


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


@dataclass(frozen=True)
class Split:
    """Positions in the train and test images of a task, and the manifest that proves the parts apart.

    `labelled` feeds fine-tuning and heads, `unlabelled` the merge (its labels are never read), `held_back` is left to
    the pretraining of a base, `test` is only ever scored.
    """

    labelled: NDArray[np.int64]
    unlabelled: NDArray[np.int64]
    held_back: NDArray[np.int64]
    test: NDArray[np.int64]
    manifest: dict[str, object]


# --- from a card to a folder ---------------------------------------------------------------------------------------


def gather(card: cards.Card, base: Path, folder: Path) -> None:
    """Copies what a card refers to into `folder`, so that it can be versioned, with a description beside it.

    The folder then holds `task.json` and either `images.npz` or the folders `train` and `test`, and the checkpoint
    of a card that brings one. Everything is checked by `check` afterwards; nothing outside `folder` is written.

    Raises:
        CardError: if the card points to something that is not there or is not what it says.
    """
    source = _resolve(card, base)
    folder.mkdir(parents=True, exist_ok=False)
    classes = card.classes
    if card.source == "embedded":
        rendered = embedded.mixture() if card.path == MIXTURE else embedded.render(card.path)
        classes = classes or rendered.classes
        np.savez_compressed(
            folder / ARRAYS,
            train_x=rendered.train_x,
            train_y=rendered.train_y,
            test_x=rendered.test_x,
            test_y=rendered.test_y,
        )
    elif card.source == "npz":
        with _arrays(source) as arrays:
            classes = classes or _classes_of(arrays, source)
        shutil.copyfile(source, folder / ARRAYS)
    else:
        _copy_pictures(source, folder, card)
    description = {
        "name": card.name,
        "source": card.source,
        "classes": list(classes),
        "prompts": list(card.prompts),
        "checkpoint": None,
        "head": None,
    }
    if card.checkpoint is not None:
        description.update(_copy_checkpoint(card, base, folder))
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def gather_base(card: cards.BaseCard, base: Path, folder: Path) -> None:
    """Copies what a base card refers to into `folder`, with `base.json` beside it: each part as `gather` does, or the
    checkpoint. Raises CardError as `gather` does."""
    folder.mkdir(parents=True, exist_ok=False)
    description = {
        "source": card.source,
        "tag": card.tag,
        "path": None,
        "parts": [part.name for part in card.parts],
        "mirrored": [part.name for part in card.parts if part.mirror],
        "held_back": card.held_back,
        "seed": card.seed,
    }
    for part in card.parts:
        gather(part, base, folder / part.name)
        check(load(folder / part.name))
        if part.share == "held_back":
            _keep_held_back(folder / part.name, fraction=card.held_back, seed=card.seed)
    if card.source == "checkpoint":
        source = (base / card.path).resolve()
        if not source.is_file():
            raise cards.CardError(
                f"expected the base's weights at `path`; received {card.path!r}, which does not exist beside the card; "
                "correct the path"
            )
        description["path"] = "model" + source.suffix.lower()
        shutil.copyfile(source, folder / description["path"])
    (folder / "base.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _keep_held_back(folder: Path, *, fraction: float, seed: int) -> None:
    """Reduces a gathered folder to the train images its split holds back; no test image stays."""
    task = load(folder)
    kept = split(task, unlabelled=0.0, held_back=fraction, seed=seed).held_back
    if not isinstance(task.train, ArrayImages):
        raise cards.CardError(
            f"part {task.name}: expected arrays (source npz or embedded) for share: held_back; received a folder of "
            "pictures; convert it to npz"
        )
    np.savez_compressed(folder / ARRAYS, train_x=task.train.pixels[kept], train_y=task.train.labels[kept],
                        test_x=task.test.pixels[:0], test_y=task.test.labels[:0])  # fmt: skip


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
        train, test = (_file_set(folder / part, classes) for part in ("train", "test"))
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


# --- splits ----------------------------------------------------------------------------------------------------------


def split(task: TaskImages, *, unlabelled: float, held_back: float = 0.0, seed: int = 0) -> Split:
    """The disjoint parts of a task's images.

    Each train image is placed by a keyed hash of its pixels, class by class where labels are known, so the parts do
    not depend on the order of files, and copies of one image lie in one part. Train images whose pixels also occur in
    test are dropped and counted.

    Args:
        task: the images.
        unlabelled: fraction of the train images whose labels are never read, in [0, 1).
        held_back: fraction of the train images left to pretraining, in [0, 1).
        seed: of the keyed hash.

    Raises:
        CardError: if a part that is needed would be empty.
    """
    train, test = task.train.fingerprints(), task.test.fingerprints()
    seen_in_test = set(test)
    kept = [position for position, mark in enumerate(train) if mark not in seen_in_test]
    labels = task.train.labels
    if labels is None:
        unlabelled = 1.0 - held_back
    parts: dict[str, list[int]] = {"held_back": [], "unlabelled": [], "labelled": []}
    for group in _by_class(kept, labels):
        ranked = sorted(group, key=lambda position: _keyed(train[position], seed))
        marks = list(dict.fromkeys(train[position] for position in ranked))
        first = round(held_back * len(marks))
        second = first + max(round(unlabelled * len(marks)), int(unlabelled > 0 and len(marks) > 1))
        part_of = {
            mark: "held_back" if rank < first else "unlabelled" if rank < second else "labelled"
            for rank, mark in enumerate(marks)
        }
        for position in ranked:
            parts[part_of[train[position]]].append(position)
    chosen = {name: np.sort(np.asarray(positions, dtype=np.int64)) for name, positions in parts.items()}
    chosen["test"] = np.arange(len(test), dtype=np.int64)
    _refuse_empty(task, chosen, labelled=labels is not None, unlabelled=unlabelled > 0)
    manifest = _manifest(task, chosen, train, test, dropped=len(train) - len(kept), seed=seed)
    return Split(**chosen, manifest=manifest)


def _by_class(positions: list[int], labels: NDArray[np.int64] | None) -> list[list[int]]:
    if labels is None:
        return [positions]
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(int(labels[position]), []).append(position)
    return [groups[label] for label in sorted(groups)]


def _refuse_empty(task: TaskImages, parts: dict[str, NDArray[np.int64]], **needed: bool) -> None:
    for name in ("labelled", "unlabelled"):
        if needed[name] and len(parts[name]) == 0:
            raise cards.CardError(
                f"task {task.name}: expected images in the {name} part of the split; received none "
                f"out of {len(task.train)} train images; add images or change the fractions"
            )


def _manifest(
    task: TaskImages, parts: dict[str, NDArray[np.int64]], train: list[str], test: list[str], *, dropped: int, seed: int
) -> dict[str, object]:
    marks = {
        name: {(test if name == "test" else train)[position] for position in positions}
        for name, positions in parts.items()
    }
    names = sorted(marks)
    overlaps = {
        f"{one} & {other}": len(marks[one] & marks[other])
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    }
    return {
        "task": task.name,
        "seed": seed,
        "parts": {
            name: {
                "images": len(parts[name]),
                "distinct": len(marks[name]),
                "sha256": hashlib.sha256("\n".join(sorted(marks[name])).encode()).hexdigest(),
            }
            for name in names
        },
        "overlaps": overlaps,
        "disjoint": not any(overlaps.values()),
        "train_images_dropped_because_in_test": dropped,
    }


def _keyed(mark: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{mark}".encode()).hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


def read_picture(path: Path, size: int) -> Array:
    """One picture file as pixels (size, size, 3): the shorter side resized to `size`, then the centre cropped."""
    return _fit(_open(path), size)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise cards.CardError(
                    f"expected an image of at most {MAX_PIXELS} pixels; received {path} with "
                    f"{picture.width}x{picture.height}; make it smaller"
                )
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
    scale = size / min(width, height)
    picture = picture.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _fingerprint(pixels: Array) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _array_sets(path: Path) -> tuple[ArrayImages, ArrayImages]:
    with _arrays(path) as arrays:

        def part(name: str) -> ArrayImages:
            pixels = _array(arrays, f"{name}_x", path)
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
                raise cards.CardError(
                    f"expected {name}_x as uint8 of shape (n, height, width, 3) in {path.name}; received "
                    f"{pixels.dtype} of shape {pixels.shape}; convert the array"
                )
            key = f"{name}_y"
            labels = _array(arrays, key, path) if key in arrays else None
            if labels is not None and not np.issubdtype(labels.dtype, np.integer):
                raise cards.CardError(
                    f"expected {key} as whole numbers in {path.name}; received {labels.dtype}; "
                    "write the position of each class instead"
                )
            return ArrayImages(pixels, None if labels is None else labels.astype(np.int64))

        return part("train"), part("test")


def _array(arrays: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray:
    try:
        return arrays[key]
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise cards.CardError(
            f"expected {key} as a plain array in {path.name}; received one that does not read ({reason}); write it "
            "with numpy.savez"
        ) from error


def _arrays(path: Path) -> np.lib.npyio.NpzFile:
    try:
        arrays = np.load(path, allow_pickle=False)
        missing = sorted({"train_x", "test_x"} - set(getattr(arrays, "files", ())))
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


def _classes_of(arrays: np.lib.npyio.NpzFile, path: Path) -> tuple[str, ...]:
    if "classes" not in arrays:
        raise cards.CardError(f"expected `classes` in the card or in {path}; received neither; list them in the card")
    return tuple(str(name) for name in arrays["classes"])


def _file_set(folder: Path, classes: tuple[str, ...]) -> FileImages:
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
    return FileImages(tuple(files), None if unlabelled else np.asarray(labels, dtype=np.int64))


def _resolve(card: cards.Card, base: Path) -> Path:
    if card.source == "embedded":
        if card.path not in (*embedded.names(), MIXTURE):
            raise cards.CardError(
                f"expected an embedded task ({', '.join(embedded.names())}); received {card.path!r}; choose one of them"
            )
        return Path(card.path)
    source = (base / card.path).resolve()
    if not source.exists():
        raise cards.CardError(
            f"expected the data of task {card.name} at `path`; received {card.path!r}, which does not "
            "exist beside the card; correct the path"
        )
    if source.is_dir() != (card.source == "folder"):
        kind = "a folder" if card.source == "folder" else "a file"
        raise cards.CardError(
            f"expected {kind} at `path` for source {card.source}; received {card.path!r}; correct the path"
        )
    return source


def _copy_pictures(source: Path, folder: Path, card: cards.Card) -> None:
    for part in ("train", "test"):
        found = _file_set(source / part, card.classes)
        for file in found.files:
            target = folder / part / file.relative_to(source / part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (folder / part).mkdir(exist_ok=True)


def _copy_checkpoint(card: cards.Card, base: Path, folder: Path) -> dict[str, str | None]:
    names: dict[str, str | None] = {"checkpoint": None, "head": None}
    for key, path in (("checkpoint", card.checkpoint.path), ("head", card.checkpoint.head)):
        if path is None:
            continue
        source = (base / path).resolve()
        if not source.is_file():
            raise cards.CardError(
                f"expected a file at checkpoint.{'path' if key == 'checkpoint' else 'head'}; received "
                f"{path!r}, which does not exist beside the card; correct the path"
            )
        names[key] = key + source.suffix.lower()
        shutil.copyfile(source, folder / names[key])
    return names


def total_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
