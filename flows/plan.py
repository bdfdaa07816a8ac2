"""What a change of a line leads to: which stages follow which, and what a retraining would run, why and for how long.

DVC decides in the end; `dvc repro --dry` cannot be asked beforehand (it fails on a line that never ran).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows import staleness, tracking
from otmf import layout, settings

OVERHEAD = 2.0


@dataclass(frozen=True)
class Planned:
    """A stage that would run.

    Attributes:
        stage: name in dvc.yaml.
        why: what changed, or which stage it follows.
        seconds: its last run took, DVC's own part included; None if it never ran here.
    """

    stage: str
    why: str
    seconds: float | None


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


def forced(tasks: Iterable[str]) -> dict[str, str]:
    """The stages that training some tasks again begins with."""
    return {f"finetune@{task}": "asked for" for task in tasks}


def changed(line: layout.Layout) -> dict[str, str]:
    """The stages that are stale, with the reasons."""
    return {stage: why for stage, why in staleness.reasons(line).items() if not stage.endswith(".dvc")}


def timed(wanted: Mapping[str, str], store: tracking.Store) -> list[Planned]:
    """The plan, with the seconds of each stage's last run in the tracking store."""
    seconds = tracking.seconds(store, wanted)
    return [
        Planned(stage, why, seconds[stage] + OVERHEAD if stage in seconds else None) for stage, why in wanted.items()
    ]
