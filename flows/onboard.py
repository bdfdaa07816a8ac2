"""Onboarding: a task card in, one more merged model out, or everything as before.

1. `admit`     the card and its data, checked; the data copied into a clone of the line and versioned
2. `run_stage` pretrained, finetune, extract, merge-step, head-tune, evaluate, each as a DVC process
3. `judge`     the gate's rules on the merged model
4. `accept`    one commit, and the line moved to it; or `refuse`: the attempt kept as a branch, the line as before
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import admission, process, registry, repro, tracking, versions, workspace
from otmf import cards, errors, gate, layout, lineage, settings


@dataclass
class Onboarded:
    """What an onboarding came to.

    Attributes:
        task, step: names.
        version: of the line's model from here on.
        accuracy: of the new task after its merge.
        acc, bwt: over all tasks; bwt None at the first.
        outcomes: stage -> ran, restored or unchanged.
    """

    task: str
    step: str
    version: int
    accuracy: float
    acc: float
    bwt: float | None
    outcomes: dict[str, str] = field(default_factory=dict)


class Refused(workspace.WorkspaceError):
    """A merged model that the gate does not let serve. The message names rules, figures and what to do."""


@flow(name="onboard", validate_parameters=False)
def onboard(
    root: str,
    card_path: str,
    environment: dict[str, str] | None = None,
    patience: float = 0,
    override: str | None = None,
) -> Onboarded:
    """Onboards the task of a card onto the line in a folder.

    Order: admit, then the six stages, then the gate, then accept. A failure anywhere leaves the line as it was; the
    attempt stays in the line's private folder until the next one for the same task, a refused one as a branch.

    Args:
        root: the line's folder.
        card_path: the card.
        environment: further environment of the stages.
        patience: seconds to wait for a line that is in use.
        override: a person's reason to accept the model whatever the gate says; kept in the line's history.

    Raises:
        Refused: if the gate does not accept the model, and nobody overrides it.
    """
    line, card = admission.open_all(Path(root), Path(card_path))
    with workspace.locked(line, patience=patience):
        admission.require_ready(line, card)
        params = workspace.params(line)
        step = admission.new_step(params, card)
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
            found = _attempt(line, card, Path(card_path), step, store, parent, environment or {}, override)
        except BaseException as error:
            with contextlib.suppress(workspace.WorkspaceError):  # the first failure is what counts
                tracking.finish(store, parent, metrics={}, tags={"error": errors.sentence(error)[:500]}, failed=True)
            raise
    return found


def _attempt(
    line: layout.Layout,
    card: cards.Card,
    card_path: Path,
    step: str,
    store: tracking.Store,
    parent: str,
    environment: dict[str, str],
    override: str | None,
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
            tracking.link(store, parent, stage, tag, lineage.digest(output))
    result = json.loads(attempt.evaluation(step).read_text(encoding="utf-8"))
    accuracy = next(row["accuracy"] for row in result["rows"] if row["step"] == step and row["task"] == card.name)
    verdict = judge(attempt, step, result)
    if not verdict.accepted and override is None:
        refuse(line, attempt, card, step, verdict)
    final, version = accept(line, attempt, card, step, accuracy, verdict, override)
    metrics = {"accuracy": accuracy, "acc": result["acc"]} | ({} if result["bwt"] is None else {"bwt": result["bwt"]})
    try:
        tracking.finish(store, parent, metrics=metrics, tags={"git.accepted": final, "version": f"v{version}"})
        registry.follow(store, line, workspace.params(line).line)
    except workspace.WorkspaceError as error:
        get_run_logger().warning(f"accepted, but not yet in the tracking store: {error}")
    return Onboarded(card.name, step, version, accuracy, result["acc"], result["bwt"], outcomes)


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
    attempt, parts = admission.prepare(line, card, card_path, step)
    get_run_logger().info(
        f"admit {card.name}: " + ", ".join(f"{count} {part}" for part, count in parts.items() if count)
    )
    return attempt


@task(name="stage", cache_policy=NO_CACHE)
def run_stage(line: layout.Layout, stage: str, extra: dict[str, str]) -> str:
    """One DVC stage as a process, its output in this run's log. Returns ran, restored or unchanged."""
    log = get_run_logger()
    show: Callable[[str], None] = lambda text: log.info(text) if text.strip() else None  # noqa: E731
    outcome = repro.stage(line.root, stage, log=show, extra=extra)
    log.info(f"{stage}: {outcome}")
    return outcome


@task(name="judge", cache_policy=NO_CACHE)
def judge(attempt: layout.Layout, step: str, result: dict) -> gate.Verdict:
    """The gate's verdict on the attempt's last step, kept beside its results."""
    params = workspace.params(attempt)
    verdict = gate.judge(params.gate, result, previous=params.steps[step].previous)
    path = attempt.gate(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(finding) for finding in verdict.findings], indent=1) + "\n", encoding="utf-8")
    for finding in verdict.broken:
        get_run_logger().warning(f"gate: {finding.sentence()}")
    return verdict


@task(name="refuse", cache_policy=NO_CACHE)
def refuse(line: layout.Layout, attempt: layout.Layout, card: cards.Card, step: str, verdict: gate.Verdict) -> None:
    """Keeps the attempt as a branch of the line, and says why. Always raises Refused."""
    reasons = "; ".join(finding.sentence() for finding in verdict.broken)
    branch = f"rejected/{card.name}"
    workspace.commit(attempt.root, f"Refuse {card.name} as {step}\n\n{reasons}")
    workspace.keep(line, attempt, branch)
    raise Refused(
        f"{reasons}; the line is as it was and the attempt is kept as branch {branch}; change the card or the gate, or take it "
        f"all the same with `otmf promote {card.name} --reason ...`"
    )


@task(name="accept", cache_policy=NO_CACHE)
def accept(
    line: layout.Layout,
    attempt: layout.Layout,
    card: cards.Card,
    step: str,
    accuracy: float,
    verdict: gate.Verdict,
    override: str | None,
) -> tuple[str, int]:
    """Commits the attempt as a new version and moves the line to it. Returns the commit and the version."""
    stale = [name for name in repro.stale(attempt.root) if name.partition("@")[2] in (card.name, step)]
    if stale:
        raise workspace.WorkspaceError(
            f"expected every stage of {card.name} to be up to date; received stale {', '.join(stale[:3])}; "
            "run the onboarding again"
        )
    decided = {"action": "accepted", "by": "gate", "reason": f"{len(verdict.findings)} rules hold"}
    if not verdict.accepted:
        decided = {"action": "overridden", "by": versions.actor(), "reason": override}
    entry = versions.accept(attempt, step=step, task=card.name, **decided)
    final = workspace.commit(attempt.root, f"Onboard {card.name} as {step}\n\nAccuracy on {card.name}: {accuracy:.4f}")
    trouble = workspace.land(line, attempt, tag=versions.tag(entry.version))
    if trouble:
        get_run_logger().warning(trouble)
    get_run_logger().info(f"accept {card.name}: line {line.root.name} is at {final[:12]}, {versions.describe(entry)}")
    return final, entry.version


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
