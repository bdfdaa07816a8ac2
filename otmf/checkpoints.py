"""Checkpoints: the only place where tensors are read from files and written to them. safetensors, checked by header."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from otmf import task_vectors

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


class CheckpointError(ValueError):
    """A file of weights that cannot be used. The message says what was expected, received and what to do."""


@dataclass(frozen=True)
class TensorHeader:
    """Shape and dtype (safetensors' name, `F32` say) of one tensor in a file."""

    shape: tuple[int, ...]
    dtype: str


def header(path: Path) -> dict[str, TensorHeader]:
    """Shape and dtype of every tensor in a safetensors file, read without loading a tensor.

    Raises:
        CheckpointError: if the file is absent, truncated or not safetensors.
    """
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no iteration over the file itself
        return {key: TensorHeader(tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}


def check_header(path: Path, reference: Path) -> None:
    """Refuses a file whose keys, shapes or dtypes are not those of a reference file; loads nothing.

    Raises:
        CheckpointError: naming the first three tensors at fault.
    """
    received, expected = header(path), header(reference)
    missing, extra = sorted(set(expected) - set(received)), sorted(set(received) - set(expected))
    if len(missing) == len(expected):
        raise CheckpointError(
            f"expected the {len(expected)} tensors of this line's backbone in {path.name}; received none of "
            f"them ({', '.join(extra[:3])} instead); bring a checkpoint of the same backbone"
        )
    if missing or extra:
        raise CheckpointError(
            f"expected the {len(expected)} tensors of this line's backbone in {path.name}; received "
            f"{len(missing)} missing ({', '.join(missing[:3])}) and {len(extra)} extra "
            f"({', '.join(extra[:3])}); bring a checkpoint of the same backbone"
        )
    reshaped = [
        f"{key} {received[key].shape} instead of {expected[key].shape}"
        for key in sorted(expected)
        if received[key].shape != expected[key].shape
    ]
    if reshaped:
        raise CheckpointError(
            f"expected the shapes of this line's backbone in {path.name}; received {len(reshaped)} others "
            f"({'; '.join(reshaped[:3])}); bring a checkpoint of the same backbone"
        )
    retyped = [
        f"{key} {received[key].dtype} instead of {expected[key].dtype}"
        for key in sorted(expected)
        if received[key].dtype != expected[key].dtype
    ]
    if retyped:
        raise CheckpointError(
            f"expected the dtypes of this line's backbone in {path.name}; received {len(retyped)} others "
            f"({'; '.join(retyped[:3])}); convert the checkpoint"
        )


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, sorted by key.

    Raises:
        CheckpointError: if the file is absent, truncated or not safetensors.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in sorted(file.keys())}


def metadata(path: Path) -> dict[str, str]:
    """The text fields stored in a safetensors file."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def save(tensors: Mapping[str, Tensor], path: Path, *, note: str = "") -> None:
    """Writes tensors so that the file appears whole or not at all; the same tensors give the same bytes.

    Args:
        tensors: name -> tensor.
        path: the file to write; its folder is made.
        note: text kept in the file's header under `note`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(
            _apart({key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}),
            part,
            metadata={"note": note} if note else None,
        )
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as error:
        raise OSError(
            f"expected to write {path}; received: {error}; free some disk space or check the folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint made elsewhere: safetensors, or a pickle that holds nothing but tensors.

    Raises:
        CheckpointError: if the file is neither, or its pickle holds code or anything but a flat dict of tensors.
    """
    if path.suffix.lower() not in PICKLES:
        return load(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"expected a pickle of tensors alone in {path.name}; received one that holds code or is damaged; "
            "nothing of it was run; save the state dict with safetensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"expected a state dict of tensors in {path.name}; received something else; save the "
            "encoder's state_dict() with safetensors"
        )
    return {str(key): content[key] for key in sorted(content, key=str)}


def check_finetuned(state: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], *, name: str) -> None:
    """Refuses a fine-tuned state that holds NaN or infinity, or that equals the base.

    Raises:
        CheckpointError: naming the first three tensors at fault.
    """
    check_finite(state, name=name)
    if task_vectors.norm(task_vectors.subtract(state, pretrained)) == 0:
        raise CheckpointError(
            f"expected {name} to differ from the pretrained model; received an identical one; fine-tune it first"
        )


def check_finite(state: Mapping[str, Tensor], *, name: str) -> None:
    """Refuses a state that holds NaN or infinity. Raises CheckpointError, naming the first three tensors at fault."""
    broken = [
        key for key, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise CheckpointError(
            f"expected finite values in {name}; received NaN or infinity in {len(broken)} tensors "
            f"({', '.join(broken[:3])}); train again with a lower rate or repair the file"
        )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing memory with another, as the format demands."""
    seen: set[int] = set()
    apart = {}
    for key, value in tensors.items():
        start = value.untyped_storage().data_ptr()
        apart[key] = value.clone() if start in seen else value
        seen.add(start)
    return apart


def _opened(path: Path):
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights; received {path}, which does not exist; check the path")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected a whole safetensors file; received {path.name} ({reason}); copy it again or save it anew"
        ) from error
