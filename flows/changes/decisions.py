"""People's decisions about versions: against the gate, back to an earlier one; and what stands now."""

from __future__ import annotations

from collections.abc import Callable

from flows.dvc import commands
from flows.line import branch, clones, landing, refused_attempts, workspace
from flows.programs import failures, git
from flows.services import tracking
from flows.versions import history, records, registry
from otmf import settings
from otmf.provenance.statements import Decision
from otmf.runtime import errors, layout

Log = Callable[[str], None]


def promote(line: layout.Layout, task: str, *, by: str | None, reason: str, log: Log, wait: float = 0) -> Decision:
    """Moves the line to the attempt that the gate refused, as a version of its own. Work under way on the line goes on.

    Args:
        line, task: what is accepted where.
        by, reason: who decides, and why.
        log: takes sentences.
        wait: seconds to wait for others' decisions and landings.

    Raises:
        WorkspaceError: if there is no such attempt, or the line has moved on since.
    """
    reason = history.reason(reason)
    with landing.turn(line, patience=wait, say=log):
        attempted = refused_attempts.branches(line).get(task)
        if attempted is None:
            raise workspace.WorkspaceError(
                f"expected a refused attempt ({', '.join(refused_attempts.branches(line)) or 'there is none'}); received {task!r}; choose one"
            )
        if changed := refused_attempts.moved_on(line, attempted):
            raise workspace.WorkspaceError(
                f"expected the line to stand where {task} was refused; received one that has moved on since ({', '.join(changed[:3])}); onboard the "
                "card again with --override REASON"
            )
        commit = _commit(line, attempted)
        records.require_refused(line.root, commit, task)
        attempt = clones.begin(line, f"_promote-{task}", outputs=False)
        git.run(attempt.root, "cherry-pick", "--no-commit", commit)
        commands.checkout(attempt.root)
        step = settings.chain(workspace.params(attempt).steps)[-1]
        newest = workspace.params(attempt).steps[step].task
        decision = history.accepted(
            attempt, action="overridden", step=step, task=newest, by=by or history.actor(), reason=reason
        )
        refused = records.refusal(attempt.root, decision)
        records.require_outputs(attempt.root, refused)
        decision = decision.model_copy(update={"findings": refused.decision.findings})
        commit = workspace.commit(attempt.root, f"Accept {task} against the gate\n\n{reason}")
        records.write(line, attempt, decision, lambda place: records.of_promotion(refused, commit, decision, place))
        _land(line, attempt, log, tag=history.tag(decision.version))
        refused_attempts.drop(line, task)
    _follow(line, log)
    return decision


def roll_back(
    line: layout.Layout, version: str | None, *, by: str | None, reason: str, log: Log, wait: float = 0
) -> Decision:
    """Lets an earlier version serve again: one more record in the ledger, and the aliases set. Arguments as in `promote`.

    Raises:
        WorkspaceError: if there is no such version, or it serves already.
    """
    reason = history.reason(reason)
    number = None if version is None else history.number(version)
    with landing.turn(line, patience=wait, say=log):
        attempt = clones.begin(line, "_rollback", outputs=False)
        decision = history.rolled_back(attempt, number, by=by or history.actor(), reason=reason)
        records.write(line, attempt, decision, lambda place: records.of_decision(decision, place))
        _land(line, attempt, log)
    _follow(line, log)
    return decision


def serving(line: layout.Layout) -> layout.Layout:
    """The line as it was when its champion was made: where predictions come from.

    Raises:
        WorkspaceError: if HEAD is elsewhere than on the line's branch: what serves does not change with what is looked at.
    """
    branch.require(line.root)
    champion = history.champion(history.decisions(line.root))
    if champion is None:
        return line
    newest = max(entry.version for entry in history.decisions(line.root))
    if champion.version == newest:
        return line
    return clones.at(line, history.commit(line.root, champion.version), f"v{champion.version}")


def _land(line: layout.Layout, attempt: layout.Layout, log: Log, *, tag: str | None = None) -> None:
    registry.follow_later(line)  # noted before it lands: whoever comes next tells the registry if we cannot
    trouble = landing.land(line, attempt, tag=tag, outputs=tag is not None)
    if trouble:
        log(trouble)


def _follow(line: layout.Layout, log: Log) -> None:
    name = workspace.params(line).line
    try:
        registry.follow(tracking.prepare(line, name), line, name)
    except failures.EXPECTED as error:
        log(f"decided, but not yet in the tracking store: {errors.sentence(error)}")


def _commit(line: layout.Layout, revision: str) -> str:
    return git.run(line.root, "rev-parse", f"{revision}^{{commit}}").strip()
