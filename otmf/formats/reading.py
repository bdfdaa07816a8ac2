"""Fine-tuned encoders in the forms that people have them: files of every kind to a state dict under the base's names.

Nothing of a file is run. What a file holds beside the encoder is left out only where it is known for what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from otmf import checkpoints
from otmf.checkpoints.deferred import Deferred, whole
from otmf.formats import hugging_face, lora, pickles, sharded

_TEXT_TOWER = re.compile(
    r"(text\.)?(transformer|token_embedding|positional_embedding|ln_final|text_projection|attn_mask|logit_scale|logit_bias)(\..+)?"
)
_HEAD = re.compile(r"(classifier|classification_head|score|fc|head|heads|cls|qa_outputs)(\..+)?")
_BUFFER = re.compile(r"(.+\.)?(position_ids|token_type_ids)")
ROUNDED = (torch.float16, torch.bfloat16, torch.float64)  # said, as reading them in the base's dtype may round
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Found:
    """An encoder as it was found.

    Attributes:
        state: under the base's names, sorted, in the base's dtypes.
        form: what the file was, for people.
        left_out: names of what the file held beside the encoder.
        factors: weight -> factors of low rank, where it came as an adapter.
        kept: whether those are of the base's own weights, so that they can stand for the task vector.
    """

    state: dict[str, Tensor]
    form: str
    left_out: tuple[str, ...] = ()
    factors: Mapping[str, lora.Factors] | None = None
    kept: bool = False


def read(
    path: Path,
    *,
    base: Mapping[str, Tensor],
    missing: Sequence[str] = (),
    ignored: Sequence[str] = (),
    canonical: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> Found:
    """A fine-tuned encoder in a file or folder.

    A safetensors file, several with an index, a pickled state dict, a pickled model, or a folder with one of these or with a
    LoRA adapter; names as of the base, of open_clip's whole model, or of Hugging Face.

    Args:
        path: the file or folder.
        base: the line's base; the skeleton's own tensors on the meta device to read the base itself.
        missing: patterns of the base's names that the file may lack: they stay as in the base.
        ignored: patterns of the file's names that are left out.
        canonical: gives tensors that are tied their one name, as `Backbone.canonical`.

    Raises:
        CheckpointError: if it is none of these, is damaged, or is another encoder; naming what is at fault.
    """
    if path.is_dir() and lora.is_adapter(path):
        if missing:
            raise checkpoints.CheckpointError(
                "expected an adapter with nothing under `missing`, since what it has no factors for stays as in the base; received "
                f"{', '.join(missing[:3])}; leave them out"
            )
        factors, left_out = lora.read(path, ignored=ignored)
        return replace(_adapted(factors, base), left_out=left_out)
    state, form = _tensors(_place(path))
    found = named(state, base=base, form=form, missing=missing, ignored=ignored, canonical=canonical)
    return replace(found, state=whole(found.state))


def named(
    state: Mapping[str, Tensor | Deferred],
    *,
    base: Mapping[str, Tensor],
    form: str,
    missing: Sequence[str] = (),
    ignored: Sequence[str] = (),
    canonical: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> Found:
    """The tensors of an encoder under the base's names; what does not fit is refused before a deferred one is read.

    Arguments and errors as `read`.
    """
    kept = {key: value for key, value in state.items() if not _any(key, ignored)}
    left_out = sorted(set(state) - set(kept))
    for wrapper in _WRAPPERS:
        if kept and all(key.startswith(wrapper) for key in kept):
            kept = {key.removeprefix(wrapper): value for key, value in kept.items()}
    if hugging_face.speaks(kept) and "conv1.weight" in base:
        left_out += filter(hugging_face.of_text, kept)
        try:
            kept = hugging_face.to_open_clip(kept, base=base)
        except ValueError as error:
            raise checkpoints.CheckpointError(str(error)) from error
        form = f"{form}, names of Hugging Face"
    else:
        kept, outside = _inside(kept, base)
        left_out += outside
    try:
        kept = dict(canonical(kept))
    except ValueError as error:
        raise checkpoints.CheckpointError(str(error)) from error
    for key in set(base) - set(kept):
        if _any(key, missing):
            kept[key] = base[key]
    for key in [key for key in kept if key not in base and _BUFFER.fullmatch(key)]:
        left_out.append(key)
        del kept[key]
    _check(kept, base)
    kept = {key: value.to(base[key].dtype) for key, value in sorted(kept.items())}
    said = sorted({str(state[key].dtype).removeprefix("torch.") for key in state if state[key].dtype in ROUNDED})
    return Found(kept, ", ".join([form, *said]), tuple(sorted(left_out)))


def _place(path: Path) -> Path:
    """The file of weights, or the index of several, that a path stands for."""
    if path.is_dir():
        indices = sorted(path.glob(f"*{sharded.SUFFIX}"))
        files = sorted(one for one in path.iterdir() if one.suffix.lower() in (".safetensors", *checkpoints.PICKLES))
        if len(indices) == 1:
            return checkpoints.inside(indices[0], path)
        if len(files) != 1:
            raise checkpoints.CheckpointError(
                f"expected one file of weights, or an index of several, in {path.name}; received {len(files)}; name the file itself"
            )
        return checkpoints.inside(files[0], path)
    return path


def _tensors(path: Path) -> tuple[dict[str, Tensor | Deferred], str]:
    if path.name.endswith(sharded.SUFFIX):
        return sharded.load_deferred(path), "sharded safetensors"
    if path.suffix.lower() not in checkpoints.PICKLES:
        return checkpoints.load_deferred(path), "safetensors"
    try:
        return checkpoints.read_foreign(path), "pickled state dict"
    except checkpoints.CheckpointError:
        try:
            return pickles.read(path), "pickled model"
        except ValueError as error:
            raise checkpoints.CheckpointError(str(error)) from error


def _adapted(factors: Mapping[str, lora.Factors], base: Mapping[str, Tensor]) -> Found:
    prefix = _prefix(factors, base)
    own = {key.removeprefix(prefix): value for key, value in factors.items()}
    if "conv1.weight" not in base or set(own) <= set(base):
        return Found(lora.apply(own, base), "LoRA adapter", (), own, kept=True)
    try:
        whole = hugging_face.from_open_clip(base)
    except ValueError as error:
        raise checkpoints.CheckpointError(str(error)) from error
    whole = {key.removeprefix(hugging_face.PREFIX): value for key, value in whole.items()}
    inside = {key.removeprefix(hugging_face.PREFIX): value for key, value in factors.items()}
    state = hugging_face.to_open_clip(lora.apply(inside, whole), base=base)
    return Found(state, "LoRA adapter, names of Hugging Face", (), factors)


def _inside(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder in a larger model, by the prefix under which the base's names are found; and what else there is."""
    prefix = _prefix(state, base)
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = [key for key in state if not key.startswith(prefix)]
    own = prefix.removesuffix("visual.")
    unknown = [key for key in outside if not _TEXT_TOWER.fullmatch(key.removeprefix(own))]
    if unknown:
        heads = [key for key in unknown if _HEAD.fullmatch(key)]
        reason = "a classification head" if heads else "other parts"
        raise checkpoints.CheckpointError(
            f"expected an encoder alone; received one with {reason} ({', '.join(sorted(unknown)[:3])}); bring the encoder by itself, or "
            f"name what to leave out under `ignored` (--ignored '{sorted(unknown)[0].rpartition('.')[0] or sorted(unknown)[0]}*')"
        )
    return kept, outside


