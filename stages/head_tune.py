"""Stage `head-tune`: the heads that serve after a step: frozen, or tuned on frozen merged features with a few labels."""

from __future__ import annotations

import torch

from otmf import backbones, checkpoints, heads, settings, task_vectors
from stages import _encoder, _files, _params
from stages._run import Facts, say


def main(line: _params.Line, name: str) -> Facts:
    step = line.step(name)
    options = step.head_tune
    tasks = line.tasks_until(name)
    chosen = {"frozen": [], "previous": tasks[-2:-1], "all": tasks}[options.heads]
    where, backbone = _encoder.device(line), _encoder.open_backbone(line)
    merged = checkpoints.load(line.merged(name) / "model.safetensors")
    record = {"step": name, "tasks": tasks, "tuned": chosen, "heads": options.heads, "labelled_images": {}}
    for task in tasks:
        source = line.finetuned(task) if task == step.task else line.heads(step.previous)
        served, frozen, classes = _files.load_head(
            source / ("head.safetensors" if task == step.task else f"{task}.safetensors")
        )
        if task in chosen:
            served, used = _tuned(line, task, served, backbone, merged, options, where)
            record["labelled_images"][task] = used
            say(f"head-tune {name}: head of {task} tuned on {used} labelled {backbone.reads}")
        _files.save_head(line.heads(name) / f"{task}.safetensors", served, frozen, classes=classes)
    _files.write_json(line.heads(name) / "heads.json", record)
    say(f"head-tune {name}: {options.heads}, {len(chosen)} of {len(tasks)} heads tuned")
    return Facts(
        inputs=[line.merged(name), line.heads(step.previous), line.finetuned(step.task)],
        outputs=[line.heads(name)],
        parameters=options.model_dump(),
        document={"heads": record},
    )


def _tuned(
    line: _params.Line, task: str, head: heads.Head, backbone: backbones.Backbone, merged: task_vectors.State,
    options: settings.HeadTune, where: torch.device,
) -> tuple[heads.Head, int]:  # fmt: skip
    given = _encoder.labelled(line, task, options)
    if given is None:
        return head, 0
    inputs, labels = given
    found = _encoder.teach(backbone, merged, inputs, where=where)
    return heads.tune(head, found, labels, options=options), len(labels)
