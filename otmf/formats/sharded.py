"""Checkpoints in several safetensors files with an index that says which tensor is where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from otmf import checkpoints
from otmf.checkpoints.deferred import Deferred
from otmf.runtime import foreign_parsers, strict_json

WHOLE = "model.safetensors"
SUFFIX = ".safetensors.index.json"
INDEX = f"model{SUFFIX}"
LARGEST_INDEX = 64 << 20
LONGEST_NAME = 255


def shards(index: Path) -> dict[str, Path]:
    """Tensor -> the file that holds it, as an index says; every file lies beside the index.

    Raises:
        CheckpointError: if the index is not one, names a tensor twice, or a file that is not there or lies elsewhere.
    """
    if index.stat().st_size > LARGEST_INDEX:
        raise checkpoints.CheckpointError(
            f"expected an index of at most {LARGEST_INDEX} bytes; received {index.name} with {index.stat().st_size}; save it anew"
        )
    with foreign_parsers.reading(
        lambda reason: checkpoints.CheckpointError(
            f"expected an index of shards with `weight_map` in {index.name}; received another document ({reason}); save it anew"
        )
    ):
        found = strict_json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        named = {str(key): str(name) for key, name in found.items()}
    paths = {name: index.parent / name for name in set(named.values())}
    for name, path in sorted(paths.items()):
        if Path(name).name != name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            raise checkpoints.CheckpointError(
                f"expected shards beside {index.name}; received {ascii(name)[:80]}, which leads elsewhere; put them together"
            )
        if not checkpoints.inside(path, index.parent).is_file():
            raise checkpoints.CheckpointError(
                f"expected the shard {name} beside {index.name}; received none; copy the checkpoint again"
            )
    held = {name: set(checkpoints.header(path)) for name, path in paths.items()}
    for key, name in named.items():
        if key not in held[name]:
            raise checkpoints.CheckpointError(
                f"expected {key} in {name}, as {index.name} says; received a shard without it; copy the checkpoint again"
            )
    seen: set[str] = set()
    for name, keys in sorted(held.items()):
        doubled = sorted(keys & seen)
        if doubled:
            raise checkpoints.CheckpointError(
                f"expected each tensor in one shard; received {doubled[0]} in {name} and in another; save the checkpoint anew"
            )
        unnamed = sorted(keys - set(named))
        if unnamed:
            raise checkpoints.CheckpointError(
                f"expected {index.name} to name every tensor; received {name} with {unnamed[0]}, which it does not; save the checkpoint anew"
            )
        seen |= keys
    return {key: paths[name] for key, name in sorted(named.items())}


def load_deferred(index: Path) -> dict[str, Deferred]:
    """All tensors of a sharded checkpoint, sorted by key, each read from its file when its values are needed. Raises as `shards`."""
    named = shards(index)
    held = {path: checkpoints.load_deferred(path) for path in sorted(set(named.values()))}
    return {key: held[path][key] for key, path in named.items()}


def write(state: Mapping[str, Tensor], folder: Path, *, most: int) -> list[str]:
    """Writes a model as Hugging Face does: `model.safetensors`, or several files of at most `most` bytes each and an index.

    A tensor that is larger than that has a file of its own. Returns the names of the files.
    """
    parts = split_torch_state_dict_into_shards(dict(sorted(state.items())), max_shard_size=most)
    for name, keys in parts.filename_to_tensors.items():
        checkpoints.save({key: state[key] for key in keys}, folder / name, format="pt")
    if parts.is_sharded:
        index = {"metadata": parts.metadata, "weight_map": dict(sorted(parts.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return sorted([*parts.filename_to_tensors, *([INDEX] if parts.is_sharded else [])])
