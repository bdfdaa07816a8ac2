"""An attempt on a clone of the line: its stages as DVC processes, the gate, and one commit or a branch that is kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.changes import past_accuracies
from flows.dvc import commands, staleness
from flows.line import clones, landing, progress, refused_attempts, remotes, workspace
from flows.programs import failures, git
from flows.services import agents, run_logs, tracking
from flows.versions import history, records, registry
from otmf import settings
from otmf.data import datasets
from otmf.evaluation import gate
from otmf.provenance import digests, statements
from otmf.runtime import errors, layout

AGAIN = 4  # times that an attempt is made again because others have changed the line meanwhile
T = TypeVar("T")
_OTHER_HEAD = (
    "its features do not fit the head that this line made for it (docs/cards.md says from what); bring its own as checkpoint.head, or look at the "
    "classes' names and the data"
)


class Refused(workspace.WorkspaceError):
    """A merged model that the gate does not let serve. The message names rules, figures and what to do."""


@dataclass(frozen=True)
class Change:
    """What an attempt is about.

    Attributes:
        name: of the attempt and, if it is refused, of its branch.
        subject: first line of its commit.
        stages: to bring up to date, in order, each with the output it is known by.
        fresh: tasks that are new or trained again: the gate compares them with their fine-tuned models.
        forced: stages to run whatever DVC knows of them.
        override: a person's reason to accept the model whatever the gate says.
        retired: a person's reason to take a task out, where that is what it is about.
    """

    name: str
    subject: str
    stages: Sequence[tuple[str, Path]]
    fresh: Collection[str]
    forced: Collection[str] = ()
    override: str | None = None
    retired: str | None = None


@dataclass(frozen=True)
class Concluded:
    """An accepted attempt: its commit, version, evaluation, and stage -> ran, restored or unchanged."""

    commit: str
    version: int
    result: dict
    outcomes: dict[str, str]


@dataclass(frozen=True)
class _Landed:
    """An attempt that has landed: its commit and version, what its parent run is still to be told, and the note of that."""

    commit: str
    version: int
    metrics: dict[str, float]
    tags: dict[str, str]
    note: Path


@contextlib.contextmanager
def tracked(line: layout.Layout, kind: str, name: str, tags: dict[str, str]) -> Iterator[tuple[tracking.Store, str]]:
    """The tracking store and a parent run in it, which ends as failed if the body does."""
    store = tracking.prepare(line, workspace.params(line).line)
    head = git.run(line.root, "rev-parse", "HEAD").strip()
    parent = tracking.begin(store, kind, name, {**tags, "git.commit": head})
    try:
        yield store, parent
    except BaseException as error:
        with contextlib.suppress(workspace.WorkspaceError):  # the first failure is what counts
            tracking.finish(store, parent, metrics={}, tags={"error": errors.sentence(error)[:500]}, failed=True)
        raise


def carry_out(
    line: layout.Layout,
    clone: layout.Layout,
    change: Change,
    store: tracking.Store,
    parent: str,
) -> Concluded:
    """Runs the stages of a change in a clone, asks the gate, and moves the line to the clone's commit.

    Raises:
        Refused: if the gate does not accept the model and nobody overrides it; the line is as before.
    """
    extra = environment(line, clone, parent)
    outcomes: dict[str, str] = {}
    begun = datetime.now(UTC)
    for stage, output in change.stages:
        outcomes[stage] = run(clone, stage, extra, stage in change.forced)
        if outcomes[stage] != "ran":
            tag = f"output.{output.relative_to(clone.root).as_posix().replace('/', '.')}"
            tracking.link(store, parent, stage, tag, digests.digest(output))
    step = settings.chain(workspace.params(clone).steps)[-1]
    result, verdict = _judged(line, clone, step, change)
    if verdict.only_dissimilar and _by_transport(workspace.params(clone), step):
        outcomes |= _merge_unbalanced(clone, step, change, extra)
        result, verdict = _judged(line, clone, step, change)
    known = {stage: output.relative_to(clone.root).as_posix() for stage, output in change.stages}
    made = records.Made(outcomes, known, change.fresh, begun, str(flow_run.id or ""), store, parent)
    if not verdict.accepted and change.override is None:
        refuse(line, clone, change, step, verdict, made)
    landed = accept(line, clone, change, step, verdict, made, _metrics(result, change, verdict))
    try:
        tracking.finish(store, parent, metrics=landed.metrics, tags=landed.tags)
        landed.note.unlink(missing_ok=True)
        registry.follow(store, line, workspace.params(line).line)
    except failures.EXPECTED as error:  # the line has moved already; what is open is noted
        get_run_logger().warning(f"accepted, but not yet in the tracking store: {errors.sentence(error)}")
    return Concluded(landed.commit, landed.version, result, outcomes)


def until_landed(attempted: Callable[[], T]) -> T:
    """What an attempt comes to, made again where others have changed the line meanwhile by more than decisions."""
    for _ in range(AGAIN):
        try:
            return attempted()
        except landing.Overtaken as error:
            get_run_logger().warning(f"made again, as the line has changed meanwhile: {errors.sentence(error)}")
    return attempted()


def _metrics(result: dict, change: Change, verdict: gate.Verdict) -> dict[str, float]:
    """What the tracking store is told of an accepted model: its accuracies, and the figure of each rule of the gate."""
    now = accuracies(result)
    found = {"acc": result["acc"]} | ({} if result["bwt"] is None else {"bwt": result["bwt"]})
    found |= {f"accuracy/{name}": now[name] for name in change.fresh}
    return found | {f"gate/{one.rule}/{one.about.replace(' ', '_')}": one.figure for one in verdict.findings}


def _judged(line: layout.Layout, clone: layout.Layout, step: str, change: Change) -> tuple[dict, gate.Verdict]:
    result = json.loads(clone.evaluation(step).read_text(encoding="utf-8"))
    return result, judge(line, clone, step, result, tuple(change.fresh))


def _by_transport(params: settings.Params, step: str) -> bool:
    """Whether what is dissimilar is to be merged with unbalanced transport, and the step's method has any."""
    return params.gate.dissimilar == "unbalanced" and isinstance(params.steps[step].merge, settings.Otmf)


