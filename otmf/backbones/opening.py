"""Encoders: the only door to open_clip and transformers. A backbone is a skeleton without weights; the weights are a state dict."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmf.backbones.backbone import Backbone
from otmf.data import datasets

CONFIG = "backbone.json"


def build(config: Mapping[str, Any], folder: Path | None = None) -> Backbone:
    """The backbone of a configuration.

    Args:
        config: of images: {"model": a model name of open_clip}, with what a tag adds, or open_clip's own JSON form for a
            vision tower, {"embed_dim": d, "vision_cfg": {...}}, optionally with `mean` and `std` of the pixels. Of texts:
            {"transformers": a configuration as Hugging Face saves it, "tokenizer": a file in `folder`, "length": tokens,
            "pooling": how tokens become one vector}.
        folder: where the tokenizer lies.

    Raises:
        ValueError: if the model is unknown or the configuration has unknown keys.
    """
    if datasets.read_by(config) == datasets.TEXTS:
        from otmf.backbones import text

        return text.build(config, folder or Path())
    from otmf.backbones import vision

    return vision.build(config)


def preload() -> None:
    """Imports the libraries of every kind of encoder, as far as they are installed: they take seconds, once per process."""
    for kind in ("vision", "text"):
        with contextlib.suppress(Exception):  # whoever needs it will say what is wrong with it
            importlib.import_module(f"{__package__}.{kind}")


def opened(folder: Path) -> Backbone:
    """The backbone whose configuration lies in a folder."""
    return build(json.loads((folder / CONFIG).read_text(encoding="utf-8")), folder)


def tagged(config: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """The configuration with what a tag of open_clip's weights were trained with."""
    from otmf.backbones import vision

    return vision.tagged_config(config, tag)


def read_config(model: str, root: Path) -> tuple[dict[str, Any], Path]:
    """The configuration named in params.yaml, and the folder its files are relative to: a model of open_clip, or a JSON file
    below `root`.

    Raises:
        ValueError: if the file is absent, lies outside `root` or is not JSON.
    """
    if not model.endswith(".json"):
        return {"model": model}, root
    path = (root / model).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise ValueError(
            f"expected a backbone's JSON file inside the line's folder; received {model!r}; put it in data/backbones"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8")), path.parent
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {model}; received text that does not parse ({error}); mend it") from error


def extract(
    features: Callable[[Tensor], Tensor], read: Callable[[np.ndarray], Tensor], count: int, *, batch_size: int = 256
) -> Tensor:
    """Features (count, d) of inputs read batch by batch, without gradients.

    Args:
        features: inputs -> (n, d).
        read: positions -> inputs.
        count: number of inputs.
    """
    with torch.no_grad():
        parts = [
            features(read(positions)) for positions in np.array_split(np.arange(count), max(1, -(-count // batch_size)))
        ]
    return torch.cat(parts)
