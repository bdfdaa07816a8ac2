"""What the stages share about the encoder: the backbone of the line, its device, features of data sets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from otmf import backbones, settings
from otmf.backbones import task_inputs
from otmf.data import datasets, splits
from stages.context import current_line


def device(line: current_line.Line) -> torch.device:
    """The device to compute on: as set, or CUDA where there is one."""
    wanted = line.params_checked.device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "expected a CUDA device, as params.yaml asks for; received none on this machine; set device: auto"
        )
    return torch.device(wanted)


def open_backbone(line: current_line.Line) -> backbones.Backbone:
    """The backbone the pretrained stage recorded."""
    return backbones.opened(line.pretrained)


def feature_size(backbone: backbones.Backbone, state: Mapping[str, Tensor]) -> int:
    """Number of features of the encoder."""
    return int(teach(backbone, state, backbone.blank(), where=torch.device("cpu")).shape[1])


def to(state: Mapping[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    """The state on a device."""
    return {key: value.to(where) for key, value in state.items()}


def teach(
    backbone: backbones.Backbone,
    state: Mapping[str, Tensor],
    found: np.ndarray | task_inputs.Rows,
    *,
    where: torch.device,
) -> Tensor:
    """Features (n, d) on the CPU of inputs as the backbone reads them."""
    moved = to(state, where)
    return backbones.extract(
        lambda inputs: backbone.features(moved, inputs).cpu(),
        lambda chosen: backbone.prepare(found[chosen], where),
        len(found),
    )


def features(
    backbone: backbones.Backbone,
    state: Mapping[str, Tensor],
    source: datasets.DataSet,
    positions: np.ndarray,
    *,
    where: torch.device,
) -> Tensor:
    """Features (n, d) on the CPU of the inputs at some positions, read and computed batch by batch."""
    moved = to(state, where)
    return backbones.extract(
        lambda inputs: backbone.features(moved, inputs).cpu(),
        lambda chosen: backbone.prepare(backbone.read(source, positions[chosen]), where),
        len(positions),
    )


def unlabelled(line: current_line.Line, name: str, options: settings.Merge | settings.HeadTune) -> np.ndarray:
    """At most `unlabelled_images` inputs of a task's unlabelled part, drawn from the seed."""
    task, split = line.load(name)
    chosen = drawn(split, options.seed)[: options.unlabelled_images]
    if len(chosen) < 2:
        raise ValueError(
            f"task {name}: expected at least 2 unlabelled {task.train.noun} for the merge; received {len(chosen)}; raise "
            f"split.unlabelled or bring more {task.train.noun}"
        )
    return open_backbone(line).read(task.train, chosen)


def for_heads(line: current_line.Line, name: str, options: settings.HeadTune) -> np.ndarray:
    """As `unlabelled`; none for a task that came as a checkpoint without unlabelled inputs: its head stays as it is."""
    _, split = line.load(name)
    return unlabelled(line, name, options) if len(split.unlabelled) > 1 else np.empty(0)


def drawn(split: splits.Split, seed: int) -> np.ndarray:
    """The unlabelled positions of a task in the order in which merges of that seed draw them."""
    return np.random.default_rng(seed).permutation(split.unlabelled)


def labelled(line: current_line.Line, name: str, options: settings.HeadTune) -> tuple[task_inputs.Rows, Tensor] | None:
    """Inputs and labels of the fraction of a task's labelled ones that its head may be tuned on, drawn from the seed.

    None for a task that came as a checkpoint without labelled train inputs: its head stays as it is.
    """
    task, split = line.load(name)
    if not len(split.labelled):
        return None
    count = max(1, round(options.fraction * len(split.labelled)))
    chosen = np.random.default_rng(options.seed).permutation(split.labelled)[:count]
    return task_inputs.Rows(open_backbone(line), task.train, chosen), torch.from_numpy(task.train.labels[chosen])
