"""What the ledger is told of a line: a model made, accepted or refused, a version served again, each as one signed record."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from flows.dvc import lockfile
from flows.line import workspace
from flows.programs import git
from flows.programs.release import release
from flows.services import tracking
from flows.versions import accepted_models, keyring
from otmf.provenance import digests, ledger, machine, statements
from otmf.runtime import layout

MODEL = "model.safetensors"
# What a record names by sha256 beside what the stages read and wrote.
DESCRIBED = ("params.yaml", "dvc.yaml", "dvc.lock", "prefect.yaml", ".dvc/config", ".dvcignore", ".gitignore")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Made:
    """How an attempt came about.

    Attributes:
        outcomes: stage -> ran, restored or unchanged.
        known: stage -> the path of the output it is known by in the tracking store.
        tasks: names that are new or were trained again.
        begun: when, UTC.
        flow: id of the flow run; empty outside one.
        store, parent: the tracking store and the attempt's run in it; None where it does not answer.
    """

    outcomes: Mapping[str, str]
    known: Mapping[str, str]
    tasks: Collection[str]
    begun: datetime
    flow: str
    store: tracking.Store | None
    parent: str


def write(
    line: layout.Layout,
    clone: layout.Layout,
    decision: statements.Decision,
    statement: Callable[[statements.Place], statements.Statement],
) -> str:
    """Appends a record to the ledger in a clone, and commits it; returns the commit.

    Args:
        line: whose key signs.
        clone: what it is about is committed there.
        decision: what the commit's message tells of.
        statement: makes the record's content for its place in the chain.

    Raises:
        LedgerError, KeyFileError, WorkspaceError: if the ledger does not hold up, or its key cannot be used.
    """
    ledger.append(clone.root, statement, keyring.signers(line))
    what = f"v{decision.version}" if decision.version else decision.task or decision.step
    said = f"Record: {what} {decision.action.replace('_', ' ')} by {decision.by}"
    return workspace.commit(clone.root, f"{said}\n\n{decision.reason}")


def of_decision(decision: statements.Decision, place: statements.Place) -> statements.Statement:
    """The statement about a decision that makes nothing: its subject is the encoder of the version it is about."""
    path = layout.Layout(Path()).merged(decision.step) / MODEL
    return statements.Statement(
        subject=[statements.Resource(name=path.as_posix(), digest={"sha256": decision.sha256})],
        predicateType=statements.DECISION,
        predicate=statements.Decided(otmf_decision=decision, otmf_ledger=place),
    )


def of_promotion(
    refused: statements.Statement, commit: str, decision: statements.Decision, place: statements.Place
) -> statements.Statement:
    """The statement about a refused model that a person accepts: as it was made, at the commit that brings it to the line."""
    predicate = refused.predicate
    inputs = [
        found.model_copy(update={"digest": {"gitCommit": commit}}) if "gitCommit" in found.digest else found
        for found in predicate.buildDefinition.resolvedDependencies
    ]
    definition = predicate.buildDefinition.model_copy(update={"resolvedDependencies": inputs})
    made = {"buildDefinition": definition, "otmf_decision": decision, "otmf_ledger": place}
    return refused.model_copy(update={"predicate": predicate.model_copy(update=made)})


def of_model(
    clone: layout.Layout, made: Made, decision: statements.Decision, place: statements.Place
) -> statements.Statement:
    """The statement about what a clone's stages made: every output by its hash, and everything that went in."""
    hashes = _Digests(clone.root)
    outcomes = {name: outcome for name, outcome in made.outcomes.items() if outcome != "unchanged"}
    lock = lockfile.read((clone.root / lockfile.NAME).read_text(encoding="utf-8"), outcomes)
    stages = {
        name: _stage(lock[name], outcome, hashes, made.store, made.known[name]) for name, outcome in outcomes.items()
    }
    outputs = {path for stage in stages.values() for path in stage.outputs}
    inputs = {path: found for stage in stages.values() for path, found in stage.inputs.items() if path not in outputs}
    described = [*DESCRIBED, *(f"data/cards/{task}.yaml" for task in made.tasks), *(f"data/raw/{task}.dvc" for task in made.tasks),
                 layout.Layout(Path()).gate(decision.step).as_posix()]  # fmt: skip
    commit = git.run(clone.root, "rev-parse", "HEAD").strip()
    params = workspace.params(clone)
    model = (clone.merged(decision.step) / MODEL).relative_to(clone.root).as_posix()  # also where it came out as it was
    definition = statements.BuildDefinition(
        externalParameters={"line": params.line, "tasks": sorted(made.tasks), "step": decision.step},
        internalParameters={"gate": params.gate.model_dump(mode="json")},
        resolvedDependencies=[
            statements.Resource(name="git commit", digest={"gitCommit": commit}, annotations={"clean": _clean(clone)}),
            *(_resource(path, found, clone.root / path) for path, found in sorted(inputs.items())),
            *(statements.Resource(name=path, digest={"sha256": hashes[path]})
              for path in described if (clone.root / path).is_file()),
        ],
        otmf_stages=stages,
    )  # fmt: skip
    details = statements.RunDetails(
        builder=statements.Builder(version=packages()),
        metadata=statements.BuildMetadata(
            invocationId=made.flow, startedOn=made.begun, finishedOn=datetime.now(UTC)
        ),
        otmf_host=machine.about(),
        otmf_runs={"parent": made.parent},
    )  # fmt: skip
    return statements.Statement(
        subject=[
            statements.Resource(name=path, digest={"sha256": hashes[path]})
            for path in sorted({model, *_files(clone, outputs)})
        ],
        predicateType=statements.PROVENANCE,
        predicate=statements.Provenance(
            buildDefinition=definition, runDetails=details, otmf_decision=decision, otmf_ledger=place
        ),
    )


