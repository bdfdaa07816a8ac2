"""All that an auditor asks about one version of a line, gathered from its records and the commit they name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flows.audit.document import Audit, Broken, Data, Decided, Step, Task
from flows.line import encoders, workspace
from flows.programs import git, plain_yaml
from flows.verify.checks import Check
from flows.versions import accepted_models, history
from otmf import settings
from otmf.data import cards
from otmf.provenance import ledger, statements
from otmf.runtime import layout


def audit(line: layout.Layout, number: int, checks: Sequence[Check], *, at: datetime) -> Audit:
    """The document about a version.

    Args:
        line: the folder.
        number: of the version.
        checks: what verification said of it.
        at: when this is asked.

    Raises:
        WorkspaceError: if there is no such version.
    """
    records = ledger.read(line.root)
    history.find(history.decisions(line.root), number)
    with git.Objects(line.root) as objects:
        return _audit(line, number, checks, at, records, objects)


def _audit(
    line: layout.Layout,
    number: int,
    checks: Sequence[Check],
    at: datetime,
    records: Sequence[ledger.Record],
    objects: git.Objects,
) -> Audit:
    record = accepted_models.models(records)[number]
    commit, stages = accepted_models.commit_of(record), accepted_models.recorded(records, record)
    read = _Commit(objects, commit)
    params = settings.check(read.yaml("params.yaml"))
    base = read.yaml("data/cards/pretrained.yaml")
    encoder = encoders.described(cards.BaseCard.model_validate(base), params)
    order = settings.chain(params.steps)
    evaluations = {step: read.json(f"data/results/steps/{step}.json") for step in order}
    last = evaluations[order[-1]]
    making = {stage: found for found in accepted_models.models(records).values() if found.index <= record.index
              for stage in found.statement.predicate.buildDefinition.otmf_stages}  # fmt: skip
    decision, details = record.statement.decision, record.statement.predicate.runDetails
    broken = [Broken(about=check.about, trouble=check.trouble) for check in checks if check.trouble]
    tasks = [_task(read, step, params.steps[step].task, order, evaluations, last, stages) for step in order]
    return Audit(
        line=params.line,
        version=number,
        serves=_role(history.decisions(line.root), number),
        step=order[-1],
        sha256=decision.sha256,
        encoder=encoder.name,
        reads=encoder.reads,
        commit=commit,
        generated=at,
        deviations=[*_deviations(records, record), *_unlicensed(tasks, base), *(f"{one.about}: {one.trouble}" for one in broken)],
        checks_held=sum(not check.trouble and not check.uncovered for check in checks),
        checks_broken=broken,
        not_covered=[check.about for check in checks if check.uncovered],
        base=_data(stages["pretrained"], "data/raw/pretrained"),
        base_licence=_base_licence(base),
        tasks=tasks,
        steps=[_step(read, step, params.steps[step], evaluations, stages, making) for step in order],
        decisions=[
            Decided(record=one.name, sha256=one.sha256, signed_by=sorted(one.envelope.signatures), decision=one.statement.decision)
            for one in records
        ],
        stages=stages,
        packages=details.builder.version,
        flow_run=details.metadata.invocationId,
        runs={**details.otmf_runs, **{stage: found.run for stage, found in stages.items() if found.run}},
        host=details.otmf_host,
        started=details.metadata.startedOn,
        finished=details.metadata.finishedOn,
    )  # fmt: skip


class _Commit:
    """Files of a commit."""

    def __init__(self, objects: git.Objects, commit: str) -> None:
        self.objects, self.tree = objects, objects.tree(commit)

    def text(self, path: str) -> str:
        if path not in self.tree:
            raise workspace.WorkspaceError(
                f"expected {path} in the version's commit; received a commit without it; fetch the line's history"
            )
        return self.objects.blob(self.tree[path]).decode()

    def json(self, path: str) -> dict[str, Any]:
        return json.loads(self.text(path))

    def yaml(self, path: str) -> dict[str, Any]:
        return plain_yaml.load(self.text(path))


def _role(entries: Sequence[statements.Decision], number: int) -> str:
    champion, previous = history.champion(entries), history.previous(entries)
    if champion is not None and champion.version == number:
        return "champion"
    return "previous" if previous is not None and previous.version == number else "no longer"


def _deviations(records: Sequence[ledger.Record], last: ledger.Record) -> list[str]:
    """What an auditor should look at first: unsigned records, changed trees, decisions against the gate."""
    found = []
    unsigned = [record.name for record in records if not record.envelope.signatures]
    if unsigned:
        found.append(
            f"{len(unsigned)} of {len(records)} records are unsigned: {', '.join(unsigned[:5])}"
            + (" ..." if len(unsigned) > 5 else "")
        )
    for record in records:
        decision, predicate = record.statement.decision, record.statement.predicate
        if record.index > last.index:
            continue
        if decision.action == "overridden":
            found.append(
                f"v{decision.version} ({decision.task}) was accepted against the gate by {decision.by}: {decision.reason}"
            )
        if isinstance(predicate, statements.Provenance):
            dirty = [
                one
                for one in predicate.buildDefinition.resolvedDependencies
                if (one.annotations or {}).get("clean") is False
            ]
            if dirty:
                found.append(f"{record.name} was made from a tree with uncommitted changes")
    return found


def _unlicensed(tasks: Sequence[Task], base: dict[str, Any]) -> list[str]:
    """The base's card speaks for all its parts, or each part for itself."""
    parts = {} if base.get("licence") else {part["name"]: part.get("licence") for part in base.get("parts") or ()}
    names = [f"part {name} of the base" for name, licence in parts.items() if not licence]
    names += [] if parts or base.get("licence") else ["the base"]
    names += [task.name for task in tasks if not task.licence]
    return [f"no licence is stated for the data of {', '.join(names)}"] if names else []


