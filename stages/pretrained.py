"""Stage `pretrained`: the base of the line, theta0, and step s00, at which nothing is merged yet."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from torch.nn import functional

from otmf import backbones, checkpoints, finetuning, formats, heads, settings, task_vectors
from otmf.data import datasets
from otmf.provenance import digests
from stages.context import current_line, encoder, shared_files
from stages.context.run import Facts, say


def main(line: current_line.Line) -> Facts:
    options, where = line.params_checked.pretrained, encoder.device(line)
    source = shared_files.read_json(line.raw("pretrained") / "base.json")
    backbone = _backbone(line, source)
    config = backbone.config
    facts = Facts(inputs=[line.raw("pretrained")], outputs=[line.pretrained], parameters=options.model_dump() | config)
    if source["source"] == "tag":
        state = backbone.tagged_state(source["tag"])
    elif source["source"] == "checkpoint":
        state = _adopt(line, backbone, source["path"])
    else:
        state = _train(line, backbone, options, where, facts)
    checkpoints.save(state, line.pretrained / "model.safetensors")
    shared_files.write_json(line.pretrained / backbones.CONFIG, config)
    for name, path in backbone.files.items():
        shutil.copyfile(path, line.pretrained / name)
    shared_files.write_json(
        line.pretrained / "base.json", {**source, "sha256": digests.digest(line.pretrained / "model.safetensors")}
    )
    shared_files.write_json(line.merged(settings.FIRST) / "merged.json", {"step": settings.FIRST, "tasks": []})
    shared_files.write_json(line.heads(settings.FIRST) / "heads.json", {"step": settings.FIRST, "tasks": []})
    shared_files.write_json(line.evaluation(settings.FIRST), {"step": settings.FIRST, "tasks": [], "rows": []})
    return facts


def _backbone(line: current_line.Line, source: dict) -> backbones.Backbone:
    """That of the base's card, else that of params.yaml."""
    folder = line.raw("pretrained")
    if source.get("backbone"):
        return backbones.build(source["backbone"], folder)
    config, folder = backbones.read_config(line.params_checked.backbone.model, line.root)
    return backbones.build(backbones.tagged(config, source["tag"]) if source["source"] == "tag" else config, folder)


def _adopt(line: current_line.Line, backbone: backbones.Backbone, name: str) -> task_vectors.State:
    expected = backbone.canonical(backbone.skeleton.state_dict()) | backbone.optional
    path = line.raw("pretrained") / name
    found = formats.read(path, base=expected, missing=[*backbone.optional], canonical=backbone.canonical).state
    state = {key: value for key, value in found.items() if not value.is_meta}
    checkpoints.check_finite(state, name=name)
    return state


def _train(
    line: current_line.Line,
    backbone: backbones.Backbone,
    options: settings.Pretrained,
    where: torch.device,
    facts: Facts,
) -> task_vectors.State:
    """Cross-entropy over the classes of all parts, through cosine logits against learned class vectors."""
    torch.set_num_threads(options.threads or line.params_checked.threads)
    folder = line.raw("pretrained")
    source = shared_files.read_json(folder / "base.json")
    parts = [datasets.load(folder / name) for name in source["parts"]]
    mirrored = [part.name in source["mirrored"] for part in parts]
    read = np.concatenate([backbone.read(part.train, np.arange(len(part.train))) for part in parts])
    firsts = np.cumsum([0, *(len(part.classes) for part in parts)])
    labels = torch.from_numpy(
        np.concatenate([part.train.labels + first for part, first in zip(parts, firsts[:-1], strict=True)])
    )
    state = backbone.initial_state(seed=options.seed)
    width = int(backbone.features(state, backbone.prepare(read[:1])).shape[1])
    generator = torch.Generator().manual_seed(options.seed)
    state["classifier"] = torch.randn(int(firsts[-1]), width, generator=generator)

    def logits(current: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        found = backbone.features({key: value for key, value in current.items() if key != "classifier"}, inputs)
        return (
            options.scale * functional.normalize(found, dim=-1) @ functional.normalize(current["classifier"], dim=-1).T
        )

    def report(epoch: int, loss: float) -> None:
        facts.curves.setdefault("loss", []).append((epoch, loss))
        say(
            f"pretrained: epoch {epoch}/{finetuning.epochs(options, len(labels))}, loss {loss:.4f}, {len(labels)} {backbone.reads}, {int(firsts[-1])} classes"
        )

    trained = finetuning.train(
        encoder.to(state, where),
        logits=logits,
        inputs=backbone.prepare(read, where),
        labels=labels.to(where),
        options=options,
        label_smoothing=options.label_smoothing,
        vary=backbone.vary,
        mirror=torch.repeat_interleave(torch.tensor(mirrored), torch.tensor([len(part.train) for part in parts])),
        report=report,
    )
    classifier = trained.pop("classifier").cpu()
    trained = encoder.to(trained, torch.device("cpu"))
    _score(
        parts,
        firsts,
        backbone,
        trained,
        heads.Head(functional.normalize(classifier, dim=-1), torch.zeros(len(classifier))),
        where,
        facts,
    )
    return trained


def _score(
    parts: list[datasets.Task],
    firsts: np.ndarray,
    backbone: backbones.Backbone,
    state: task_vectors.State,
    head: heads.Head,
    where: torch.device,
    facts: Facts,
) -> None:
    for part, first in zip(parts, firsts[:-1], strict=True):
        if not len(part.test):
            continue
        found = encoder.features(backbone, state, part.test, np.arange(len(part.test)), where=where)
        labels = torch.from_numpy(part.test.labels + first)
        facts.metrics[f"accuracy/{part.name}"] = heads.accuracy(head, found, labels)
        say(f"pretrained: accuracy on {part.name} {facts.metrics[f'accuracy/{part.name}']:.3f}")
