"""The stages of a line in order: which follow which, and what a change of some of them leads to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from otmf import settings
from otmf.runtime import layout


def stages(line: layout.Layout, params: settings.Params) -> list[tuple[str, Path]]:
    """All stages of a line in an order in which they can run, each with the output it is known by."""
    found = [("pretrained", line.pretrained)]
    for step in settings.chain(params.steps):
        found += of_task(line, params.steps[step].task, step)[1:]
    return found


def of_task(line: layout.Layout, task: str, step: str) -> list[tuple[str, Path]]:
    """The stages of one task in order, the base's among them, each with the output it is known by."""
    return [
        ("pretrained", line.pretrained),
        (f"finetune@{task}", line.finetuned(task)),
        (f"extract@{task}", line.task_vector(task)),
        (f"merge-step@{step}", line.merged(step)),
        (f"head-tune@{step}", line.heads(step)),
        (f"evaluate@{step}", line.evaluation(step)),
    ]


def followers(params: settings.Params) -> dict[str, list[str]]:
    """Stage -> stages that read what it writes."""
    order = settings.chain(params.steps)
    after: dict[str, list[str]] = {"pretrained": []}
    for place, step in enumerate(order):
        task = params.steps[step].task
        names = [f"finetune@{task}", f"extract@{task}", f"merge-step@{step}", f"head-tune@{step}", f"evaluate@{step}"]
        finetune, extract, merge, tune, evaluate = names
        after["pretrained"] += names
        after |= {
            finetune: [extract, tune, evaluate],
            extract: [merge],
            merge: [tune, evaluate],
            tune: [evaluate],
            evaluate: [],
        }
        if place:
            before = order[place - 1]
            after[f"merge-step@{before}"].append(merge)
            after[f"head-tune@{before}"].append(tune)
            after[f"evaluate@{before}"].append(evaluate)
    return after


def closure(params: settings.Params, first: Mapping[str, str]) -> dict[str, str]:
    """Stage -> why, for some stages and all that follow them, in running order."""
    after, found = followers(params), dict(first)
    waiting = list(first)
    while waiting:
        stage = waiting.pop(0)
        for follower in after.get(stage, []):
            if follower not in found:
                found[follower] = f"follows {stage}"
                waiting.append(follower)
    names = [name for name, _ in stages(layout.Layout(Path()), params)]
    return {name: found[name] for name in names if name in found}
