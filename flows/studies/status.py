"""How a line stands: its steps, what serves, what was refused, what waits and what runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from flows.line import branch, progress, refused_attempts, workspace
from flows.programs import failures, git
from flows.unattended import inbox
from flows.versions import history
from otmf import settings
from otmf.evaluation import gate
from otmf.runtime import foreign_parsers, layout, processes

_NO_RESULTS = (
    "expected results as `evaluate` and the gate write them in data/results of {}; received others ({}); restore them with "
    "`git checkout -- data/results`"
)
SHOWN = 5  # refused submissions, the latest first


def shown(line: layout.Layout) -> Group:
    """All of it, to be printed."""
    if not branch.born(line.root):
        return Group(*_away(line))
    params = workspace.params(line)
    order = settings.chain(params.steps)
    with foreign_parsers.reading(
        lambda reason: workspace.WorkspaceError(_NO_RESULTS.format(line.root.name, reason)), ours=failures.EXPECTED[:4]
    ):
        first = _table(line, params, order) if order else f"Line {params.line}: no task yet."
        findings = gate_findings(line, order[-1]) if order else []
    return Group(
        *_away(line),
        first,
        *([gate_sentence(findings)] if findings else []),
        *sentences(line),
        *_running(line),
        *_queue(line),
    )


def _away(line: layout.Layout) -> list[str]:
    """A sentence where HEAD is elsewhere than on the line's branch."""
    away = branch.elsewhere(line.root)
    said = f"HEAD is not on {branch.NAME} but at {away}: what is shown here is of that commit, and nothing can be changed; {branch.way_back(line.root)}"
    return [said] if away else []


