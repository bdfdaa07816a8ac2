"""Onboarding: a task card in, one more merged model out, or everything as before.

1. `admit`     the card and its data, checked; the data copied into a clone of the line and versioned
2. `run_stage` pretrained, finetune, extract, merge-step, head-tune, evaluate, each as a DVC process
3. `accept`    one commit, and the line moved to it
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import process, repro, tracking, workspace
from otmf import cards, errors, images, layout, lineage, settings


@dataclass
class Onboarded:
    """What an onboarding came to.

    Attributes:
        task, step: names.
        accuracy: of the new task after its merge.
        acc, bwt: over all tasks; bwt None at the first.
        outcomes: stage -> ran, restored or unchanged.
    """

    task: str
    step: str
    accuracy: float
    acc: float
    bwt: float | None
    outcomes: dict[str, str] = field(default_factory=dict)


@flow(name="onboard", validate_parameters=False)
def onboard(root: str, card_path: str, environment: dict[str, str] | None = None, patience: float = 0) -> Onboarded:
    """Onboards the task of a card onto the line in a folder.

    Order: admit, then the six stages, then accept. A failure anywhere leaves the line as it was; the attempt stays in
    the line's private folder until the next one for the same task.
    """
    line = workspace.open_line(Path(root))
    card = cards.read(Path(card_path))
    with workspace.locked(line, patience=patience):
        workspace.require_clean(line)
        params = workspace.params(line)
        step = new_step(params, card)
        store = tracking.prepare(line, params.line)
        parent = tracking.begin(
            store,
            card.name,
            {
                "step": step,
                "card": Path(card_path).name,
                "git.commit": workspace.git(line.root, "rev-parse", "HEAD").strip(),
            },
        )
        try:
            found = _attempt(line, card, Path(card_path), step, store, parent, environment or {})
        except BaseException as error:
            tracking.finish(store, parent, metrics={}, tags={"error": errors.sentence(error)[:500]}, failed=True)
            raise
    return found


def _attempt(
    line: layout.Layout,
    card: cards.Card,
    card_path: Path,
    step: str,
    store: Any,
    parent: str,
    environment: dict[str, str],
) -> Onboarded:
    attempt = admit(line, card, card_path, step)
    commit = workspace.git(attempt.root, "rev-parse", "HEAD").strip()
    extra = {**environment, "OTMF_PARENT_RUN": parent, "OTMF_COMMIT": commit, "MLFLOW_TRACKING_URI": tracking.uri(line)}
    outcomes: dict[str, str] = {}
    for stage, output in stages_of(attempt, card.name, step):
        name = stage.replace("@", " ")
        outcomes[stage] = run_stage.with_options(name=name, task_run_name=name)(attempt, stage, extra)
        if outcomes[stage] != "ran":
            tag = f"output.{output.relative_to(attempt.root).as_posix().replace('/', '.')}"
            tracking.link(store, parent, stage, (tag, lineage.digest(output)))
    result = json.loads(attempt.evaluation(step).read_text(encoding="utf-8"))
    accuracy = next(row["accuracy"] for row in result["rows"] if row["step"] == step and row["task"] == card.name)
    final = accept(line, attempt, card, step, accuracy)
    metrics = {"accuracy": accuracy, "acc": result["acc"]} | ({} if result["bwt"] is None else {"bwt": result["bwt"]})
    tracking.finish(store, parent, metrics=metrics, tags={"git.accepted": final})
    return Onboarded(card.name, step, accuracy, result["acc"], result["bwt"], outcomes)


def new_step(params: settings.Params, card: cards.Card) -> str:
    """The name of the step a card will become. Raises WorkspaceError if its task is there already."""
    if card.name in params.tasks:
        step = next((name for name, found in params.steps.items() if found.task == card.name), None)
        raise workspace.WorkspaceError(
            f"expected a new task; received {card.name!r}, which is onboarded already"
            f"{f' as {step}' if step else ''}; give the card another name"
        )
    return f"s{len(params.steps) + 1:02d}"


def stages_of(line: layout.Layout, name: str, step: str) -> list[tuple[str, Path]]:
    """The stages of one task in order, each with the output it is known by."""
    return [
        ("pretrained", line.pretrained),
        (f"finetune@{name}", line.finetuned(name)),
        (f"extract@{name}", line.task_vector(name)),
        (f"merge-step@{step}", line.merged(step)),
        (f"head-tune@{step}", line.heads(step)),
        (f"evaluate@{step}", line.evaluation(step)),
    ]


@task(name="admit", cache_policy=NO_CACHE)
def admit(line: layout.Layout, card: cards.Card, card_path: Path, step: str) -> layout.Layout:
    """A clone of the line with the card, its data and its parameters in it; every image decoded once."""
    log = get_run_logger().info
    attempt = workspace.begin(line, card.name)
    images.gather(card, card_path.resolve().parent, attempt.raw(card.name))
    loaded = images.load(attempt.raw(card.name))
    images.check(loaded, needs_training_labels=card.checkpoint is None)
    document = workspace.read_params(attempt)
    entry, merged = entries(settings.check(workspace._plain(document)).defaults, card)
    split = images.split(
        loaded, unlabelled=entry.split.unlabelled, held_back=entry.split.held_back, seed=entry.split.seed
    )
    _append(document, "tasks", card.name, entry.model_dump(mode="json"))
    previous = f"s{int(step[1:]) - 1:02d}"
    _append(document, "steps", step, {"task": card.name, "previous": previous, **merged})
    workspace.write_params(attempt, document)
    attempt.card(card.name).parent.mkdir(parents=True, exist_ok=True)
    attempt.card(card.name).write_text(cards.dump(card), encoding="utf-8")
    repro.track(attempt.root, attempt.raw(card.name))
    log(
        f"admit {card.name}: {len(loaded.classes)} classes; "
        + ", ".join(f"{part} {found['images']}" for part, found in split.manifest["parts"].items() if found["images"])
    )
    return attempt


def entries(defaults: settings.Defaults, card: cards.Card) -> tuple[settings.Task, dict[str, Any]]:
    """The settings a card's task and step get: the line's defaults, with the card's own values over them.

    Raises:
        SettingsError: if a value of the card does not hold up.
    """
    try:
        chosen = settings.Task(
            split=defaults.split,
            head=settings.section(settings.Head, {**defaults.head.model_dump(), **card.head}),
            finetune=settings.section(settings.Finetune, {**defaults.finetune.model_dump(), **card.finetune}),
        )
        merge = settings.merge(defaults.preset, {**defaults.merge, **card.merge})
    except settings.SettingsError as error:
        raise settings.SettingsError(f"card {card.name}: {error}") from error
    return chosen, {
        "merge": merge.model_dump(mode="json"),
        "head_tune": defaults.head_tune.model_dump(mode="json"),
        "evaluate": settings.Evaluate().model_dump(mode="json"),
    }


@task(name="stage", cache_policy=NO_CACHE)
def run_stage(line: layout.Layout, stage: str, extra: dict[str, str]) -> str:
    """One DVC stage as a process, its output in this run's log. Returns ran, restored or unchanged."""
    log = get_run_logger()
    show: Callable[[str], None] = lambda text: log.info(text) if text.strip() else None  # noqa: E731
    outcome = repro.stage(line.root, stage, log=show, extra=extra)
    log.info(f"{stage}: {outcome}")
    return outcome


