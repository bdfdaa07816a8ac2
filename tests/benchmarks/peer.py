"""Merge methods as FusionBench has them, on the state dicts that ours are given."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from otmf import methods, task_vectors
from otmf.merging import linear_maps
from otmf.settings import merge_methods

Vectors = Sequence[Mapping[str, Tensor]]
PRETRAINED = "_pretrained_"


@dataclass(frozen=True)
class Pair:
    """One method in both implementations.

    Attributes:
        options: our settings.
        joint: whether ours is the form that takes all task vectors at once, else the chain of steps.
        theirs: makes their algorithm; given the names of the tensors that their method is to leave out.
    """

    options: merge_methods.Merge
    joint: bool
    theirs: Callable[[list[str]], Any]


def pairs() -> dict[str, Pair]:
    """The methods that both have, with the same settings."""
    from fusion_bench.method.isotropic_merging import ISO_C_Merge
    from fusion_bench.method.magmax.magmax import MagMaxAlgorithm
    from fusion_bench.method.task_arithmetic.task_arithmetic import TaskArithmeticAlgorithm
    from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
    from fusion_bench.method.ties_merging.ties_merging import TiesMergingAlgorithm
    from fusion_bench.method.wudi.wudi import WUDIMerging

    opcm, ties, sums, largest = (
        merge_methods.Opcm(),
        merge_methods.Ties(),
        merge_methods.TaskArithmetic(),
        merge_methods.MagMax(),
    )
    iso, tsv = merge_methods.IsoC(), merge_methods.TsvM()
    return {
        "task_arithmetic": Pair(sums, False, lambda other: TaskArithmeticAlgorithm(scaling_factor=sums.coefficient)),
        "ties": Pair(ties, True, lambda other: TiesMergingAlgorithm(
            scaling_factor=ties.coefficient, threshold=100 * ties.density, remove_keys=[], merge_func="sum")),
        "magmax": Pair(largest, False, lambda other: MagMaxAlgorithm(scaling_factor=largest.coefficient)),
        "opcm": Pair(opcm, False, lambda other: _opcm(opcm.threshold)),
        "iso_c": Pair(iso, False, lambda other: ISO_C_Merge(scaling_factor=iso.coefficient)),
        "tsv_m": Pair(tsv, True, lambda other: TaskSingularVectorMerging(alpha=tsv.coefficient)),
        "wudi": Pair(merge_methods.Wudi(), True, lambda other: WUDIMerging(iter_num=300, exclude_keys=other)),
    }  # fmt: skip


def ours(pair: Pair, pretrained: Mapping[str, Tensor], vectors: Vectors) -> task_vectors.Vector:
    """The merged vector of our implementation."""
    method = methods.METHODS[pair.options.method]
    if pair.joint:
        return method.joint(vectors, pair.options)
    merged, state = None, {}
    for count, tau in enumerate(vectors, start=1):
        outcome = methods.merge(methods.Arrival(pretrained, merged, tau, count, state, pair.options))
        merged, state = outcome.vector, outcome.state
    return merged


def theirs(pair: Pair, models: dict[str, nn.Module], names: Sequence[str]) -> nn.Module:
    """The merged model of their implementation, without what it prints."""
    other = [
        f"{name}.weight" for name, child in models[PRETRAINED].named_children() if not isinstance(child, nn.Linear)
    ]
    algorithm = pair.theirs(other)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return algorithm.run(_pool(models, names))


class Model(nn.Module):
    """A state dict as a module, for methods that look for linear maps: each tensor is the `weight` of a child, named by its place."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for place, (key, tensor) in enumerate(state.items()):
            own = nn.Parameter(linear_maps.oriented(key, tensor).clone(), requires_grad=False)
            if linear_maps.is_linear(key, tensor):
                child = nn.Linear(*reversed(own.shape), bias=False, device="meta")
                child.weight = own
            else:
                child = nn.Module()
                child.register_parameter("weight", own)
            self.add_module(str(place), child)

    def state(self, like: Mapping[str, Tensor]) -> task_vectors.State:
        """Its tensors under the names of the state dict it was made from."""
        found = self.state_dict()
        return {key: linear_maps.oriented(key, found[f"{place}.weight"]) for place, key in enumerate(like)}


def _pool(models: dict[str, nn.Module], names: Sequence[str]) -> Any:
    from fusion_bench import BaseModelPool

    return BaseModelPool({name: models[name] for name in (PRETRAINED, *names)})


def _opcm(threshold: float) -> Any:
    """Their OPCM, which also brings its evaluation along: that does not load beside every release of transformers, and is not used."""
    try:
        from fusion_bench.method.opcm.opcm import OPCMForCLIP
    except ImportError:
        stand_in = types.ModuleType("fusion_bench.taskpool")
        stand_in.CLIPVisionModelTaskPool = object
        sys.modules["fusion_bench.taskpool"] = stand_in
        from fusion_bench.method.opcm.opcm import OPCMForCLIP
    found = OPCMForCLIP(alpha=threshold, shuffle_order=False, save_on_every_step=False)
    found._program = types.SimpleNamespace(taskpool=types.SimpleNamespace(_test_datasets={}))
    return found
