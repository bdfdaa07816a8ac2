"""Stage `finetune`: a task's head, frozen first, and its expert: trained here, or a checkpoint brought by the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from otmf import backbones, checkpoints, finetuning, formats, heads, settings, task_vectors
from otmf.backbones import task_inputs
from otmf.checkpoints import low_rank
from otmf.data import datasets, splits
from stages.context import current_line, encoder, shared_files
from stages.context.run import Facts, say


def main(line: current_line.Line, name: str) -> Facts:
    options, where = line.task(name), encoder.device(line)
    backbone, pretrained = encoder.open_backbone(line), shared_files.load_pretrained(line)
    task, split = line.load(name)
    folder = line.finetuned(name)
    facts = Facts(
        inputs=[line.raw(name), line.pretrained],
        outputs=[folder],
        parameters={"head": options.head.model_dump(), "finetune": options.finetune.model_dump()},
    )
    head = _frozen_head(line, name, backbone, pretrained, task, split)
    brought = datasets.describe(line.raw(name))["checkpoint"]
    if brought:
        state = _adopt(line, backbone, name, brought, pretrained)  # and its factors, where it is an adapter
    else:
        state = _train(name, backbone, pretrained, head, task, split, options.finetune, where, facts)
    checkpoints.save(state, folder / "model.safetensors")
    shared_files.save_head(folder / "head.safetensors", head, head, classes=task.classes)
    return facts


def _frozen_head(
    line: current_line.Line,
    name: str,
    backbone: backbones.Backbone,
    pretrained: task_vectors.State,
    task: datasets.Task,
    split: splits.Split,
) -> heads.Head:
    options = line.task(name).head
    base = shared_files.read_json(line.pretrained / "base.json")
    brought = datasets.describe(line.raw(name))["head"]
    if brought:
        width = encoder.feature_size(backbone, pretrained)
        return _read_head(line.raw(name) / brought, (len(task.classes), width))
    kind = options.kind
    if kind == "auto":
        kind = "zero_shot" if backbone.zero_shot(base) else "prototype"
    if kind == "zero_shot":
        embeddings, scale = backbone.class_embeddings(base, pretrained, task.classes, task.prompts)
        return heads.zero_shot(embeddings, scale=scale or options.scale)
    if not len(split.labelled):
        raise ValueError(
            f"task {name}: expected labelled train inputs or a head for a checkpoint without a text tower; received "
            "neither; add `head` to the card's checkpoint, or labels"
        )
    chosen = split.labelled if kind == "probe" else few(split.labelled, task.train.labels, options.images_per_class)
    found = encoder.features(backbone, pretrained, task.train, chosen, where=encoder.device(line))
    labels = torch.from_numpy(task.train.labels[chosen])
    if kind == "probe":
        return heads.probe(found, labels, classes=len(task.classes), seed=options.seed)
    return heads.prototype(found, labels, classes=len(task.classes), scale=options.scale, centre=options.centre)


def few(positions: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` positions of each class."""
    return np.sort(
        np.concatenate([positions[labels[positions] == label][:per_class] for label in np.unique(labels[positions])])
    )


def _read_head(path: Path, shape: tuple[int, int]) -> heads.Head:
    tensors = {key: value.float() for key, value in checkpoints.load(path).items()}
    checkpoints.check_finite(tensors, name=path.name)
    bias = tensors.get("bias", torch.zeros(shape[0]))
    if "weight" not in tensors or tuple(tensors["weight"].shape) != shape or tuple(bias.shape) != shape[:1]:
        raise checkpoints.CheckpointError(
            f"expected a head with weight {shape} and bias {shape[:1]}, classes and features; received "
            f"{ ({key: tuple(value.shape) for key, value in tensors.items()}) }; save it so"
        )
    return heads.Head(tensors["weight"], bias)


def _adopt(
    line: current_line.Line, backbone: backbones.Backbone, name: str, brought: str, pretrained: task_vectors.State
) -> task_vectors.State:
    described = datasets.describe(line.raw(name))
    patterns = {part: described.get(part, ()) for part in ("missing", "ignored")}
    found = formats.read(line.raw(name) / brought, base=pretrained, canonical=backbone.canonical, **patterns)
    backbone.check_beside(line.raw(name) / brought)
    checkpoints.check_finetuned(found.state, pretrained, name=brought)
    beside = f", {len(found.left_out)} tensors beside it left out" if found.left_out else ""
    if found.kept:
        products = {key: factors.product() for key, factors in found.factors.items()}
        low_rank.save(products, line.finetuned(name) / "factors.safetensors")
    say(f"finetune {name}: checkpoint adopted ({found.form}{beside}), nothing trained")
    return found.state


def _train(
    name: str,
    backbone: backbones.Backbone,
    pretrained: task_vectors.State,
    head: heads.Head,
    task: datasets.Task,
    split: splits.Split,
    options: settings.Finetune,
    where: torch.device,
    facts: Facts,
) -> task_vectors.State:
    frozen = head.to(where)
    labelled = task_inputs.Rows(backbone, task.train, split.labelled)
    labels = torch.from_numpy(task.train.labels[split.labelled]).to(where)

    def report(epoch: int, loss: float) -> None:
        facts.curves.setdefault("loss", []).append((epoch, loss))
        say(
            f"finetune {name}: epoch {epoch}/{finetuning.epochs(options, len(labels))}, loss {loss:.4f}, {len(labels)} {backbone.reads}"
        )

    state = finetuning.train(
        encoder.to(pretrained, where),
        labels=labels,
        inputs=task_inputs.Prepared(labelled, lambda found: backbone.prepare(found, where)),
        options=options,
        report=report,
        vary=backbone.vary,
        mirror=torch.ones(len(labels), dtype=torch.bool) if options.mirror else None,
        left_out=task_vectors.matching(options.left_out, pretrained, setting="finetune.left_out"),
        logits=lambda current, batch: frozen.logits(backbone.features(current, batch)),
    )
    return encoder.to(state, torch.device("cpu"))
