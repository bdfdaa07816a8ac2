"""Parent runs: one MLflow run per task onboarded, above the runs of its stages."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.line import branch, workspace
from flows.programs import process
from otmf.runtime import errors, experiments, layout

_PARENT = ".parent"  # stages deliver what ends in .json
PAGE = 500
_SQLITE = b"SQLite format 3\0"
PATIENCE = 600.0
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Store:
    """A tracking store: where it is, its client, and the id of the line's experiment."""

    uri: str
    client: Any
    experiment: str


class _End(BaseModel):
    """How a parent run ends if a commit lands, as it is noted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parent: str
    metrics: dict[str, float]
    tags: dict[str, str]
    commit: str

    @classmethod
    def of(cls, note: Path) -> _End:
        """What a note says. Raises WorkspaceError naming it if it is none."""
        try:
            return cls.model_validate_json(note.read_text(encoding="utf-8"))
        except ValueError as error:
            raise workspace.WorkspaceError(
                f"expected a note of how a run ends in {note}; received another content; delete it: the run stays as it is"
            ) from error


def uri(line: layout.Layout) -> str:
    """MLFLOW_TRACKING_URI, or the line's own sqlite file. A relative path is made absolute: stages work in folders of their own."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{line.tracking / 'mlflow.db'}"
    scheme, separator, path = given.rpartition(":///")
    if scheme.startswith("sqlite") or ("://" not in given and not given.startswith("databricks")):
        return f"{scheme}{separator}{Path(path.removeprefix('file:')).absolute()}"
    return given


def prepare(line: layout.Layout, name: str) -> Store:
    """The line's store and experiment; made where they are missing.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    where, location = uri(line), None
    if where.startswith("sqlite:"):
        line.tracking.mkdir(parents=True, exist_ok=True)
        _require_database(where)
        location = (line.tracking / "artifacts").as_uri()
    elif "://" in where and not where.startswith(("http", "file", "databricks")):
        _require_answer(where)
    with answering(where), experiments.opening(where):
        client = MlflowClient(tracking_uri=where, registry_uri=where)
        experiment = experiments.found_or_made(client, name, location)
    return Store(where, client, experiment)


def _require_database(where: str) -> None:
    """Refuses a file that is no database of sqlite: MLflow would try it again for minutes. Raises WorkspaceError."""
    path = Path(where.partition(":///")[2])
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_SQLITE))
    except FileNotFoundError:  # it will be made
        return
    except OSError as error:
        raise workspace.WorkspaceError(errors.no_tracking_store(where, error)) from error
    if head not in (b"", _SQLITE):
        raise workspace.WorkspaceError(errors.no_tracking_store(where, ValueError("the file is no database of sqlite")))


def _require_answer(where: str) -> None:
    """Asks a database once whether it answers: MLflow would try it again for minutes. Raises WorkspaceError."""
    import sqlalchemy

    with answering(where):
        engine = sqlalchemy.create_engine(where)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def there(line: layout.Layout) -> bool:
    """Whether the store's file is there, where it is a file: `prepare` makes it."""
    where = uri(line)
    return not where.startswith("sqlite:") or Path(where.partition(":///")[2]).is_file()


def begin(store: Store, kind: str, name: str, tags: dict[str, str]) -> str:
    """Starts the parent run of an onboarding, a retraining or a retirement; returns its id."""
    tags = {"mlflow.runName": f"{kind} {name}", "task": name, "kind": kind, **tags}
    with answering(store.uri):
        return store.client.create_run(store.experiment, tags=tags).info.run_id


def run_of_version(store: Store, number: int, parent: str | None) -> str:
    """The run that a version came about in, or one made for it where the store knows no such run."""
    if parent and parent.isalnum() and store.client.search_runs([store.experiment], f"attributes.run_id = '{parent}'"):
        return parent
    tags = {"mlflow.runName": f"version v{number}", "kind": "version"}
    run = store.client.create_run(store.experiment, tags=tags).info.run_id
    store.client.set_terminated(run)
    return run


