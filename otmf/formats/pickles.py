"""Tensors out of pickles of whole objects, such as the `ImageEncoder` of task arithmetic, without running anything of them.

torch.load with weights_only refuses objects of classes it does not know. Here every class and function that a pickle names is
replaced by one that does nothing and keeps what it is given; only what rebuilds a tensor is known, and that is ours.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmf.checkpoints import pickle_checks
from otmf.runtime import foreign_parsers

DEEPEST, MOST = 60, 100_000
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """Stands for an object of any class: it keeps its state and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Takes whatever it is given."""

    def __call__(self, *args: object, **kwargs: object) -> Inert:
        return Inert()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def __setitem__(self, key: object, value: object) -> None:
        """A dictionary of a class of its own: what it holds is not ours to read."""

    def append(self, value: object) -> None:
        """A list of a class of its own, likewise."""

    def extend(self, values: object) -> None:
        """Likewise."""

    def add(self, value: object) -> None:
        """A set, likewise."""


class _Storage:
    """The bytes of a storage, as one flat tensor."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


class _Reader(pickle.Unpickler):
    """Reads a pickle whose classes all are inert, but those that rebuild tensors."""

    def __init__(self, content: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(content))
        self.archive, self.root = archive, root
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return set
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            raise pickle.UnpicklingError("an unknown kind of storage")
        _, dtype, key, _, _ = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            whole = len(content) - len(content) % dtype.itemsize
            flat = torch.frombuffer(content[:whole], dtype=dtype) if whole else torch.empty(0, dtype=dtype)
            self.storages[key] = _Storage(flat)
        return self.storages[key]


def read(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, of every parameter and buffer of the modules in a pickled object; nothing of it is run.

    Raises:
        ValueError: if the file is no archive of torch.save, is damaged, or holds no module.
    """
    with (
        foreign_parsers.reading(
            lambda reason: ValueError(
                f"expected a model saved by torch.save in {path.name}; received one that cannot be read without running it ({reason}); "
                "nothing of it was run; save its state_dict() with safetensors"
            )
        ),
        zipfile.ZipFile(path) as archive,
    ):
        names = [name for name in archive.namelist() if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(names) != 1:
            raise ValueError("not one data.pkl")
        pickle_checks.check_archive(archive)
        content = archive.read(names[0])
        found = _Reader(content, archive, names[0].removesuffix("data.pkl")).load()
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(found, "", 0, iter(range(MOST))):
        tensors[name] = tensor
    if not tensors:
        raise ValueError(
            f"expected a model with parameters in {path.name}; received an object without; save its state_dict() with safetensors"
        )
    return dict(sorted(tensors.items()))


def _tensors(found: object, place: str, depth: int, left: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names that a state dict would give them; `left` runs out after as many modules as there may be."""
    if depth > DEEPEST or next(left, None) is None:
        raise ValueError("expected modules in modules; received them nested without end; save the state_dict()")
    if isinstance(found, Mapping):
        for key, value in found.items():
            if isinstance(value, Tensor):
                yield f"{place}{key}", value
        return
    content = getattr(found, "__dict__", {}) if isinstance(found, Inert) else {}
    for part in ("_parameters", "_buffers"):
        for key, value in _named(content.get(part)):
            if isinstance(value, Tensor) and key not in _names(content.get("_non_persistent_buffers_set")):
                yield f"{place}{key}", value
    for key, value in _named(content.get("_modules")):
        if isinstance(value, Inert):
            yield from _tensors(value, f"{place}{key}.", depth + 1, left)


def _named(found: object) -> list[tuple[str, object]]:
    return [(str(key), value) for key, value in found.items()] if isinstance(found, Mapping) else []


def _names(found: object) -> set[str]:
    return {str(one) for one in found} if isinstance(found, set | frozenset | list) else set()


def _tensor(
    storage: object,
    offset: int,
    size: tuple,
    stride: tuple,
    _needs: object = None,
    _hooks: object = None,
    marks: object = None,
) -> Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    if marks:  # such as that its numbers are to be negated
        raise pickle.UnpicklingError("a tensor that is not what its storage says")
    count = storage.flat.numel()
    last = offset + sum((one - 1) * step for one, step in zip(size, stride, strict=True)) if all(size) else offset
    if (
        offset < 0
        or any(one < 0 for one in (*size, *stride))
        or last >= max(count, 1)
        or math.prod(size) > max(count, 1)
    ):
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    return storage.flat.as_strided(tuple(size), tuple(stride), offset)  # no copy: many names may share one storage


def _parameter(data: object, *_: object) -> object:
    return data
