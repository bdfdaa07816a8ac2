"""Small things made for tests: a backbone, tasks of coloured squares, cards, and whole lines of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

BACKBONE = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
BERT = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
COLOURS = ("red", "green", "blue")


def pictures(count: int, *, seed: int, classes: int = 3, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square in the channel of its class: pixels (count, size, size, 3) uint8, labels (count,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 120, (count, size, size, 3))
    top, left = rng.integers(0, size - 6, (2, count))
    for position, label in enumerate(labels):
        pixels[position, top[position] : top[position] + 6, left[position] : left[position] + 6, label] += 120
    return pixels.astype(np.uint8), labels.astype(np.int64)


def arrays(*, seed: int, train: int = 48, test: int = 18, classes: int = 3) -> dict[str, np.ndarray]:
    """The arrays of an npz task."""
    train_x, train_y = pictures(train, seed=seed, classes=classes)
    test_x, test_y = pictures(test, seed=seed + 10_000, classes=classes)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y,
            "classes": np.array(COLOURS[:classes])}  # fmt: skip


def card(
    folder: Path, name: str = "squares", *, seed: int = 1, data: dict[str, np.ndarray] | None = None, **keys
) -> Path:
    """A task card with its npz file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **(arrays(seed=seed) if data is None else data))
    content = {"name": name, "source": "npz", "path": f"{name}.npz", **keys}
    path = folder / f"{name}.yaml"
    write_yaml(path, content)
    return path


def tokeniser(folder: Path) -> Path:
    """A folder with a tokenizer.json of a few words, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = [
        "what",
        "a",
        "good",
        "film",
        "the",
        "bank",
        "lost",
        "my",
        "card",
        "where",
        "is",
        "nearest",
        "and",
        "how",
        "do",
        "i",
        "get",
        "there",
        "bad",
        "dull",
        "red",
        "green",
        "blue",
        "it",
        "was",
    ]
    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    found = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    found.normalizer, found.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    found.save(str(folder / "tokenizer.json"))
    return folder


def base_card(folder: Path) -> Path:
    """A base card that pretrains on one small part."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "mixture.npz", **arrays(seed=0))
    path = folder / "pretrained.yaml"
    part = {"name": "mixture", "source": "npz", "path": "mixture.npz"}
    write_yaml(path, {"name": "pretrained", "source": "train", "parts": [part]})
    return path


def params(folder: Path, **defaults) -> Path:
    """Parameters under which a whole onboarding computes for a second; the gate lets all through: a test image is five points."""
    path = folder / "params.yaml"
    content = {
        "line": "small",
        "device": "cpu",
        "threads": 1,
        "pretrained": {"epochs": 1, "batch_size": 16},
        "gate": {"least_of_finetuned": 0, "largest_drop": 1, "largest_average_drop": 1},
        "defaults": {"finetune": {"epochs": 2, "batch_size": 8}, "merge": {"steps": 6, "batch_size": 4}, **defaults},
        "tasks": {},
        "steps": {},
    }
    write_yaml(path, content)
    return path


def line(folder: Path, **defaults) -> Path:
    """A new line with the small backbone, committed."""
    from flows.line import workspace

    materials = folder.parent / f"{folder.name}_materials"
    base = base_card(materials)
    backbone = materials / "small.json"
    backbone.write_text(json.dumps(BACKBONE), encoding="utf-8")
    workspace.create(folder, base=base, params=params(materials, **defaults), backbone=backbone)
    return folder


def sentences(*, seed: int, count: int) -> list[dict]:
    """Rows with a label that one word of the text gives away."""
    rng = np.random.default_rng(seed)
    filling = ["the", "film", "was", "what", "a", "and", "it", "my", "card"]
    rows = []
    for number in range(count):
        words = [*rng.choice(filling, 5), ("bad", "good")[number % 2]]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": number % 2})
    return rows


def text_card(folder: Path, name: str = "reviews", *, seed: int = 1, **keys) -> Path:
    """A card of texts with its table beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"split": part, **row} for part, count, own in (("train", 60, seed), ("test", 20, seed + 1000))
            for row in sentences(seed=own, count=count)]  # fmt: skip
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / f"{name}.yaml"
    write_yaml(path, {"name": name, "source": "jsonl", "path": f"{name}.jsonl", "classes": ["bad", "good"], **keys})
    return path


def text_encoder(folder: Path) -> Path:
    """A folder with a tiny BERT of random weights, as Hugging Face saves it."""
    import torch
    from transformers import BertConfig, BertModel

    tokeniser(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(**BERT)).save_pretrained(folder)
    return folder


def text_line(folder: Path, **defaults) -> Path:
    """A new line with a tiny encoder of texts, committed; its gate lets everything through."""
    from flows.line import workspace

    materials = folder.parent / f"{folder.name}_materials"
    text_encoder(materials / "tiny-bert")
    write_yaml(materials / "pretrained.yaml", {"source": "checkpoint", "path": "tiny-bert", "backbone": {"length": 16}})
    workspace.create(folder, base=materials / "pretrained.yaml", params=params(materials, **defaults))
    return folder


def commit(root: Path, message: str) -> None:
    """Commits whatever lies in a folder, as a person does."""
    from flows.programs import git

    git.run(root, "add", "--all")
    git.run(root, "commit", "--quiet", "--message", message)


def write_yaml(path: Path, content: object) -> None:
    yaml = YAML(typ="rt")
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
