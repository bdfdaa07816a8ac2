"""Encoders: the only door to open_clip. A backbone is a skeleton without weights; the weights are a state dict."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn

from otmf import task_vectors


@dataclass(frozen=True)
class Backbone:
    """An architecture and its preprocessing.

    Attributes:
        config: what `build` made it from, plain JSON.
        skeleton: the encoder on the meta device; it holds no weights.
        image_size: side of the square input, in pixels.
        mean, deviation: shape (3, 1, 1), of pixels in [0, 1].
        has_text: whether a text tower exists, and so zero-shot heads.
    """

    config: dict[str, Any]
    skeleton: nn.Module
    image_size: int
    mean: Tensor
    deviation: Tensor
    has_text: bool

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Pixels (n, size, size, 3) uint8 as normalised inputs (n, 3, size, size) float32."""
        scaled = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
        return scaled.sub_(self.mean).div_(self.deviation)

    def features(self, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Encoder outputs (n, d) before the head, not normalised, differentiable in the state."""
        return torch.func.functional_call(self.skeleton, dict(state), (inputs,))


def build(config: Mapping[str, Any]) -> Backbone:
    """The backbone of a configuration.

    Args:
        config: either {"model": a model name of open_clip}, with what `tagged_config` adds for a tag, or open_clip's own JSON form for a vision tower,
            {"embed_dim": d, "vision_cfg": {...}}, optionally with `mean` and `std` of the pixels.

    Raises:
        ValueError: if the model is unknown or the configuration has unknown keys.
    """
    named = config.get("model")
    full = open_clip.get_model_config(named) if named else dict(config)
    if full is None:
        raise ValueError(
            f"expected a model of open_clip; received {named!r}; choose one of open_clip.list_models(), such as "
            f"{', '.join(open_clip.list_models()[:5])}"
        )
    try:
        with torch.device("meta"):
            skeleton = _build_vision_tower(
                full["embed_dim"],
                CLIPVisionCfg(**full["vision_cfg"]),
                quick_gelu=bool(config.get("quick_gelu", full.get("quick_gelu"))),
            )
    except (KeyError, TypeError) as error:
        raise ValueError(
            "expected a backbone with `embed_dim` and `vision_cfg` in open_clip's form; received one that does not "
            f"build ({error}); correct the JSON file"
        ) from error
    size = full["vision_cfg"].get("image_size", 224)
    return Backbone(
        config=dict(config),
        skeleton=skeleton.eval(),
        image_size=size if isinstance(size, int) else size[0],
        mean=torch.tensor(config.get("mean") or open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1),
        deviation=torch.tensor(config.get("std") or open_clip.OPENAI_DATASET_STD).view(3, 1, 1),
        has_text=bool(named),
    )


def tagged_config(config: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """The configuration with what a tag's weights were trained with: activation, mean and deviation of the pixels."""
    found = open_clip.get_pretrained_cfg(config.get("model", ""), tag) or {}
    return {**config, **{key: found[key] for key in ("quick_gelu", "mean", "std") if found.get(key) is not None}}


def read_config(model: str, root: Path) -> dict[str, Any]:
    """The configuration named in params.yaml: a model of open_clip, or a JSON file below `root`.

    Raises:
        ValueError: if the file is absent, lies outside `root` or is not JSON.
    """
    if not model.endswith(".json"):
        return {"model": model}
    path = (root / model).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise ValueError(
            f"expected a backbone's JSON file inside the line's folder; received {model!r}; put it in data/backbones"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {model}; received text that does not parse ({error}); mend it") from error


def initial_state(backbone: Backbone, *, seed: int) -> task_vectors.State:
    """Fresh random weights of a backbone, from a seed, without touching torch's own random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        full = open_clip.get_model_config(backbone.config["model"]) if "model" in backbone.config else backbone.config
        tower = _build_vision_tower(
            full["embed_dim"], CLIPVisionCfg(**full["vision_cfg"]), quick_gelu=bool(full.get("quick_gelu"))
        )
    return {key: value.detach().clone() for key, value in sorted(tower.state_dict().items())}


def tagged_state(backbone: Backbone, tag: str) -> task_vectors.State:
    """The vision tower's weights under a tag of open_clip; fetched once where they are not in its cache.

    Raises:
        ValueError: if the tag does not exist for this model.
    """
    return {key: value.detach().clone() for key, value in sorted(_tagged(backbone, tag).visual.state_dict().items())}


def whole_model(
    backbone: Backbone, state: task_vectors.State
) -> tuple[dict[str, Any], dict[str, Any], task_vectors.State]:
    """What open_clip needs to load an encoder from a folder by itself: model and preprocessing configuration, and all weights.

    open_clip loads models with a text tower alone: a tiny one is put in, with fixed weights of no meaning.
    """
    named = backbone.config.get("model")
    full = open_clip.get_model_config(named) if named else backbone.config
    quick_gelu = bool(backbone.config.get("quick_gelu", full.get("quick_gelu")))
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = {
        "embed_dim": full["embed_dim"],
        "vision_cfg": full["vision_cfg"],
        "text_cfg": text,
        "quick_gelu": quick_gelu,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**model).state_dict()
    weights = {key: value.detach().clone() for key, value in weights.items() if not key.startswith("visual.")}
    weights |= {f"visual.{key}": value for key, value in state.items()}
    pixels = {"size": backbone.image_size, "mean": backbone.mean.flatten().tolist(), "std": backbone.deviation.flatten().tolist(),
              "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
    return model, pixels, dict(sorted(weights.items()))


def module(backbone: Backbone, state: Mapping[str, Tensor]) -> nn.Module:
    """The encoder as a module of its own that holds its weights."""
    found = copy.deepcopy(backbone.skeleton)
    found.load_state_dict(dict(state), assign=True)
    return found.eval().requires_grad_(False)


def text_embeddings(
    backbone: Backbone, tag: str, classes: Sequence[str], prompts: Sequence[str]
) -> tuple[Tensor, float]:
    """Text embeddings (classes, prompts, d) of a model with a text tower, and its logit scale.

    Args:
        classes: names put into each prompt's {}.
        prompts: texts with one {}.
    """
    model = _tagged(backbone, tag).eval()
    tokenizer = open_clip.get_tokenizer(backbone.config["model"])
    with torch.no_grad():
        rows = [model.encode_text(tokenizer([prompt.replace("{}", name) for prompt in prompts])) for name in classes]
        return torch.stack(rows), float(model.logit_scale.exp())


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


def _tagged(backbone: Backbone, tag: str) -> nn.Module:
    named = backbone.config.get("model")
    if not named:
        raise ValueError(
            "expected a model of open_clip for weights by tag; received a JSON configuration; pretrain it or bring a "
            "checkpoint"
        )
    known = open_clip.list_pretrained_tags_by_model(named)
    if tag not in known and not Path(tag).is_file():
        raise ValueError(
            f"expected a tag of {named} ({', '.join(known) or 'none exist'}); received {tag!r}; choose one of them"
        )
    return open_clip.create_model(named, pretrained=tag)
