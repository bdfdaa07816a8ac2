"""What the stages share about the encoder: the backbone of the line, its device, features of image sets, head files."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from otmf import backbones, images, settings
from stages import _params


def device(line: _params.Line) -> torch.device:
    """The device to compute on: as set, or CUDA where there is one."""
    wanted = line.params_checked.device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "expected a CUDA device, as params.yaml asks for; received none on this machine; set device: auto"
        )
    return torch.device(wanted)


def open_backbone(line: _params.Line) -> backbones.Backbone:
    """The backbone the pretrained stage recorded."""
    return backbones.build(json.loads((line.pretrained / "backbone.json").read_text(encoding="utf-8")))


def feature_size(backbone: backbones.Backbone, state: Mapping[str, Tensor]) -> int:
    """Number of features of the encoder."""
    blank = np.zeros((1, backbone.image_size, backbone.image_size, 3), np.uint8)
    return int(teach(backbone, state, blank, where=torch.device("cpu")).shape[1])


def to(state: Mapping[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    """The state on a device."""
    return {key: value.to(where) for key, value in state.items()}


def pixels(source: images.ImageSet, positions: np.ndarray, backbone: backbones.Backbone) -> np.ndarray:
    """Pixels (n, size, size, 3) at the backbone's size."""
    return source.read(positions, backbone.image_size)


def teach(
    backbone: backbones.Backbone, state: Mapping[str, Tensor], found: np.ndarray, *, where: torch.device
) -> Tensor:
    """Features (n, d) on the CPU of pixels (n, size, size, 3)."""
    moved = to(state, where)
    return backbones.extract(
        lambda inputs: backbone.features(moved, inputs).cpu(),
        lambda chosen: backbone.prepare(found[chosen]).to(where),
        len(found),
    )


def features(
    backbone: backbones.Backbone,
    state: Mapping[str, Tensor],
    source: images.ImageSet,
    positions: np.ndarray,
    *,
    where: torch.device,
) -> Tensor:
    """Features (n, d) on the CPU of the images at some positions, read and computed batch by batch."""
    moved = to(state, where)
    return backbones.extract(
        lambda inputs: backbone.features(moved, inputs).cpu(),
        lambda chosen: backbone.prepare(pixels(source, positions[chosen], backbone)).to(where),
        len(positions),
    )


def unlabelled(line: _params.Line, name: str, options: settings.Merge) -> np.ndarray:
    """Pixels of at most `unlabelled_images` images of a task's unlabelled part, drawn from the seed."""
    task, split = line.load(name)
    drawn = np.random.default_rng(options.seed).permutation(split.unlabelled)[: options.unlabelled_images]
    if len(drawn) < 2:
        raise ValueError(
            f"task {name}: expected at least 2 unlabelled images for the merge; received {len(drawn)}; raise "
            "split.unlabelled or bring more images"
        )
    return pixels(task.train, drawn, open_backbone(line))


def labelled(line: _params.Line, name: str, options: settings.HeadTune) -> tuple[np.ndarray, Tensor] | None:
    """Pixels and labels of the fraction of a task's labelled images that its head may be tuned on, drawn from the seed.

    None for a task that came as a checkpoint without labelled train images: its head stays as it is.
    """
    task, split = line.load(name)
    if not len(split.labelled):
        return None
    count = max(1, round(options.fraction * len(split.labelled)))
    drawn = np.random.default_rng(options.seed).permutation(split.labelled)[:count]
    return pixels(task.train, drawn, open_backbone(line)), torch.from_numpy(task.train.labels[drawn])
