"""Task vectors: differences of state dicts, and the arithmetic on them. Only floating-point tensors take part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

State = dict[str, Tensor]
Vector = dict[str, Tensor]
WIDE = (torch.float32, torch.float64)
_PART = 1 << 20


def subtract(finetuned: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> Vector:
    """The task vector tau = finetuned - pretrained, in float32 or wider, of all floating-point tensors.

    Args:
        finetuned, pretrained: state dicts of one architecture.

    Raises:
        ValueError: if keys, shapes or dtypes differ; the first three are named.

    Source: Ilharco et al. (2023), arXiv:2212.04089.
    """
    check_alike(finetuned, pretrained)
    return {key: _wide(finetuned[key]) - base for key, base in floats(pretrained).items()}


def add(pretrained: Mapping[str, Tensor], vector: Mapping[str, Tensor]) -> State:
    """The state pretrained + vector, in the dtypes of `pretrained`; buffers of whole numbers are copied from it.

    Raises:
        ValueError: if the vector's keys are not exactly the floating-point keys of `pretrained`.
    """
    expected = {key for key, base in pretrained.items() if base.is_floating_point()}
    if expected != set(vector):
        raise ValueError(
            f"expected a vector over the {len(expected)} floating-point tensors of the model; received different keys "
            f"({', '.join(sorted(expected ^ set(vector))[:3])}); extract it against the same pretrained model"
        )
    return {
        key: (_wide(base) + vector[key]).to(base.dtype) if key in vector else base.clone()
        for key, base in pretrained.items()
    }


def combine(vectors: Iterable[tuple[float, Mapping[str, Tensor]]]) -> Vector:
    """The linear combination sum_i c_i v_i of vectors over the same keys."""
    total: Vector = {}
    for coefficient, vector in vectors:
        for key, value in vector.items():
            total[key] = total[key].add(value, alpha=coefficient) if key in total else value * coefficient
    return total


def zeros(pretrained: Mapping[str, Tensor]) -> Vector:
    """The zero vector over the floating-point tensors of a state dict."""
    return {key: torch.zeros_like(base) for key, base in floats(pretrained).items()}


def floats(state: Mapping[str, Tensor]) -> Vector:
    """The floating-point tensors of a state dict, in float32 or wider."""
    return {key: _wide(value) for key, value in state.items() if value.is_floating_point()}


def matching(patterns: Sequence[str], state: Mapping[str, Tensor], *, setting: str) -> list[str]:
    """The names of floating-point tensors that some of the patterns match, sorted.

    Args:
        patterns: as of file names: `*`, `?` and `[...]`.
        state: names -> tensors.
        setting: what errors call the patterns.

    Raises:
        ValueError: if a pattern matches no name, or together they match every one.
    """
    names = [key for key, value in state.items() if value.is_floating_point()]
    found: set[str] = set()
    for pattern in patterns:
        matched = [key for key in names if fnmatchcase(key, pattern)]
        if not matched:
            raise ValueError(
                f"expected {setting} to name tensors of the encoder; received {pattern!r}, which none matches; its names are such as {names[0]}"
            )
        found.update(matched)
    if len(found) == len(names):
        raise ValueError(
            f"expected {setting} to leave some tensors of the encoder; received patterns of everything; name fewer"
        )
    return sorted(found)


def dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The inner product of two vectors over the same keys, accumulated in float64, of large tensors part by part."""
    return sum(_dot(value.flatten(), other[key].flatten()) for key, value in one.items())


def _dot(one: Tensor, other: Tensor) -> float:
    parts = zip(one.split(_PART), other.split(_PART), strict=True)
    return sum(float(torch.dot(mine.double(), theirs.double())) for mine, theirs in parts)


def norm(vector: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of the whole flattened vector."""
    return dot(vector, vector) ** 0.5


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The cosine of the angle between two vectors; 0 where one of them is zero."""
    scale = norm(one) * norm(other)
    return dot(one, other) / scale if scale > 0 else 0.0


def check_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Refuses two state dicts whose keys, shapes or dtypes differ; never skips a tensor.

    Raises:
        ValueError: naming the first three tensors at fault.
    """
    missing, extra = sorted(set(other) - set(one)), sorted(set(one) - set(other))
    if missing or extra:
        raise ValueError(
            f"expected two state dicts with the same keys; received {len(missing)} missing ({', '.join(missing[:3])}) "
            f"and {len(extra)} extra ({', '.join(extra[:3])}); use models of one architecture"
        )
    differing = [
        f"{key}: {tuple(one[key].shape)} {one[key].dtype} against {tuple(other[key].shape)} {other[key].dtype}"
        for key in other
        if one[key].shape != other[key].shape or one[key].dtype != other[key].dtype
    ]
    if differing:
        raise ValueError(
            f"expected tensors of equal shape and dtype; received {len(differing)} that differ "
            f"({'; '.join(differing[:3])}); use models of one architecture and precision"
        )


def check(vector: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], *, what: str) -> None:
    """Refuses a vector that is none of this model's: other tensors or shapes, whole numbers or half precision, NaN or infinity.

    Args:
        vector, pretrained: name -> tensor.
        what: what errors call the vector.

    Raises:
        ValueError: naming the first three tensors at fault.
    """
    expected = {key for key, base in pretrained.items() if base.is_floating_point()}
    if other := sorted(expected ^ set(vector)):
        raise ValueError(
            f"expected {what} over the {len(expected)} floating-point tensors of the model; received one that differs in {len(other)} "
            f"({', '.join(other[:3])}); extract it against the same base"
        )
    wrong = [
        f"{key}: {tuple(value.shape)} {value.dtype}"
        for key, value in vector.items()
        if value.shape != pretrained[key].shape or value.dtype not in WIDE
    ]
    if wrong:
        raise ValueError(
            f"expected {what} in the shapes of the model, float32 or float64; received {len(wrong)} others ({'; '.join(wrong[:3])}); extract it "
            "against the same base"
        )
    broken = [key for key, value in vector.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"expected {what} of finite numbers; received NaN or infinity in {len(broken)} tensors ({', '.join(broken[:3])}); fine-tune at a lower "
            "rate, or check the checkpoint"
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in WIDE else tensor.float()