def link(store: Store, parent: str, stage: str, tag: str, digest: str) -> None:
    """Links a stage that did not run again to the run that made its output, found by the output's hash."""
    with answering(store.uri):
        found = store.client.search_runs([store.experiment], filter_string=f"tags.`{tag}` = '{digest}'", max_results=1)
        if found:
            store.client.set_tag(parent, f"restored.{stage.replace('@', '.')}", found[0].info.run_id)


def made(store: Store, output: str, digest: str) -> tuple[str | None, dict[str, str]]:
    """The id of the newest run that made an output (path, sha256), and what it said of its machine; None if none did."""
    said = f"tags.`output.{output.replace('/', '.')}` = '{digest}'"
    with answering(store.uri):
        found = store.client.search_runs([store.experiment], filter_string=said, max_results=1)
    if not found:
        return None, {}
    tags = found[0].data.tags
    return found[0].info.run_id, {
        key.removeprefix("host."): value for key, value in tags.items() if key.startswith("host.")
    }


def seconds(store: Store, stages: Collection[str]) -> dict[str, float]:
    """Stage -> how long its own work took when it last ran; those that never did are left out."""
    missing, found, token = set(stages), {}, None
    with answering(store.uri):
        while missing:
            page = store.client.search_runs(
                [store.experiment], max_results=PAGE, order_by=["attributes.start_time DESC"], page_token=token
            )
            for run in page:
                name = _stage(run.data.tags)
                if name in missing and "seconds" in run.data.metrics:
                    missing.remove(name)
                    found[name] = run.data.metrics["seconds"]
            token = page.token
            if not token:
                break
    return found


def _stage(tags: Mapping[str, str]) -> str:
    """The name in dvc.yaml of the stage that a run was of; empty for a parent run."""
    name, key = tags.get("stage", "").replace("_", "-"), tags.get("key", "")
    return f"{name}@{key}" if key else name


def finish(store: Store, parent: str, *, metrics: dict[str, float], tags: dict[str, str], failed: bool = False) -> None:
    """Ends the parent run with what came out of it."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    with answering(store.uri):
        store.client.log_batch(
            parent,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        store.client.set_terminated(parent, "FAILED" if failed else "FINISHED")


def finish_later(
    line: layout.Layout, parent: str, *, metrics: dict[str, float], tags: dict[str, str], commit: str
) -> Path:
    """Notes how a parent run ends if a commit lands, for `catch_up`: until the store has been told. Returns the note."""
    folder = unsent(line)
    folder.mkdir(parents=True, exist_ok=True)
    part, note = folder / f".{parent}", folder / f"{parent}{_PARENT}"
    end = _End(parent=parent, metrics=metrics, tags=tags, commit=commit)
    part.write_text(end.model_dump_json(), encoding="utf-8")
    part.rename(note)
    return note


def catch_up(line: layout.Layout, store: Store) -> bool:
    """Sends the store what it could not be told while it was away; says whether there was anything.

    Raises:
        WorkspaceError: if it is still away.
    """
    waiting = [path for path in unsent(line).glob("*") if not path.name.startswith(".")]
    with workspace.locked(line, patience=PATIENCE):  # a landing under way has its note already
        parents = {path: _End.of(path) for path in waiting if path.name.endswith(_PARENT)}
        landed = {path for path, kept in parents.items() if branch.has(line.root, kept.commit)}
    for path, kept in parents.items():
        if path in landed:
            finish(store, kept.parent, metrics=kept.metrics, tags=kept.tags)
        else:
            finish(store, kept.parent, metrics={}, tags={"error": "its process died before it landed"}, failed=True)
        path.unlink(missing_ok=True)
    if len(waiting) > len(parents):
        extra = {"MLFLOW_TRACKING_URI": store.uri, "OTMF_UNSENT": str(unsent(line))}
        process.run([sys.executable, "-m", "stages", "unsent"], folder=line.root, extra=extra)
    return bool(waiting)


def unsent(line: layout.Layout) -> Path:
    """The folder of what the store could not be told."""
    return line.private / "unsent"


@contextlib.contextmanager
def answering(where: str) -> Iterator[None]:
    """Turns every failure of the store into one sentence: of the database, the server and the client, whatever they raise."""
    try:
        yield
    except (workspace.WorkspaceError, AssertionError):  # ours
        raise
    except Exception as error:
        raise workspace.WorkspaceError(errors.no_tracking_store(where, error)) from error