def _prefix(state: Mapping[str, object], base: Mapping[str, Tensor]) -> str:
    """The shortest prefix under which most of the base's names occur."""
    counts: dict[str, int] = {"": sum(key in base for key in state)}
    for key in state:
        for cut in (match.end() for match in re.finditer(r"\.", key)):
            if key[cut:] in base:
                counts[key[:cut]] = counts.get(key[:cut], 0) + 1
    return max(sorted(counts, key=len), key=lambda prefix: counts[prefix])


def _any(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _check(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    lacking, extra = sorted(set(base) - set(state)), sorted(set(state) - set(base))
    if lacking and extra and any(".lora_" in key for key in extra):
        raise checkpoints.CheckpointError(
            "expected an encoder; received the factors of an adapter by themselves; name its folder, which says how they are scaled"
        )
    if lacking or extra:
        raise checkpoints.CheckpointError(
            f"expected the {len(base)} tensors of this line's encoder; received {len(lacking)} missing ({', '.join(lacking[:3])}) and "
            f"{len(extra)} extra ({', '.join(extra[:3])}); bring a checkpoint of the same encoder, or name them under "
            "`missing` and `ignored` (--missing, --ignored)"
        )
    for key, value in state.items():
        if value.shape != base[key].shape:
            reason = ""
            if (
                value.ndim == 2
                and value.shape[1:] == base[key].shape[1:]
                and ("embed" in key or key == "shared.weight")
            ):
                reason = ", an expert with added tokens"
            raise checkpoints.CheckpointError(
                f"expected {key} of shape {tuple(base[key].shape)}; received {tuple(value.shape)}{reason}; bring a checkpoint of the "
                "same encoder and vocabulary"
            )
        if value.is_floating_point() != base[key].is_floating_point():
            raise checkpoints.CheckpointError(
                f"expected {key} as {base[key].dtype}; received {value.dtype}; bring a checkpoint of the same encoder"
            )