def _merge_unbalanced(clone: layout.Layout, step: str, change: Change, extra: dict[str, str]) -> dict[str, str]:
    """Merges the last step again, with transport that need not move what lies too far away."""
    params = workspace.params(clone)
    document = workspace.read_params(clone)
    document["steps"][step]["merge"] |= {"objective": "sinkhorn_divergence", "reach": params.gate.reach}
    workspace.write_params(clone, document)
    get_run_logger().warning(f"{step} is merged again with unbalanced transport, reach {params.gate.reach:g}")
    again = [stage for stage, _ in change.stages if stage.endswith(f"@{step}")]
    return {stage: run(clone, stage, extra) for stage in again}


def environment(line: layout.Layout, clone: layout.Layout, parent: str) -> dict[str, str]:
    """What the stages of an attempt are told: their parent run, the commit they stand on, the tracking store."""
    commit = git.run(clone.root, "rev-parse", "HEAD").strip()
    return {
        "OTMF_PARENT_RUN": parent,
        "OTMF_COMMIT": commit,
        "OTMF_UNSENT": str(tracking.unsent(line)),
        "MLFLOW_TRACKING_URI": tracking.uri(line),
    }


def run(clone: layout.Layout, stage: str, extra: dict[str, str], force: bool = False) -> str:
    """A stage as a Prefect task that bears its name. Returns ran, restored or unchanged."""
    name = stage.replace("@", " ")
    return run_stage.with_options(name=name, task_run_name=name)(clone, stage, extra, force)


def accuracies(result: dict) -> dict[str, float]:
    """Task -> accuracy at an evaluation's own step."""
    return {row["task"]: row["accuracy"] for row in result["rows"] if row["step"] == result["step"]}


@task(name="stage", cache_policy=NO_CACHE)
def run_stage(line: layout.Layout, stage: str, extra: dict[str, str], force: bool = False) -> str:
    """One DVC stage as a process, its output in this run's log. Returns ran, restored or unchanged."""
    with progress.noted(line, stage, run_logs.lines()) as noted:
        if agents.wanted(stage):
            noted("handed to an agent")
            outcome = agents.hand_over(line, stage, extra, log=noted, force=force)
        else:
            outcome = commands.stage(line.root, stage, log=noted, extra={**extra, **agents.refusing()}, force=force)
    get_run_logger().info(f"{stage}: {outcome}")
    return outcome


@task(name="judge", cache_policy=NO_CACHE)
def judge(line: layout.Layout, clone: layout.Layout, step: str, result: dict, fresh: tuple[str, ...]) -> gate.Verdict:
    """The gate's verdict on a clone's last step, by each task's own expert and its best so far, kept beside its results."""
    past = past_accuracies.so_far(line)
    rows = [row for row in result["rows"] if row["step"] == result["step"] and row["task"] not in fresh]
    params = workspace.params(clone)
    merge = json.loads(clone.trace(step).read_text(encoding="utf-8"))
    far = merge.get("dissimilarity") if getattr(params.steps[step].merge, "reach", None) is None else None
    verdict = gate.judge(
        params.gate,
        now=accuracies(result),
        finetuned={name: reference["finetuned"] for name, reference in result["references"].items()},
        best=past.of(rows),
        excused=past.excused,
        dissimilarity={} if far is None else {params.steps[step].task: far},
    )
    path = clone.gate(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(finding) for finding in verdict.findings], indent=1) + "\n", encoding="utf-8")
    for name in fresh:
        reference = result["references"][name]
        if reference["finetuned"] <= reference["base"]:
            brought = datasets.describe(clone.raw(name)).get("checkpoint")
            get_run_logger().warning(
                f"{name}: its fine-tuned model ({100 * reference['finetuned']:.1f} %) is no better than the base ({100 * reference['base']:.1f} %): "
                + (_OTHER_HEAD if brought else "nothing was learned from these labels; look at the data")
            )
    for finding in verdict.broken:
        get_run_logger().warning(f"gate: {finding.sentence()}")
    return verdict


