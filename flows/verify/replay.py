"""A version made again from what its records say, in a clone of its own, and compared with what was recorded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.dvc import cache, commands
from flows.line import chain, workspace
from flows.programs import git
from flows.versions import accepted_models, history, records
from otmf import settings
from otmf.provenance import differences, ledger, machine, statements
from otmf.runtime import layout


@dataclass(frozen=True)
class Replayed:
    """One output made again.

    Attributes:
        stage, path: of the output.
        same: whether its bytes are those recorded.
        apart: largest relative difference, as `otmf.provenance.differences.between`; infinity if the recorded output is not here to compare.
    """

    stage: str
    path: str
    same: bool
    apart: float


def surroundings(line: layout.Layout, number: int) -> list[str]:
    """What differs between where a version was made and here: packages, code, processor. Empty if nothing does."""
    made = _record(line, number).statement.predicate
    found = []
    for name, version in made.runDetails.builder.version.items():
        here = records.packages().get(name)
        if here != version:
            found.append(f"{name} {version} then, {here or 'none'} now")
    now = machine.about()
    then = {key: value for stage in made.buildDefinition.otmf_stages.values() for key, value in stage.host.items()}
    found += [f"{key} {then[key]} then, {now[key]} now" for key in now if key in then and then[key] != now[key]]
    return found


def replay(line: layout.Layout, number: int, step: str | None, *, log: Callable[[str], None]) -> Iterator[Replayed]:
    """Runs the stages of a version again, all of them or those of one step, and compares each output.

    The clone stands at the recorded commit; what a step reads is restored from DVC's cache, what it writes goes nowhere else.

    Args:
        line: the folder.
        number: of the version.
        step: only the stages of this step's task.
        log: takes the stages' output.

    Raises:
        WorkspaceError: if there is no such version or step. ProcessError: if a stage fails.
    """
    record = _record(line, number)
    commit = accepted_models.commit_of(record)
    with tempfile.TemporaryDirectory(prefix="otmf-replay-") as name:
        clone = layout.Layout(Path(name) / "line")
        git.run(line.root, "clone", "--quiet", "--shared", "--no-checkout", str(line.root), str(clone.root))
        git.run(clone.root, "checkout", "--quiet", "--detach", commit)
        commands.share_cache(clone.root, line.root)
        commands.checkout(clone.root)
        params = workspace.params(clone)
        wanted = [stage for stage, _ in chain.stages(clone, params)]
        if step is not None:
            if step not in params.steps:
                raise workspace.WorkspaceError(
                    f"expected a step of v{number} ({', '.join(settings.chain(params.steps))}); received {step!r}; choose one of them"
                )
            wanted = [stage for stage, _ in chain.of_task(clone, params.steps[step].task, step)[1:]]
        recorded = accepted_models.recorded(ledger.read(line.root), record)
        told = {"MLFLOW_TRACKING_URI": f"sqlite:///{name}/mlflow.db"}
        for stage in wanted:
            before = Path(name) / "before"
            shutil.rmtree(before, ignore_errors=True)
            for path in recorded[stage].outputs:
                _keep(clone.root / path, before / path)
            commands.stage(clone.root, stage, log=log, extra=told, force=True, keep=False)
            yield from _compared(clone, before, stage, recorded[stage])


def _record(line: layout.Layout, number: int) -> ledger.Record:
    found = accepted_models.models(ledger.read(line.root))
    if number not in found:
        history.find(history.decisions(line.root), number)
    return found[number]


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)


def _compared(clone: layout.Layout, before: Path, stage: str, recorded: statements.Stage) -> Iterator[Replayed]:
    reader = cache.Reader()
    for path, output in recorded.outputs.items():
        same = reader.path(clone.root / path) == output.sha256
        yield Replayed(stage, path, same, 0.0 if same else differences.between(before / path, clone.root / path))