@task(name="accept", cache_policy=NO_CACHE)
def accept(line: layout.Layout, attempt: layout.Layout, card: cards.Card, step: str, accuracy: float) -> str:
    """Commits the attempt and moves the line to it. Returns the commit."""
    stale = [name for name in repro.stale(attempt.root) if name.partition("@")[2] in (card.name, step)]
    if stale:
        raise workspace.WorkspaceError(
            f"expected every stage of {card.name} to be up to date; received stale {', '.join(stale[:3])}; "
            "run the onboarding again"
        )
    final = workspace.commit(attempt.root, f"Onboard {card.name} as {step}\n\nAccuracy on {card.name}: {accuracy:.4f}")
    workspace.land(line, attempt)
    get_run_logger().info(f"accept {card.name}: line {line.root.name} is at {final[:12]}")
    return final


EXPECTED = (
    cards.CardError,
    settings.SettingsError,
    workspace.WorkspaceError,
    process.ProcessError,
    ValueError,
    OSError,
)


class _WithoutTraceback(logging.Filter):
    """Leaves out the traceback of errors whose message says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], EXPECTED):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())


def _append(document: Any, section: str, key: str, value: dict[str, Any]) -> None:
    if not document.get(section):
        document[section] = {}
    document[section].fa.set_block_style() if hasattr(document[section], "fa") else None
    document[section][key] = value