def watch(line: layout.Layout, out: Console, *, seconds: float = 2) -> None:
    """Shows it anew every so often, until interrupted."""
    with Live(shown(line), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(shown(line), refresh=True)


def overtaking(line: layout.Layout) -> list[str]:
    """A sentence on what will serve in place of a version that somebody has just rolled back to; none if nothing waits or runs."""
    names = [name for name, _ in inbox.waiting(line)]
    under_way = sorted({one.attempt for one in progress.running(line)} - {inbox.turn(name) for name in names})
    found = [f"{', '.join(under_way)} under way"] if under_way else []
    found += (
        [f"{len(names)} waiting ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"] if names else []
    )
    if not found:
        return []
    return [
        f"Still to come: {' and '.join(found)}. What the gate accepts of it serves in place of this version; `otmf withdraw NAME --reason ...` takes "
        "out what waits, and stopping the worker or the command ends what is under way"
    ]


def _queue(line: layout.Layout) -> list[str]:
    """Sentences on the submissions that wait, in the order accepted."""
    found = []
    for count, (name, place) in enumerate(inbox.waiting(line), start=1):
        held = processes.holder(line.private / inbox.turn(name))
        said = f"{'Under way' if held else 'Waiting'}, {count}: {name}, accepted {place.at:%Y-%m-%d %H:%M} UTC"
        if place.failures and not held:
            when = f"again at {place.due:%H:%M:%S} UTC" if place.due > datetime.now(UTC) else "due again"
            said += f"; tried {place.failures} time{'s' if place.failures > 1 else ''}, {when}: {place.said}"
        found.append(said)
    found += [f"Lies in the inbox by itself: {name}; put it into a folder with its data" for name in inbox.alone(line)]
    found += [
        f"Lies in the inbox under a name that is none: {name!a}; rename the folder (lower-case letters, digits, . _ -)"
        for name in inbox.unnamed(line)
    ]
    found += [f"Refused: {name}: {said}" for name, said in inbox.refused(line)[:SHOWN]]
    return found


def _running(line: layout.Layout) -> list[str]:
    """Sentences on the stages under way on this machine."""
    return [
        f"Running: {one.stage} of {one.attempt} for {one.minutes:.1f} minutes"
        + (f", about {one.left:.1f} left" if one.left is not None else "")
        + (f": {one.said}" if one.said else "")
        for one in progress.running(line)
    ]


def sentences(line: layout.Layout) -> list[str]:
    """Sentences on which version serves, which one before, and what the gate refused."""
    entries = history.decisions(line.root)
    found = []
    here = " at that commit" if branch.elsewhere(line.root) else ""
    for role, entry in ((f"Champion{here}", history.champion(entries)), ("Before it", history.previous(entries))):
        if entry is not None:
            found.append(f"{role}: {history.describe(entry)}, {entry.at:%Y-%m-%d %H:%M} UTC: {entry.reason}")
    if entries and entries[-1].version != max(entry.version for entry in entries):
        newest = max(entries, key=lambda entry: entry.version)
        found.append(
            f"The line itself stands at v{newest.version} ({newest.step}, {newest.task}): the next task is merged onto it; "
            f"otmf retire {newest.task} --reason ... takes it out"
        )
    for task, name in refused_attempts.branches(line).items():
        said = git.run(line.root, "log", "-1", "--format=%b", name).strip()
        kind = "In quarantine" if name.startswith("quarantined/") else "Refused"
        way = f"otmf promote {task} --reason ..."
        if changed := refused_attempts.moved_on(line, name):  # it would not land any more
            way = f"accept it with otmf onboard CARD --override REASON, as the line has changed since ({', '.join(changed[:3])})"
        found.append(f"{kind}: {task}: {said}; change its card and onboard it again, or {way}")
    if changed := workspace.uncommitted(line):
        found.append(f"Not committed: {', '.join(changed[:3])}; commit or undo it with git before the next change")
    return found


def _table(found: layout.Layout, params: settings.Params, order: list[str]) -> Table:
    result = json.loads(found.evaluation(order[-1]).read_text(encoding="utf-8"))
    latest = {row["task"]: row["accuracy"] for row in result["rows"] if row["step"] == order[-1]}
    acc = f"ACC {100 * result['acc']:.1f} %" + (
        f", BWT {100 * result['bwt']:+.1f}" if result["bwt"] is not None else ""
    )
    table = Table(title=f"Line {params.line} after {order[-1]}: {acc} (accuracies in %)")
    for column in ("step", "task", "method", "base", "fine-tuned", "merged", "of fine-tuned", "below best"):
        table.add_column(column, justify="left" if column in ("step", "task", "method") else "right")
    figures = {(finding.rule, finding.about): finding for finding in gate_findings(found, order[-1])}
    for name in order:
        step, reference = params.steps[name], result["references"][params.steps[name].task]
        table.add_row(
            name,
            step.task,
            step.merge.method,
            f"{100 * reference['base']:.1f}",
            f"{100 * reference['finetuned']:.1f}",
            f"{100 * latest[step.task]:.1f}",
            *(_figure(figures.get((rule, step.task))) for rule in ("least_of_finetuned", "largest_drop")),
        )
    return table


def gate_findings(line: layout.Layout, step: str) -> list[gate.Finding]:
    """What the gate found of the model after a step; nothing of a step that it was not asked about."""
    path = line.gate(step)
    if not path.exists():
        return []
    return [gate.Finding(**found) for found in json.loads(path.read_text(encoding="utf-8"))]


def _figure(finding: gate.Finding | None) -> str:
    """A rule's figure in per cent or points; marked where it does not hold, `-` where the rule was not asked."""
    if finding is None:
        return "-"
    return f"{100 * finding.figure:.1f}" + ("" if finding.holds else " !")


def gate_sentence(findings: Sequence[gate.Finding]) -> str:
    """How many of the gate's rules hold, which do not, and how far the older tasks are below their best on average."""
    broken = [finding for finding in findings if not finding.holds]
    average = next((finding for finding in findings if finding.rule == "largest_average_drop"), None)
    said = f"Gate: {len(findings) - len(broken)} of {len(findings)} rules hold"
    if average is not None:
        said += f"; older tasks are {100 * average.figure:.1f} points below their best so far on average, of {100 * average.bound:.1f} allowed"
    return said + "".join(f"; {finding.sentence()}" for finding in broken)
