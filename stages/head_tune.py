"""Stage `head-tune`: the heads that serve after a step: frozen, aligned without labels, or tuned on frozen merged features with a few."""

from __future__ import annotations

from pathlib import Path

import torch

from otmf import backbones, checkpoints, heads, settings, task_vectors
from otmf.continual import alignment, memory
from stages.context import current_line, encoder, shared_files
from stages.context.run import Facts, say


def main(line: current_line.Line, name: str) -> Facts:
    step = line.step(name)
    options = step.head_tune
    tasks = line.tasks_until(name)
    chosen = {"frozen": [], "aligned": [], "previous": tasks[-2:-1], "all": tasks}[options.heads]
    where, backbone = encoder.device(line), encoder.open_backbone(line)
    merged = checkpoints.load(line.merged(name) / "model.safetensors")
    record = {"step": name, "tasks": tasks, "tuned": chosen, "heads": options.heads, "labelled_images": {}}
    before = {task: shared_files.load_head(_path(line, step, task)) for task in tasks}
    aligned: dict[str, heads.Head] = {}
    if options.heads == "aligned":
        aligned, record["unlabelled_images"] = _aligned(line, name, before, backbone, merged, options, where)
        record["tuned"] = list(record["unlabelled_images"])
        say(f"head-tune {name}: heads aligned on {_listed(record['unlabelled_images'])} unlabelled {backbone.reads}")
    for task, (served, frozen, classes) in before.items():
        served = aligned.get(task, served)
        if task in chosen:
            served, used = _tuned(line, task, served, backbone, merged, options, where)
            record["labelled_images"][task] = used
            say(f"head-tune {name}: head of {task} tuned on {used} labelled {backbone.reads}")
        shared_files.save_head(line.heads(name) / f"{task}.safetensors", served, frozen, classes=classes)
    shared_files.write_json(line.heads(name) / "heads.json", record)
    say(f"head-tune {name}: {options.heads}, {len(record['tuned'])} of {len(tasks)} heads changed")
    return Facts(
        inputs=[line.merged(name), line.heads(step.previous), line.finetuned(step.task)],
        outputs=[line.heads(name)],
        parameters=options.model_dump(),
        document={"heads": record},
    )


def _path(line: current_line.Line, step: settings.Step, task: str) -> Path:
    """Of the head that served before the step; the frozen one of the task that it brings."""
    return (
        line.finetuned(task) / "head.safetensors"
        if task == step.task
        else line.heads(step.previous) / f"{task}.safetensors"
    )


def _aligned(
    line: current_line.Line, name: str, before: dict[str, tuple[heads.Head, heads.Head, tuple[str, ...]]], backbone: backbones.Backbone,
    merged: task_vectors.State, options: settings.HeadTune, where: torch.device,
) -> tuple[dict[str, heads.Head], dict[str, int]]:  # fmt: skip
    task = line.step(name).task
    inputs = encoder.for_heads(line, task, options)
    expert = checkpoints.load(line.finetuned(task) / "model.safetensors")
    return alignment.after_step(
        {task: served for task, (served, _, _) in before.items()},
        {task: frozen for task, (_, frozen, _) in before.items()},
        list(before),
        teach=lambda found: encoder.teach(backbone, merged, found, where=where),
        inputs=inputs,
        targets=encoder.teach(backbone, expert, inputs, where=where) if len(inputs) else torch.empty(0),
        kept=memory.from_tensors(checkpoints.load(line.merged(name) / "state.safetensors")),
        ridge=options.ridge,
        ridge_of_old=options.ridge_of_old,
    )


def _listed(used: dict[str, int]) -> str:
    return ", ".join(f"{task} {count}" for task, count in used.items())


def _tuned(
    line: current_line.Line, task: str, head: heads.Head, backbone: backbones.Backbone, merged: task_vectors.State,
    options: settings.HeadTune, where: torch.device,
) -> tuple[heads.Head, int]:  # fmt: skip
    given = encoder.labelled(line, task, options)
    if given is None:
        return head, 0
    inputs, labels = given
    found = encoder.teach(backbone, merged, inputs, where=where)
    return heads.tune(head, found, labels, options=options), len(labels)
