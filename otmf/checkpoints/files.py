"""Checkpoints: the only place where tensors are read from files and written to them. safetensors, checked by header."""

from __future__ import annotations

import functools
import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from otmf import task_vectors
from otmf.checkpoints import pickle_checks, writer
from otmf.checkpoints.deferred import Deferred
from otmf.runtime import foreign_parsers

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
READ = tuple(
    name for name in writer.DTYPES if name[:2] not in ("C6", "F8")
)  # eight bits mean nothing without their scales
_PLAIN = {writer.DTYPES[name] for name in READ}


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


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, sorted by key.

    Raises:
        CheckpointError: if the file is absent, truncated or not safetensors.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in sorted(file.keys())}


def load_deferred(path: Path) -> dict[str, Deferred]:
    """The tensors of a safetensors file, sorted by key, each read when its values are needed and forgotten after.

    Raises:
        CheckpointError: if the file is absent, truncated or not safetensors, or holds numbers that torch has not.
    """
    found = header(path)
    unknown = sorted({one.dtype for one in found.values()} - set(READ))
    if unknown:
        raise CheckpointError(
            f"expected tensors of {', '.join(READ)} in {path.name}; received {unknown[0]}; convert the checkpoint"
        )

    def read(key: str) -> Tensor:
        with _opened(path) as file:
            return file.get_tensor(key)

    try:
        metas = {
            key: torch.empty(one.shape, dtype=writer.DTYPES[one.dtype], device="meta") for key, one in found.items()
        }
    except (TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"expected tensors of shapes that torch has in {path.name}; received one beyond them; save the checkpoint anew"
        ) from error
    return {key: Deferred(meta, functools.partial(read, key)) for key, meta in sorted(metas.items())}


def metadata(path: Path) -> dict[str, str]:
    """The text fields stored in a safetensors file."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def save(tensors: Mapping[str, Tensor | Deferred], path: Path, **fields: str) -> None:
    """Writes tensors one after the other so that the file appears whole or not at all; the same tensors give the same bytes.

    Args:
        tensors: name -> tensor; deferred ones are made as they are written.
        path: the file to write; its folder is made.
        fields: texts kept in the file's header, by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # another process may be writing the same
    try:
        with part.open("wb") as file:
            writer.write(tensors, file, fields=fields)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
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
    with (
        foreign_parsers.reading(
            lambda _: CheckpointError(
                f"expected a pickle of tensors alone in {path.name}; received one that holds code or is damaged; "
                "nothing of it was run; save the state dict with safetensors"
            )
        ),
        warnings.catch_warnings(action="ignore"),
    ):
        pickle_checks.check(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(
            f"expected a state dict of tensors in {path.name}; received something else; save the "
            "encoder's state_dict() with safetensors"
        )
    for key, value in content.items():
        if value.layout != torch.strided or value.is_meta or value.dtype not in _PLAIN:
            kind = "without content" if value.is_meta else f"of {value.dtype}, {value.layout}"
            raise CheckpointError(
                f"expected plain tensors in {path.name}; received {ascii(key)[1:81]} {kind}; convert the checkpoint"
            )
    return {key: content[key] for key in sorted(content)}


def inside(path: Path, folder: Path) -> Path:
    """A file of a folder that somebody brought, as it is.

    Raises:
        CheckpointError: if it is a link that leads out of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"expected files of {folder.name} that lie in it; received {path.name}, a link that leads elsewhere; copy the file itself"
        )
    return path


def check_finetuned(state: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], *, name: str) -> None:
    """Refuses a fine-tuned state that holds NaN or infinity, or that equals the base.

    Raises:
        CheckpointError: naming the first three tensors at fault.
    """
    check_finite(state, name=name)
    if task_vectors.norm(task_vectors.subtract(state, pretrained)) == 0:
        raise identical(name)


def identical(name: str) -> CheckpointError:
    """The refusal of an expert that equals the base."""
    return CheckpointError(
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


def _opened(path: Path):
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights; received {path}, which does not exist; check the path")
    with foreign_parsers.reading(
        lambda reason: CheckpointError(
            f"expected a whole safetensors file; received {path.name} ({reason}); copy it again or save it anew"
        )
    ):
        return safe_open(path, framework="pt", device="cpu")
