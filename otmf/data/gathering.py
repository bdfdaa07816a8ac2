"""From a card to a folder that can be versioned: what the card refers to, copied and described. No torch here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from otmf.data import cards, datasets, embedded, images, splits, texts
from otmf.runtime import foreign_parsers, strict_json

MIXTURE = "mixture"
INDEX = ".safetensors.index.json"
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def gather(card: cards.Card, base: Path, folder: Path) -> None:
    """Copies what a card refers to into `folder`, so that it can be versioned, with a description beside it.

    The folder then holds `task.json` and either `images.npz`, the folders `train` and `test`, or `texts.jsonl`, and the checkpoint
    of a card that brings one. Everything is checked by `check` afterwards; nothing outside `folder` is written.

    Raises:
        CardError: if the card points to something that is not there or is not what it says.
    """
    source = resolve(card, base)
    folder.mkdir(parents=True, exist_ok=False)
    classes = card.classes
    if card.source == "embedded":
        rendered = embedded.mixture() if card.path == MIXTURE else embedded.render(card.path)
        classes = classes or rendered.classes
        np.savez_compressed(
            folder / images.ARRAYS,
            train_x=rendered.train_x,
            train_y=rendered.train_y,
            test_x=rendered.test_x,
            test_y=rendered.test_y,
        )
    elif card.source == "npz":
        with images.open_arrays(source) as arrays:
            classes = classes or _classes_of(arrays, source)
        shutil.copyfile(source, folder / images.ARRAYS)
    elif card.source in cards.TABLES:
        classes, train, test = texts.from_table(source, card)
        texts.write(folder, train, test)
    else:
        _copy_pictures(source, folder, card)
    description = {
        "name": card.name,
        "source": card.source,
        "classes": list(classes),
        "prompts": list(card.prompts or cards.PROMPTS[card.reads]),
        "checkpoint": None,
        "head": None,
    }
    if card.folders:
        description["folders"] = list(card.folders)
    if card.checkpoint is not None:
        description.update(copy_checkpoint(card, base, folder))
        patterns = {"missing": card.checkpoint.missing, "ignored": card.checkpoint.ignored}
        description |= {name: list(found) for name, found in patterns.items() if found}
    (folder / datasets.DESCRIPTION).write_text(
        json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


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
        datasets.check(datasets.load(folder / part.name))
        if part.share == "held_back":
            _keep_held_back(folder / part.name, fraction=card.held_back, seed=card.seed)
    if card.backbone is not None:
        description |= _copy_encoder(card, (base / card.path).resolve(), base, folder)
    elif card.source == "checkpoint":
        source = (base / card.path).resolve()
        if source.is_dir():
            raise cards.CardError(
                f"expected a file of weights at `path`; received the folder {card.path!r}; for an encoder of texts say how it reads "
                "(backbone: {length: 64, pooling: mean}), otherwise name the file"
            )
        if not source.is_file():
            raise cards.CardError(
                f"expected the base's weights at `path`; received {card.path!r}, which does not exist beside the card; "
                "correct the path"
            )
        description["path"] = "model" + source.suffix.lower()
        shutil.copyfile(source, folder / description["path"])
    (folder / "base.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _copy_encoder(card: cards.BaseCard, source: Path, base: Path, folder: Path) -> dict:
    """An encoder of texts as Hugging Face saves it: its configuration into the description, weights and tokeniser beside it."""
    tokeniser = (
        source / "tokenizer.json" if card.backbone.tokeniser is None else (base / card.backbone.tokeniser).resolve()
    )
    needed = {"model.safetensors": source / "model.safetensors", "tokenizer.json": tokeniser}
    for path in (source / "config.json", *needed.values()):
        if not path.is_file():
            raise cards.CardError(
                f"expected a folder with config.json, tokenizer.json and model.safetensors as the base's `path`; received "
                f"{card.path!r} without {path.name}; correct the path, or save the model anew"
            )
    with foreign_parsers.reading(
        lambda reason: cards.CardError(
            f"expected JSON in config.json; received text that does not parse ({reason}); save the model anew"
        )
    ):
        config = strict_json.loads((source / "config.json").read_text(encoding="utf-8"))
    for name, path in needed.items():
        shutil.copyfile(path, folder / name)
    backbone = {
        "transformers": config,
        "tokenizer": "tokenizer.json",
        "length": card.backbone.length,
        "pooling": card.backbone.pooling,
    }
    return {"path": "model.safetensors", "backbone": backbone}


def _keep_held_back(folder: Path, *, fraction: float, seed: int) -> None:
    """Reduces a gathered folder to the train inputs its split holds back; no test input stays."""
    task = datasets.load(folder)
    kept = splits.split(task, unlabelled=0.0, held_back=fraction, seed=seed).held_back
    if isinstance(task.train, texts.TextSet):
        texts.write(folder, task.train.chosen(kept), task.test.chosen(kept[:0]))
        return
    if not isinstance(task.train, images.ArrayImages):
        raise cards.CardError(
            f"part {task.name}: expected arrays or tables (source npz, embedded, csv, parquet or jsonl) for share: held_back; received a folder of "
            "pictures; convert it to npz"
        )
    np.savez_compressed(folder / images.ARRAYS, train_x=task.train.pixels[kept], train_y=task.train.labels[kept],
                        test_x=task.test.pixels[:0], test_y=task.test.labels[:0])  # fmt: skip


def resolve(card: cards.Card, base: Path) -> Path:
    """Where a card's data lies, seen from the card's folder; an embedded task's name as it is.

    Raises:
        CardError: if nothing is there, or it is not what `source` says.
    """
    if card.source == "embedded":
        if card.path not in (*embedded.names(), MIXTURE):
            raise cards.CardError(
                f"expected an embedded task ({', '.join(embedded.names())}); received {card.path!r}; choose one of them"
            )
        return Path(card.path)
    if card.source == cards.PACKAGED:
        raise cards.CardError(
            f"expected data as files or arrays; received the card {card.name} of torchvision's {card.dataset}; take it to `otmf onboard` or `otmf "
            "submit`, which fetch the data first"
        )
    try:
        source = (base / card.path).resolve()
        there = source.exists()
    except OSError:  # no file system has names that long
        there = False
    if not there:
        raise cards.CardError(
            f"expected the data of task {card.name} at `path`; received {card.path[:200]!r}, which does not "
            "exist beside the card; correct the path"
        )
    kind = "a folder" if card.source == "folder" else "a file"
    fits = {"a folder": source.is_dir(), "a file": source.is_file()}
    if not (any(fits.values()) if card.source in cards.TABLES else fits[kind]):
        raise cards.CardError(
            f"expected {kind} at `path` for source {card.source}; received {card.path!r}; correct the path"
        )
    return source


def _copy_pictures(source: Path, folder: Path, card: cards.Card) -> None:
    for part in ("train", "test"):
        found = images.file_set(source / part, card.folders or card.classes)
        for file in found.files:
            target = folder / part / file.relative_to(source / part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (folder / part).mkdir(exist_ok=True)


def copy_checkpoint(card: cards.Card, base: Path, folder: Path) -> dict[str, str | None]:
    """Copies a card's checkpoint and head into a folder; returns their names there, under `checkpoint` and `head`.

    Raises:
        CardError: if a file is not there, or a folder holds links or folders.
    """
    names: dict[str, str | None] = {"checkpoint": None, "head": None}
    for key, path in (("checkpoint", card.checkpoint.path), ("head", card.checkpoint.head)):
        if path is None:
            continue
        source = (base / path).resolve()
        if key == "checkpoint" and source.is_dir():
            names[key] = key
            _copy_folder(source, folder / key)
            continue
        if not source.is_file():
            raise cards.CardError(
                f"expected a file at checkpoint.{'path' if key == 'checkpoint' else 'head'}; received "
                f"{path!r}, which does not exist beside the card; correct the path"
            )
        if source.name.endswith(INDEX):
            raise cards.CardError(
                f"expected the folder of a checkpoint in several files; received its index {path!r}; name the folder"
            )
        names[key] = key + source.suffix.lower()
        shutil.copyfile(source, folder / names[key])
    return names


def _copy_folder(source: Path, target: Path) -> None:
    """The weights of a folder and what says how they belong together; nothing that leads out of it."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix.lower() not in (*WEIGHTS, ".json"):
            continue
        if not path.is_file() or not path.resolve().is_relative_to(source):
            raise cards.CardError(
                f"expected files in the checkpoint's folder; received {path.name!r}, which is no file or leads outside; replace it by a copy"
            )
        shutil.copyfile(path, target / path.name)
    if not any(path.suffix.lower() in WEIGHTS for path in target.iterdir()):
        raise cards.CardError(
            f"expected weights ({', '.join(WEIGHTS)}) in the checkpoint's folder {source.name}; received none; correct the path"
        )


def _classes_of(arrays: np.lib.npyio.NpzFile, path: Path) -> tuple[str, ...]:
    if "classes" not in arrays:
        raise cards.CardError(f"expected `classes` in the card or in {path}; received neither; list them in the card")
    found = images.read_array(arrays, "classes", path)
    names = tuple(str(name) for name in found) if found.ndim == 1 else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise cards.CardError(
            f"expected `classes` as at least two distinct names in {path.name}; received {names[:5]}; list them in the card"
        )
    return names
