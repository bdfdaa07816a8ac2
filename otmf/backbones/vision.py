"""Encoders of images: vision towers of open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn

from otmf import settings, task_vectors
from otmf.backbones import augmentation
from otmf.backbones.backbone import Backbone, Foreign
from otmf.data import datasets, image_sizes, images
from otmf.formats import hugging_face

# What transformers takes where a configuration of CLIP does not say it.
_USUAL = {"hidden_act": "quick_gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-5}
_OF_CLIP = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size")


@dataclass(frozen=True)
class Vision(Backbone):
    """A vision tower of open_clip.

    Attributes:
        fit: how a picture becomes a square.
        mean, deviation: shape (3, 1, 1), of pixels in [0, 1].
    """

    fit: images.Fit
    mean: Tensor
    deviation: Tensor

    reads = datasets.IMAGES

    def read(
        self, source: images.ArrayImages | images.FileImages, positions: Sequence[int] | NDArray[np.int64]
    ) -> np.ndarray:
        """Pixels (n, size, size, 3) uint8."""
        return source.read(positions, self.fit)

    def decode(self, contents: Sequence[bytes], names: Sequence[str] | None = None) -> np.ndarray:
        """Pixels (n, size, size, 3) uint8 of picture files."""
        names = names or [f"image {number}" for number in range(1, len(contents) + 1)]
        return np.stack([images.decode_picture(one, name, self.fit) for one, name in zip(contents, names, strict=True)])

    def pixels(self, contents: Sequence[bytes]) -> int:
        return sum(map(image_sizes.pixels, contents))

    def blank(self) -> np.ndarray:
        return np.zeros((1, self.fit.size, self.fit.size, 3), np.uint8)

    def prepare(self, found: np.ndarray, where: torch.device | None = None) -> Tensor:
        """Pixels (n, size, size, 3) uint8 as normalised inputs (n, 3, size, size) float32, moved before they are four times as large."""
        scaled = torch.from_numpy(np.ascontiguousarray(found)).to(where).permute(0, 3, 1, 2).float().div_(255)
        return scaled.sub_(self.mean.to(where)).div_(self.deviation.to(where))

    def features(self, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self.skeleton, dict(state), (inputs,))

    def vary(
        self, inputs: Tensor, options: settings.Training, *, generator: torch.Generator, mirrored: Tensor | None
    ) -> Tensor:
        """Each image moved, zoomed, turned, mirrored where allowed, its contrast changed."""
        return augmentation.vary(inputs, options, generator=generator, mirrored=mirrored)

    def initial_state(self, *, seed: int) -> task_vectors.State:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            full = open_clip.get_model_config(self.config["model"]) if "model" in self.config else self.config
            tower = _build_vision_tower(
                full["embed_dim"], CLIPVisionCfg(**full["vision_cfg"]), quick_gelu=bool(full.get("quick_gelu"))
            )
        return _sorted(tower.state_dict())

    def tagged_state(self, tag: str) -> task_vectors.State:
        return _sorted(_tagged(self, tag).visual.state_dict())

    def foreign(self, state: task_vectors.State) -> Foreign:
        """As open_clip reads a folder: its configuration, and all weights.

        open_clip loads models with a text tower alone: a tiny one is put in, with fixed weights of no meaning.
        """
        named = self.config.get("model")
        full = open_clip.get_model_config(named) if named else self.config
        text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
        model = {
            "embed_dim": full["embed_dim"],
            "vision_cfg": full["vision_cfg"],
            "text_cfg": text,
            "quick_gelu": bool(self.config.get("quick_gelu", full.get("quick_gelu"))),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = open_clip.CLIP(**model).state_dict()
        weights = {key: value.detach().clone() for key, value in weights.items() if not key.startswith("visual.")}
        weights |= {f"visual.{key}": value for key, value in state.items()}
        pixels = {
            "size": self.fit.size,
            "mean": self.mean.flatten().tolist(),
            "std": self.deviation.flatten().tolist(),
            "interpolation": self.fit.interpolation,
            "resize_mode": self.fit.mode,
        }
        return Foreign(
            documents={"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": pixels}},
            weights={"open_clip_model.safetensors": dict(sorted(weights.items()))},
        )

    def hugging_face(self, state: task_vectors.State) -> Foreign:
        """As CLIPVisionModelWithProjection, with the image processor's settings."""
        if self.fit.mode == "longest":
            raise ValueError(
                "expected pictures that are cropped or squashed, as transformers' processor can; received an encoder whose pictures are padded; "
                "export it for open_clip"
            )
        _, tower = self._tower()
        other = [key for key in tower if key not in _OF_CLIP and tower[key]]
        if other:
            raise ValueError(
                f"expected a vision transformer of CLIP's original form for transformers; received one with {', '.join(other)}; export it "
                "for open_clip"
            )
        weights = hugging_face.from_open_clip(state)
        config = self._as_clip()
        size = {"height": self.fit.size, "width": self.fit.size}
        cropped = self.fit.mode == "shortest"
        pixels = {
            "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "do_center_crop": cropped, "do_rescale": True,
            "do_normalize": True, "size": {"shortest_edge": self.fit.size} if cropped else size, "crop_size": size,
            "resample": 3 if self.fit.interpolation == "bicubic" else 2, "rescale_factor": 1 / 255, "image_mean": self.mean.flatten().tolist(),
            "image_std": self.deviation.flatten().tolist(),
        }  # fmt: skip
        return Foreign(
            documents={"config.json": config, "preprocessor_config.json": pixels},
            weights={"model.safetensors": weights},
        )

    def _tower(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole model's configuration as open_clip has it, and the tower's with its usual values."""
        named = self.config.get("model")
        full = open_clip.get_model_config(named) if named else self.config
        return full, {"head_width": 64, "mlp_ratio": 4.0, **full["vision_cfg"]}

    def _as_clip(self) -> dict[str, Any]:
        """The configuration of CLIPVisionModelWithProjection."""
        full, tower = self._tower()
        quick = bool(self.config.get("quick_gelu", full.get("quick_gelu")))
        return {
            "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", "projection_dim": full["embed_dim"],
            "hidden_size": tower["width"], "intermediate_size": int(tower["width"] * tower["mlp_ratio"]), "num_hidden_layers": tower["layers"],
            "num_attention_heads": tower["width"] // tower["head_width"], "image_size": tower["image_size"],
            "patch_size": tower["patch_size"], "hidden_act": "quick_gelu" if quick else "gelu", "layer_norm_eps": 1e-5,
        }  # fmt: skip

    def differing(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Of a vision transformer of CLIP's form, by itself or in a whole model; other configurations are left alone."""
        theirs = config.get("vision_config", config)
        if (
            not str(config.get("model_type", "")).startswith("clip")
            or not isinstance(theirs, dict)
            or "width" not in self._tower()[1]
        ):
            return {}
        ours = self._as_clip()
        return {
            key: (theirs.get(key, usual), ours[key])
            for key, usual in _USUAL.items()
            if theirs.get(key, usual) != ours[key]
        }

    def zero_shot(self, base: Mapping[str, Any]) -> bool:
        return bool(self.config.get("model")) and bool(base.get("tag"))

    def class_embeddings(
        self,
        base: Mapping[str, Any],
        state: Mapping[str, Tensor],
        classes: Sequence[str],
        prompts: Sequence[str],
    ) -> tuple[Tensor, float | None]:
        """By the text tower of the base's tag, and its logit scale."""
        model = _tagged(self, base["tag"]).eval()
        tokenizer = open_clip.get_tokenizer(self.config["model"])
        with torch.no_grad():
            rows = [
                model.encode_text(tokenizer([prompt.replace("{}", name) for prompt in prompts])) for name in classes
            ]
            return torch.stack(rows), float(model.logit_scale.exp())


def build(config: Mapping[str, Any]) -> Vision:
    """As `otmf.backbones.build`."""
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
    pixels = {**full["vision_cfg"].get("preprocess_cfg", {}), **config}
    fit = images.Fit(
        size if isinstance(size, int) else size[0],
        pixels.get("resize_mode", "shortest"),
        pixels.get("interpolation", "bicubic"),
    )
    return Vision(
        config=dict(config),
        skeleton=skeleton.eval(),
        fit=fit,
        mean=torch.tensor(config.get("mean") or open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1),
        deviation=torch.tensor(config.get("std") or open_clip.OPENAI_DATASET_STD).view(3, 1, 1),
    )


def tagged_config(config: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """The configuration with what a tag's weights were trained with: activation, and how pictures become pixels."""
    found = open_clip.get_pretrained_cfg(config.get("model", ""), tag) or {}
    return {
        **config,
        **{
            key: found[key]
            for key in ("quick_gelu", "mean", "std", "interpolation", "resize_mode")
            if found.get(key) is not None
        },
    }


def _sorted(state: Mapping[str, Tensor]) -> task_vectors.State:
    return {key: value.detach().clone() for key, value in sorted(state.items())}


def _tagged(backbone: Vision, tag: str) -> nn.Module:
    named = backbone.config.get("model")
    if not named:
        raise ValueError(
            f"expected a model of open_clip for weights of the tag {tag!r}; received a JSON configuration; name the model in params.yaml "
            "(backbone: {model: ViT-B-32}), or pretrain the encoder or bring a checkpoint"
        )
    known = open_clip.list_pretrained_tags_by_model(named)
    if tag not in known and not Path(tag).is_file():
        raise ValueError(
            f"expected a tag of {named} ({', '.join(known) or 'none exist'}); received {tag!r}; choose one of them"
        )
    try:
        return open_clip.create_model(named, pretrained=tag)
    except RuntimeError as error:
        if "download" not in str(error).lower():
            raise
        raise ConnectionError(
            f"expected the weights of {named} under the tag {tag!r}, here or by network; received neither; run it once with a network, or "
            "bring them as a checkpoint"
        ) from error
