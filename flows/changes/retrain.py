"""Retraining and retiring: what is stale, or asked for, made again from the earliest changed step on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger

from flows.changes import attempt, plan
from flows.line import chain, clones, encoders, landing, workspace
from otmf import settings
from otmf.runtime import layout
from otmf.settings import merge_sequence


@dataclass
class Retrained:
    """What a retraining came to: version, ACC and BWT, and stage -> ran, restored or unchanged."""

    version: int
    acc: float
    bwt: float | None
    outcomes: dict[str, str]


def wanted(line: layout.Layout, tasks: Collection[str], *, everything: bool) -> dict[str, str]:
    """Stage -> why: what a retraining of some tasks, of all, or of what changed (no task named) would run.

    Raises:
        WorkspaceError: if a task is not in the line.
        SettingsError: if a step's merge cannot follow the one before.
    """
    params = workspace.params(line)
    encoders.require_known(line.root, params.backbone.model)
    for task in tasks:
        _require(params, task)
    merge_sequence.require({step: params.steps[step].merge for step in settings.chain(params.steps)})
    if everything:
        first = {name: "asked for" for name, _ in chain.stages(line, params)}
    elif tasks:
        first = plan.forced(tasks)
    else:
        first = plan.changed(line)
    return chain.closure(params, first)


@flow(name="retrain", validate_parameters=False)
def retrain(
    root: str,
    tasks: list[str] | None = None,
    everything: bool = False,
    patience: float = 0,
    override: str | None = None,
) -> Retrained | None:
    """Makes stale stages again, or those of named tasks or of all, and every stage that follows; None if there are none.

    Arguments and errors as in `onboard`.
    """
    line = workspace.open_line(Path(root))
    with workspace.locked(line, patience=patience, name=workspace.WORK):
        return attempt.until_landed(lambda: _retrain(line, tasks or [], everything, override))


def _retrain(line: layout.Layout, chosen: list[str], everything: bool, override: str | None) -> Retrained | None:
    with landing.turn(line, patience=landing.PATIENCE, say=get_run_logger().warning):
        asked = wanted(line, chosen, everything=everything)
        if not asked:
            return None
        clone = clones.begin(line, "retrain")
    params = workspace.params(clone)
    names = chosen or (list(params.tasks) if everything else _trained(asked))
    said = "all" if everything else ", ".join(names) or "what changed"
    with attempt.tracked(line, "retrain", said, {}) as (store, parent):
        if names and (chosen or everything):
            _renew(clone, names, everything=everything)
        stages = [found for found in chain.stages(clone, params) if found[0] in asked]
        forced = [stage for stage, why in asked.items() if why == "asked for"]
        change = attempt.Change("retrain", f"Retrain {said}", stages, fresh=names, forced=forced, override=override)
        done = attempt.carry_out(line, clone, change, store, parent)
    return Retrained(done.version, done.result["acc"], done.result["bwt"], done.outcomes)


@flow(name="retire", validate_parameters=False)
def retire(root: str, task: str, reason: str, patience: float = 0) -> Retrained:
    """Takes a task out of the line: its card, data and step go, and every later step is merged anew without it.

    The history of git keeps all of it.

    Raises:
        WorkspaceError: if the task is not in the line, or is its only one.
    """
    line = workspace.open_line(Path(root))
    with workspace.locked(line, patience=patience, name=workspace.WORK):
        return attempt.until_landed(lambda: _retire(line, task, reason))


def _retire(line: layout.Layout, task: str, reason: str) -> Retrained:
    with landing.turn(line, patience=landing.PATIENCE, say=get_run_logger().warning):
        require_retirable(line, task)
        clone = clones.begin(line, f"retire-{task}")
    with attempt.tracked(line, "retire", task, {"reason": reason[:500]}) as (store, parent):
        first = clones.without(clone, task)
        left = workspace.params(clone)
        stages = chain.stages(clone, left)
        later = {f"merge-step@{step}": "follows" for step in settings.chain(left.steps)[first - 1 :]}
        asked = chain.closure(left, later)
        subject = f"Retire {task}\n\n{reason}"
        again = [one for one in stages if one[0] in asked]
        change = attempt.Change(f"retire-{task}", subject, again, fresh=(), retired=reason)
        done = attempt.carry_out(line, clone, change, store, parent)
    return Retrained(done.version, done.result["acc"], done.result["bwt"], done.outcomes)


def require_retirable(line: layout.Layout, task: str) -> None:
    """Raises WorkspaceError if a task is not in the line, or is its only one."""
    params = workspace.params(line)
    _require(params, task)
    if len(params.steps) < 2:
        raise workspace.WorkspaceError(
            f"expected a line with another task than {task}; received one without; make a new line with otmf init"
        )


def _require(params: settings.Params, task: str) -> None:
    if task not in params.tasks:
        raise workspace.WorkspaceError(
            f"expected a task of this line ({', '.join(params.tasks) or 'none yet'}); received {task!r}; choose one of them"
        )


def _trained(asked: Collection[str]) -> list[str]:
    return [stage.partition("@")[2] for stage in asked if stage.startswith("finetune@")]


def _renew(clone: layout.Layout, names: Collection[str], *, everything: bool) -> None:
    """Sets the code versions of what will be made again to those of this release."""
    document = workspace.read_params(clone)
    for name in names:
        for section, model in (("finetune", settings.Finetune), ("extract", settings.Extract)):
            document["tasks"][name].setdefault(section, {})["code_version"] = model().code_version
    if everything:
        document.setdefault("pretrained", {})["code_version"] = settings.Pretrained().code_version
        read = workspace.params(clone).steps
        for name, step in document["steps"].items():
            method = type(read[name].merge)
            known = method.model_fields  # a section written by an earlier release may have keys of other methods
            step["merge"] = {key: value for key, value in step.get("merge", {}).items() if key in known}
            for section, model in (
                ("merge", method),
                ("head_tune", settings.HeadTune),
                ("evaluate", settings.Evaluate),
            ):
                step.setdefault(section, {})["code_version"] = model().code_version
    workspace.write_params(clone, document)