def refusal(root: Path, decision: statements.Decision) -> statements.Statement:
    """The statement about the refused model that a decision now accepts.

    Raises:
        WorkspaceError: if the ledger has none of that step and content.
    """
    for record in reversed(ledger.read(root)):
        found = record.statement.decision
        same = (found.step, found.task, found.sha256) == (decision.step, decision.task, decision.sha256)
        if same and found.action in ("refused", "quarantined"):
            return record.statement
    raise workspace.WorkspaceError(
        f"expected a record of the refusal of {decision.task} with sha256 {decision.sha256[:12]}; received none in {ledger.FOLDER}; onboard "
        "the card again with --override REASON"
    )


def require_refused(root: Path, commit: str, task: str) -> None:
    """Refuses a kept attempt that is not the commit which the record of its refusal names. Raises WorkspaceError."""
    made = (record for record in ledger.read(root) if isinstance(record.statement.predicate, statements.Provenance))
    if all(accepted_models.commit_of(record) != commit for record in made if record.statement.decision.version is None):
        raise workspace.WorkspaceError(
            f"expected the attempt of {task} as the record of its refusal names it; received commit {commit[:12]}, which no record names; "
            "its branch was altered: onboard the card again"
        )


def require_outputs(root: Path, refused: statements.Statement) -> None:
    """Refuses an attempt whose outputs are not what the record of its refusal says. Raises WorkspaceError with the first."""
    for stage in refused.predicate.buildDefinition.otmf_stages.values():
        for path, output in stage.outputs.items():
            try:
                received = digests.digest(root / path)
            except FileNotFoundError:
                received = "nothing"
            if received != output.sha256:
                raise workspace.WorkspaceError(
                    f"expected {path} with sha256 {output.sha256[:12]}, as it was refused; received {received[:12]}; what DVC holds of it was lost "
                    "or altered: onboard the card again with --override REASON"
                )


@cache
def packages() -> dict[str, str]:
    """Package -> version: this code, by its content, and what it declares it needs."""
    names = {_NAME.match(found).group() for found in metadata.requires("otmf") or () if "extra ==" not in found}
    return {"otmf": release(), **{name: metadata.version(name) for name in sorted(names)}}


class _Digests(dict):
    """Path below a folder -> sha256, each computed once."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, path: str) -> str:
        self[path] = found = digests.digest(self.root / path)
        return found


def _stage(
    entry: Mapping[str, Any], outcome: str, hashes: _Digests, store: tracking.Store | None, known: str
) -> statements.Stage:
    inputs, outputs = (
        {found["path"]: statements.Output(sha256=hashes[found["path"]], md5=found["md5"]) for found in entry.get(part, ())}
        for part in ("deps", "outs")
    )  # fmt: skip
    run, about = _run(store, known, hashes[known])
    return statements.Stage(
        command=entry["cmd"], outcome=outcome, inputs=inputs, outputs=outputs, parameters=entry.get("params", {}).get("params.yaml", {}),
        run=run, host=about,
    )  # fmt: skip


def _run(store: tracking.Store | None, output: str, digest: str) -> tuple[str | None, dict[str, str]]:
    """The run that made an output; none where the tracking store is away, which is no reason not to accept a model."""
    if store is None:
        return None, {}
    try:
        return tracking.made(store, output, digest)
    except workspace.WorkspaceError:
        return None, {}


def _resource(path: str, found: statements.Output, there: Path) -> statements.Resource:
    kind = "sha256" if there.is_file() else "dirSha256"
    return statements.Resource(name=path, digest={kind: found.sha256}, annotations={"md5": found.md5})


def _files(clone: layout.Layout, paths: Collection[str]) -> list[str]:
    """The files below some paths, as paths below the clone."""
    found = []
    for path in paths:
        there = clone.root / path
        parts = [there] if there.is_file() else [part for part in there.rglob("*") if part.is_file()]
        found += [part.relative_to(clone.root).as_posix() for part in parts]
    return found


def _clean(clone: layout.Layout) -> bool:
    return not git.run(clone.root, "status", "--porcelain", "--untracked-files=no").strip()