@task(name="refuse", cache_policy=NO_CACHE)
def refuse(
    line: layout.Layout, clone: layout.Layout, change: Change, step: str, verdict: gate.Verdict, made: records.Made
) -> None:
    """Keeps the attempt as a branch of the line, records the refusal, and says why. Always raises Refused."""
    reasons = "; ".join(finding.sentence() for finding in verdict.broken)
    aside = verdict.only_dissimilar and workspace.params(clone).gate.dissimilar == "quarantine"
    workspace.commit(clone.root, f"{'In quarantine' if aside else 'Refused'}: {change.subject}\n\n{reasons}")
    decision = history.accepted(
        clone, action="quarantined" if aside else "refused", step=step, task=workspace.params(clone).steps[step].task, by="gate",
        reason=reasons, findings=_findings(verdict), version=False,
    )  # fmt: skip
    with landing.turn(line, patience=landing.PATIENCE, say=get_run_logger().warning):
        recorded = clones.begin(line, f"_record-{change.name}", outputs=False)
        records.write(line, recorded, decision, lambda place: records.of_model(clone, made, decision, place))
        branch = refused_attempts.keep(line, clone, "quarantined" if aside else "rejected")
        landing.land(line, recorded, outputs=False)
    way = "a person decides:" if aside else "change the card or the gate, or"
    raise Refused(
        f"{reasons}; the line is as it was and the attempt is kept as branch {branch}; {way} take it "
        f"all the same with `otmf promote {change.name} --reason ...`"
    )


@task(name="accept", cache_policy=NO_CACHE)
def accept(
    line: layout.Layout,
    clone: layout.Layout,
    change: Change,
    step: str,
    verdict: gate.Verdict,
    made: records.Made,
    metrics: dict[str, float],
) -> _Landed:
    """Commits the attempt as a new version, records it, and moves the line to it.

    Decisions that were made since it began stay, and it lands on top of them. What the tracking store and the registry are
    to be told is noted before the line moves: whoever comes next tells them if this process cannot.

    Raises:
        Overtaken: if the line has changed by more than decisions since it began.
    """
    stale = staleness.stale(clone, {name for name, _ in change.stages}) if change.stages else []
    if stale:
        raise workspace.WorkspaceError(
            f"expected every stage of {change.name} to be up to date; received stale {', '.join(stale[:3])}; run it again"
        )
    decided = {
        "action": "accepted",
        "by": "gate",
        "reason": f"{change.subject}: {len(verdict.findings)} rule{'s hold' if len(verdict.findings) != 1 else ' holds'}",
    }
    if change.retired is not None:
        decided = {
            "action": "retired",
            "by": history.actor(),
            "reason": f"{change.subject.splitlines()[0]}: {change.retired}",
        }
    if not verdict.accepted:
        decided = {"action": "overridden", "by": history.actor(), "reason": change.override}
    last = workspace.params(clone).steps[step].task
    if remotes.has_remote(line):
        remotes.publish_outputs(clone)
    with landing.turn(line, patience=landing.PATIENCE, say=get_run_logger().warning):
        landing.rebase(line, clone)
        entry = history.accepted(clone, step=step, task=last, findings=_findings(verdict), **decided)
        workspace.commit(clone.root, change.subject)
        final = records.write(line, clone, entry, lambda place: records.of_model(clone, made, entry, place))
        tags = {"git.accepted": final, "version": f"v{entry.version}"}
        note = tracking.finish_later(line, made.parent, metrics=metrics, tags=tags, commit=final)
        registry.follow_later(line)
        try:
            trouble = landing.land(line, clone, tag=history.tag(entry.version))
        except BaseException:
            if not landing.unfinished(line):  # else whoever comes next may complete it, and then needs the note
                note.unlink(missing_ok=True)
            raise
        refused_attempts.drop(line, change.name)
    if trouble:
        get_run_logger().warning(trouble)
    get_run_logger().info(f"{change.subject}: line {line.root.name} is at {final[:12]}, {history.describe(entry)}")
    return _Landed(final, entry.version, metrics, tags, note)


def _findings(verdict: gate.Verdict) -> list[statements.Finding]:
    return [statements.Finding(**asdict(finding)) for finding in verdict.findings]