def _base_licence(base: dict[str, Any]) -> str:
    said = {one.get("licence", "") for one in (base, *(base.get("parts") or ()))}
    return ", ".join(sorted(one for one in said if one))


def _data(stage: statements.Stage, path: str, manifest: dict[str, Any] | None = None) -> Data:
    found, parts = stage.inputs[path], (manifest or {}).get("parts", {})
    return Data(
        path=path,
        sha256=found.sha256,
        md5=found.md5,
        images={name: part["images"] for name, part in parts.items()},
        test_sha256=parts.get("test", {}).get("sha256", ""),
    )


def _task(
    read: _Commit,
    step: str,
    name: str,
    order: Sequence[str],
    evaluations: dict[str, dict[str, Any]],
    last: dict[str, Any],
    stages: dict[str, statements.Stage],
) -> Task:
    card = cards.Card.model_validate(read.yaml(f"data/cards/{name}.yaml"))
    manifest = read.json(f"data/results/splits/{name}.json")
    after = {row["step"]: row["accuracy"] for row in last["rows"] if row["task"] == name}
    tuned = [one for one in order if evaluations[one]["heads"] in ("previous", "all")]
    uses = [] if card.checkpoint else ["fine-tuning"]
    uses += [f"tuning of heads ({evaluations[one]['heads']}) at {one}" for one in tuned]
    return Task(
        name=name,
        title=card.title,
        description=card.description,
        owner=card.owner,
        licence=card.licence,
        source=card.source,
        origin="checkpoint from elsewhere" if card.checkpoint else "fine-tuned here",
        labels=", ".join([*uses, "evaluation"]),
        step=step,
        data=_data(stages[f"finetune@{name}"], f"data/raw/{name}", manifest),
        base=last["references"][name]["base"],
        finetuned=last["references"][name]["finetuned"],
        accuracy=after,
    )


def _step(
    read: _Commit,
    step: str,
    entry: settings.Step,
    evaluations: dict[str, dict[str, Any]],
    stages: dict[str, statements.Stage],
    making: dict[str, ledger.Record],
) -> Step:
    trace, evaluation = read.json(f"data/results/merges/{step}.json"), evaluations[step]
    now = {row["task"]: row["accuracy"] for row in evaluation["rows"] if row["step"] == step}
    before = {row["task"]: row["accuracy"] for row in evaluation["rows"] if row["step"] == entry.previous}
    merge = f"merge-step@{step}"
    return Step(
        step=step,
        task=entry.task,
        method=trace["method"],
        parameters=trace["settings"],
        saw=trace["saw"],
        heads=evaluation["heads"],
        aligned=evaluation.get("aligned", {}),
        acc=evaluation["acc"],
        bwt=evaluation["bwt"],
        changes={task: now[task] - before[task] for task in now if task in before},
        record=making[merge].name,
        sha256=stages[merge].outputs[f"data/models/merged/{step}"].sha256,
    )
