"""Encoders to be read."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from tests import makers

VISION = {"hidden_size": 16, "intermediate_size": 64, "projection_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 16, "patch_size": 8}  # fmt: skip


def other(base: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in base.items()}


def same(one, two) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def bert(tmp_path: Path):
    makers.tokeniser(tmp_path / "tokens")
    torch.manual_seed(0)
    model = BertModel(BertConfig(**makers.BERT)).eval()
    return model, dict(sorted(model.state_dict().items()))


def clip() -> open_clip.CLIP:
    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(4)
    return open_clip.CLIP(embed_dim=8, vision_cfg=makers.BACKBONE["vision_cfg"], text_cfg=text, quick_gelu=True)


def index(folder: Path, weight_map: object, **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(
        weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map}), encoding="utf-8"
    )
    return path
