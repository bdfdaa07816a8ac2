"""CLIP vision towers as Hugging Face names their tensors, to the names of open_clip and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX = "vision_model."
PROJECTION = "visual_projection.weight"
_OUTSIDE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}
_BUFFER = "embeddings.position_ids"


def speaks(keys: Mapping[str, object]) -> bool:
    """Whether the names are Hugging Face's, of a CLIP vision tower."""
    return any(key.removeprefix(PREFIX) == "embeddings.patch_embedding.weight" for key in keys)


def to_open_clip(state: Mapping[str, Tensor], *, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a vision tower under open_clip's names.

    Queries, keys and values become one tensor; the projection is transposed. A tower that was saved without its projection
    (CLIPVisionModel) has that of the base: fine-tuning left it alone.

    Args:
        state: names as of CLIPVisionModel or CLIPVisionModelWithProjection, or a whole CLIPModel, whose text tower is left out.
        base: the line's base, under open_clip's names; on the meta device where there is none yet.

    Raises:
        ValueError: naming the first tensors that have no place in a vision tower, or that are missing.
    """
    given = [key for key in state if not of_text(key)]
    inside = {key.removeprefix(PREFIX): state[key] for key in given}
    if len(inside) < len(given):
        doubled = sorted(key for key in given if PREFIX + key in state)
        raise ValueError(
            f"expected each tensor once; received {doubled[0]} with and without {PREFIX}; save the model again"
        )
    inside.pop(_BUFFER, None)
    found: dict[str, Tensor] = {}
    if PROJECTION in inside:
        found["proj"] = inside.pop(PROJECTION).T.contiguous()
    elif "proj" in base and not base["proj"].is_meta:
        found["proj"] = base["proj"].clone()
    for theirs, ours in _OUTSIDE.items():
        if theirs in inside:
            found[ours] = inside.pop(theirs)
    blocks: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key in sorted(inside):
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if match is None:
            continue
        number, name, kind = match.groups()
        if name in _BLOCK:
            found[f"transformer.resblocks.{number}.{_BLOCK[name]}.{kind}"] = inside.pop(key)
        elif name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            blocks.setdefault((number, kind), {})[name[-6]] = inside.pop(key)
    for (number, kind), parts in blocks.items():
        if set(parts) != set("qkv"):
            raise ValueError(
                f"expected queries, keys and values of layer {number}; received {', '.join(sorted(parts))} alone; save the whole model"
            )
        if len({part.shape for part in parts.values()}) > 1:
            shapes = ", ".join(str(tuple(parts[part].shape)) for part in "qkv")
            raise ValueError(
                f"expected queries, keys and values of layer {number} of one shape; received {shapes}; save the model again"
            )
        found[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat([parts[part] for part in "qkv"])
    if inside:
        raise ValueError(
            f"expected the tensors of a CLIP vision tower; received others as well ({', '.join(sorted(inside)[:3])}); bring the "
            "vision tower alone"
        )
    return dict(sorted(found.items()))


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of open_clip's vision transformer under the names of CLIPVisionModelWithProjection.

    Raises:
        ValueError: if a tensor has no name there: Hugging Face's CLIP has vision transformers of the original form alone.
    """
    outside = {ours: theirs for theirs, ours in _OUTSIDE.items()}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", key)
        if key == "proj":
            found[PROJECTION] = value.T.contiguous()
        elif key in outside:
            found[PREFIX + outside[key]] = value
        elif match and match[2] in _BACK:
            found[f"{PREFIX}encoder.layers.{match[1]}.{_BACK[match[2]]}.{match[3]}"] = value
        elif match and match[2] == "attn.in_proj":
            for part, tensor in zip("qkv", value.chunk(3), strict=True):
                found[f"{PREFIX}encoder.layers.{match[1]}.self_attn.{part}_proj.{match[3]}"] = tensor.clone()
        else:
            raise ValueError(
                f"expected a vision transformer of CLIP's original form; received one with {key}; export it for open_clip"
            )
    return dict(sorted(found.items()))


def of_text(key: str) -> bool:
    """Whether a tensor of a whole CLIPModel is not of its vision tower."""
    return key.startswith(("text_model.", "text_projection.")) or key == "logit_scale"
