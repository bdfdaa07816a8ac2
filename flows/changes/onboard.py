"""Onboarding: a task card in, one more merged model out, or everything as before.

1. `admit`  the card and its data, checked; the data copied into a clone of the line and versioned
2. stages   pretrained, finetune, extract, merge-step, head-tune, evaluate, each as a DVC process; for a card that changes
            a task of the line, those of every later step as well
3. gate     the rules on the merged model; then one commit, and the line moved to it, or the attempt kept as a branch
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.changes import admission, attempt
from flows.line import chain, landing, workspace
from flows.services import tracking
from flows.versions import history
from otmf.data import cards
from otmf.runtime import layout


@dataclass
class Onboarded:
    """What an onboarding came to.

    Attributes:
        task, step: names.
        version: of the line's model from here on.
        accuracy, finetuned: of the new task after its merge, and of its fine-tuned model.
        acc, bwt: over all tasks; bwt None at the first.
        outcomes: stage -> ran, restored or unchanged; empty if the same card with the same data was there already.
    """

    task: str
    step: str
    version: int
    accuracy: float
    finetuned: float
    acc: float
    bwt: float | None
    outcomes: dict[str, str] = field(default_factory=dict)


@flow(name="onboard", validate_parameters=False)
def onboard(
    root: str,
    card_path: str,
    patience: float = 0,
    override: str | None = None,
    replace: bool = False,
    gathered: admission.Gathered | None = None,
) -> Onboarded:
    """Onboards the task of a card onto the line in a folder.

    A known task is refused unless `replace` is set: then the same card with the same data changes nothing, and a changed
    card or changed data trains it again and merges every step from its own on anew. A failure anywhere leaves the line as it was; the
    attempt stays in the line's private folder until the next one for the same task, a refused one as a branch.

    Args:
        root: the line's folder.
        card_path: the card.
        patience: seconds to wait for a line that is in use.
        override: a person's reason to accept the model whatever the gate says; kept in the line's history.
        replace: whether the card may take the place of a known task's.
        gathered: the card's data, where that has been gathered and checked already.

    Raises:
        Refused: if the gate does not accept the model, and nobody overrides it.
    """
    line, card = admission.open_all(Path(root), Path(card_path))
    with workspace.locked(line, patience=patience, name=workspace.WORK):
        return attempt.until_landed(lambda: _onboard(line, card, Path(card_path), override, replace, gathered))


def _onboard(
    line: layout.Layout,
    card: cards.Card,
    card_path: Path,
    override: str | None,
    replace: bool,
    gathered: admission.Gathered | None,
) -> Onboarded:
    with landing.turn(line, patience=landing.PATIENCE, say=get_run_logger().warning):
        admission.require_ready(line, card, replace=replace)
        step, known = admission.place(workspace.params(line), card)
    tags = {"step": step, "card": card_path.name}
    with attempt.tracked(line, "retrain" if known else "onboard", card.name, tags) as (store, parent):
        clone = admit(line, card, card_path, gathered)
        if clone is None:
            return _there_already(line, card.name, step, store, parent)
        params = workspace.params(clone)
        stages = chain.of_task(clone, card.name, step)
        if known:
            wanted = chain.closure(params, {f"finetune@{card.name}": "changed"})
            stages = [found for found in chain.stages(clone, params) if found[0] in wanted]
        subject = f"{'Retrain' if known else 'Onboard'} {card.name} as {step}"
        change = attempt.Change(card.name, subject, stages, fresh=(card.name,), override=override)
        done = attempt.carry_out(line, clone, change, store, parent)
    return _onboarded(card.name, step, done.version, done.result, done.outcomes)


def ahead(line: layout.Layout, card_path: Path, name: str) -> None:
    """Fine-tunes a task in a clone of its own while the line is in use: its onboarding then finds the outputs in DVC's cache.

    Nothing is done for a line without a base, which its first task makes, nor for what is onboarded already.

    Args:
        line, card_path: as in `onboard`.
        name: of the clone.
    """
    card = cards.read(card_path)
    if not line.pretrained.is_dir():
        return
    step, _ = admission.place(workspace.params(line), card)
    with attempt.tracked(line, "finetune", card.name, {}) as (store, parent):
        prepared = admission.prepare(line, card, card_path, name=name)
        if prepared is not None:
            clone, _ = prepared
            extra = attempt.environment(line, clone, parent)
            for stage, _ in chain.of_task(clone, card.name, step)[1:3]:
                attempt.run(clone, stage, extra)
            shutil.rmtree(clone.root)
        tracking.finish(store, parent, metrics={}, tags={})


@task(name="admit", cache_policy=NO_CACHE)
def admit(
    line: layout.Layout, card: cards.Card, card_path: Path, gathered: admission.Gathered | None
) -> layout.Layout | None:
    """A clone of the line with the card, its data and its parameters in it; every image decoded once. None if all of that
    is in the line already."""
    prepared = admission.prepare(line, card, card_path, found=gathered)
    if prepared is None:
        get_run_logger().info(f"admit {card.name}: the same card with the same data is onboarded already")
        return None
    clone, said = prepared
    for sentence in said:
        get_run_logger().info(f"admit {card.name}: {sentence}")
    return clone


def _there_already(line: layout.Layout, name: str, step: str, store: tracking.Store, parent: str) -> Onboarded:
    result = workspace.result(line)
    champion = history.champion(history.decisions(line.root))
    tracking.finish(store, parent, metrics={}, tags={"outcome": "there already"})
    return _onboarded(name, step, champion.version if champion else 0, result, {})


def _onboarded(name: str, step: str, version: int, result: dict[str, Any], outcomes: dict[str, str]) -> Onboarded:
    return Onboarded(
        task=name,
        step=step,
        version=version,
        accuracy=attempt.accuracies(result)[name],
        finetuned=result["references"][name]["finetuned"],
        acc=result["acc"],
        bwt=result["bwt"],
        outcomes=outcomes,
    )
