"""A safetensors file written tensor by tensor, with the bytes that safetensors itself would write from all of them at once.

Source: the format's description in the README of safetensors 0.8 and its serializer, which sorts by dtype and then by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from otmf.checkpoints.deferred import Deferred, made

DTYPES = {
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64, "F32": torch.float32, "U32": torch.uint32,
    "I32": torch.int32, "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16, "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(DTYPES.values())}


def write(tensors: Mapping[str, Tensor | Deferred], file: BinaryIO, *, fields: Mapping[str, str]) -> None:
    """Writes tensors; of deferred ones, one at a time is in memory.

    Raises:
        ValueError: if a deferred tensor is made with another shape or dtype than it said.
    """
    order = sorted(tensors, key=lambda key: (_ORDER[tensors[key].dtype], key))
    header: dict[str, object] = {"__metadata__": dict(sorted(fields.items()))} if fields else {}
    end = 0
    for key in order:
        begin, end = end, end + tensors[key].numel() * tensors[key].element_size()
        header[key] = {
            "dtype": _NAMES[tensors[key].dtype], "shape": list(tensors[key].shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for key in order:
        value = made(tensors[key]).detach().cpu().contiguous()
        if (value.shape, value.dtype) != (tensors[key].shape, tensors[key].dtype):
            raise ValueError(
                f"expected {key} of {tuple(tensors[key].shape)}; received {tuple(value.shape)}; report this"
            )
        file.write(value.flatten().view(torch.uint8).numpy())
