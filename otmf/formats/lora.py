"""Adapters of low rank as PEFT saves them, expanded to what they add to the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from otmf import checkpoints
from otmf.checkpoints import low_rank
from otmf.checkpoints.deferred import whole
from otmf.runtime import foreign_parsers, strict_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"[\w.]+")
# Where an adapter may have begun that leaves the base as it was; the others (pissa, olora, loftq, ...) take from the base what they put into the factors.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one weight: scale * up @ down.

    Attributes:
        down: shape (rank, inputs).
        up: shape (outputs, rank).
        scale: alpha / rank, or alpha / sqrt(rank) where the adapter says so.
        transposed: whether the weight is stored as (inputs, outputs).
    """

    down: Tensor
    up: Tensor
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the whole difference; of a convolution, with its inputs and places in one."""
        inputs, outputs = self.down.shape[1], self.up.shape[0]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def product(self) -> low_rank.Product:
        """The difference as factors of the weight as it is stored, the scale in one of them."""
        if self.transposed:
            return low_rank.Product(self.scale * self.down.T, self.up.T)
        return low_rank.Product(self.scale * self.up, self.down)

    def expand(self) -> Tensor:
        """The whole difference, of the weight's shape."""
        whole = self.scale * (self.up.double() @ self.down.double())
        return (whole.T if self.transposed else whole).float()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def read(folder: Path, *, ignored: Sequence[str] = ()) -> tuple[dict[str, Factors], tuple[str, ...]]:
    """Weight -> its factors; and the names of what was left out.

    Args:
        folder: as PEFT saves an adapter.
        ignored: patterns of names, with or without PEFT's prefix, of what is left out: a classifier saved beside the factors, say.

    Raises:
        CheckpointError: if the adapter is of another kind than LoRA, has factors without their other half, changes what
            factors do not hold, or has files elsewhere.
    """
    config = _config(checkpoints.inside(folder / CONFIG, folder))
    weights = _weights(folder)
    left_out = tuple(key for key in weights if _any(key, ignored))
    beside = [key for key in weights if key not in left_out and _KEY.fullmatch(key) is None]
    if beside or (config.get("modules_to_save") and not left_out):
        raise checkpoints.CheckpointError(
            f"expected factors of low rank alone in {WEIGHTS}; received {(beside or config['modules_to_save'])[0]} beside them; name it under "
            "`ignored` (--ignored) if the encoder is meant without, or save the merged model (merge_and_unload) instead"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    for key, tensor in weights.items():
        if key in left_out:
            continue
        name, embedding, half = _KEY.fullmatch(key).groups()
        if tensor.ndim < 2:
            raise checkpoints.CheckpointError(
                f"expected factors of two dimensions or more in {WEIGHTS}; received {key} of shape {tuple(tensor.shape)}; copy the adapter again"
            )
        if (
            embedding
        ):  # its A is (rank, tokens), its B (width, rank), and the weight (tokens, width): the other way round
            embeddings.add(name)
            half, tensor = "BA"["AB".index(half)], tensor.T
        if half in parts.setdefault(name, {}):
            raise checkpoints.CheckpointError(
                f"expected each factor of {name} once in {WEIGHTS}; received one twice; save the adapter anew"
            )
        parts[name][half] = tensor
    found = {}
    for name, halves in sorted(parts.items()):
        if set(halves) != {"A", "B"}:
            raise checkpoints.CheckpointError(
                f"expected both factors of {name}; received {', '.join(sorted(halves))} alone; copy the adapter again"
            )
        found[f"{name}.weight"] = _factors(
            name, halves, config, transposed=bool(config.get("fan_in_fan_out")) and name not in embeddings
        )
    if not found:
        raise checkpoints.CheckpointError(f"expected factors in {WEIGHTS}; received none; train the adapter first")
    return found, left_out


def _any(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (key, key.removeprefix(PREFIX)) for pattern in patterns)


def _weights(folder: Path) -> dict[str, Tensor]:
    found = whole(checkpoints.load_deferred(checkpoints.inside(folder / WEIGHTS, folder)))
    for key, value in found.items():
        if not value.is_floating_point():
            raise checkpoints.CheckpointError(
                f"expected factors of floating-point numbers in {WEIGHTS}; received {key} of {value.dtype}; save the adapter unquantised"
            )
    return found


def apply(factors: Mapping[str, Factors], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base with what an adapter adds.

    Raises:
        CheckpointError: if a weight is not in the base or has another shape.
    """
    state = dict(base)
    for key, found in factors.items():
        if key not in base:
            raise checkpoints.CheckpointError(
                f"expected an adapter of this line's encoder; received factors of {key}, which it has not; bring one of the same encoder"
            )
        wanted = base[key].shape if base[key].ndim < 2 else base[key].flatten(1).shape
        if found.shape != tuple(wanted):  # before the product, which can be far larger than the file
            raise checkpoints.CheckpointError(
                f"expected factors for {key} of shape {tuple(wanted)}; received {found.shape}; bring an adapter of the same encoder"
            )
        state[key] = (base[key].float() + found.expand().view(base[key].shape)).to(base[key].dtype)
    return state


def _factors(name: str, halves: Mapping[str, Tensor], config: Mapping[str, Any], *, transposed: bool) -> Factors:
    down, up = (halves[half].float().flatten(1) for half in "AB")
    if down.shape[0] != up.shape[1]:
        raise checkpoints.CheckpointError(
            f"expected factors of one rank for {name}; received {tuple(down.shape)} and {tuple(up.shape)}; copy the adapter again"
        )
    rank = down.shape[0]
    try:
        alpha = _of(config.get("alpha_pattern"), name, config.get("lora_alpha", 8))
    except checkpoints.CheckpointError:
        raise
    except (ValueError, TypeError) as error:
        raise checkpoints.CheckpointError(
            f"expected alpha of {name} as a number in {CONFIG}; received {error}; save the adapter anew"
        ) from error
    if rank == 0:
        raise checkpoints.CheckpointError(
            f"expected factors of rank 1 or more for {name}; received rank 0; save the adapter anew"
        )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Factors(down, up, float(scale), transposed)


def _of(patterns: object, name: str, otherwise: float) -> float:
    """The value that an adapter has for one layer: of the first of its names that the layer's ends with.

    PEFT takes these names as regular expressions. One that is more than a name is refused: an expression of somebody else's is
    not run here.
    """
    for pattern, value in (patterns or {}).items() if isinstance(patterns, dict | None) else ():
        plain = pattern.replace("\\.", ".")
        if not _NAME.fullmatch(plain):
            raise checkpoints.CheckpointError(
                f"expected names of layers under alpha_pattern in {CONFIG}; received the expression {pattern[:60]!r}; save the merged "
                "model (merge_and_unload) instead"
            )
        if name == plain or name.endswith(f".{plain}"):
            return float(value)
    return float(otherwise)


def _config(path: Path) -> dict[str, Any]:
    with foreign_parsers.reading(
        lambda reason: checkpoints.CheckpointError(
            f"expected PEFT's configuration in {path.name}; received another document ({reason}); save the adapter anew"
        )
    ):
        config = strict_json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"]
        other = [key for key in ("use_dora", "trainable_token_indices", "alora_invocation_tokens") if config.get(key)]
        plain = config.get("bias", "none") == "none"
        beginning = config.get("init_lora_weights", True)
    if kind == "LORA" and beginning not in _BEGINNINGS:
        raise checkpoints.CheckpointError(
            f"expected an adapter to this line's base as it is; received one whose beginning ({str(beginning)[:40]}) changed the base; save the "
            "merged model (merge_and_unload) instead"
        )
    if kind != "LORA" or other or not plain:
        said = kind if kind != "LORA" else ", ".join(other) or f"bias: {config['bias']}"
        raise checkpoints.CheckpointError(
            f"expected an adapter of factors alone (LoRA); received one with {said}; save the merged model (merge_and_unload) instead"
        )
    return config
