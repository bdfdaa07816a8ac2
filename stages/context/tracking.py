"""The only door of the stages to MLflow: one run per stage that really ran, below the run of the task onboarded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otmf import __version__
from otmf.provenance import digests, machine
from otmf.runtime import errors, experiments
from stages.context import current_line

PARENT = "OTMF_PARENT_RUN"
COMMIT = "OTMF_COMMIT"
UNSENT = "OTMF_UNSENT"
BATCH = 900


def store_uri(line: current_line.Line) -> str:
    """MLFLOW_TRACKING_URI, or the line's own sqlite file."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    line.tracking.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{line.tracking.resolve() / 'mlflow.db'}"


def connect(line: current_line.Line) -> Any:
    """A client of the tracking store and the experiment's id, reached before any work is done.

    Raises:
        ConnectionError: if the store does not answer.
    """
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    uri = store_uri(line)
    name = line.params_checked.line
    with _answering(uri), experiments.opening(uri):
        client = MlflowClient(tracking_uri=uri)
        experiment = experiments.found_or_made(client, name, _artifacts(line, uri))
    return client, experiment


def log(store: Any, line: current_line.Line, stage: str, arguments: list[str], facts: Any) -> None:
    """Logs one stage run in batches; keeps the record aside, for `deliver`, if the store does not answer any more."""
    record = _record(line, stage, arguments, facts)
    try:
        with _answering(store_uri(line)):
            _send(store, record)
    except ConnectionError as error:
        folder = _unsent(line)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{record['at']}-{os.getpid()}.json"
        (folder / f".{name}").write_text(json.dumps(record), encoding="utf-8")
        (folder / f".{name}").rename(folder / name)
        print(f"{stage}: done, but its record is kept to be sent later: {errors.sentence(error)}", flush=True)


def deliver(store: Any, line: current_line.Line) -> int:
    """Sends the records kept aside, oldest first; returns their number. Raises ConnectionError if the store does not answer."""
    found = sorted(path for path in _unsent(line).glob("*.json") if not path.name.startswith("."))
    for path in found:
        with _answering(store_uri(line)):
            _send(store, json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
    return len(found)


def _unsent(line: current_line.Line) -> Path:
    return Path(os.environ.get(UNSENT) or line.root / ".otmf/unsent")


def _record(line: current_line.Line, stage: str, arguments: list[str], facts: Any) -> dict[str, Any]:
    key = " ".join(arguments)
    tags = {
        "mlflow.runName": f"{stage} {key}".strip(),
        "stage": stage,
        "key": key,
        "otmf.version": __version__,
        "git.commit": os.environ.get(COMMIT, ""),
        "packages": _packages(),
        **{f"host.{name}": value for name, value in _host(line).items()},
    }
    if os.environ.get(PARENT):
        tags["mlflow.parentRunId"] = os.environ[PARENT]
    for kind, paths in (("input", facts.inputs), ("output", facts.outputs)):
        tags |= {
            f"{kind}.{path.relative_to(line.root).as_posix().replace('/', '.')}": digests.digest(path) for path in paths
        }
    metrics = [(name, float(value), 0) for name, value in facts.metrics.items()]
    metrics += [(name, float(value), step) for name, curve in facts.curves.items() for step, value in curve]
    params = [(name, str(value)[:500]) for name, value in _flat(facts.parameters)]
    return {
        "at": int(time.time() * 1000),
        "tags": tags,
        "metrics": metrics,
        "params": params,
        "documents": facts.document,
    }


def _send(store: Any, record: dict[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    client, experiment = store
    now = record["at"]
    run = client.create_run(experiment, start_time=now, tags=record["tags"]).info.run_id
    metrics = [Metric(name, value, now, step) for name, value, step in record["metrics"]]
    params = [Param(name, value) for name, value in record["params"]]
    for start in range(0, max(len(metrics), 1), BATCH):
        client.log_batch(run, metrics=metrics[start : start + BATCH], params=params[:90] if start == 0 else [])
    for name, content in record["documents"].items():
        client.log_dict(run, content, f"{name}.json")
    client.set_terminated(run)


@contextlib.contextmanager
def _answering(where: str) -> Iterator[None]:
    """Turns every failure of the store into one sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise ConnectionError(errors.no_tracking_store(where, error)) from error


def _artifacts(line: current_line.Line, uri: str) -> str | None:
    return (line.tracking.resolve() / "artifacts").as_uri() if uri.startswith("sqlite:") else None


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _host(line: current_line.Line) -> dict[str, str]:
    """What the bytes of an output may depend on beside code and parameters."""
    import torch

    from stages.context import encoder

    where = encoder.device(line)
    name = {"processor": torch.cuda.get_device_name(where)} if where.type == "cuda" else {}
    return {**machine.about(), **name, "device": where.type}


def _packages() -> str:
    from importlib import metadata

    return " ".join(
        f"{name}={metadata.version(name)}" for name in ("torch", "open_clip_torch", "pot", "mlflow", "dvc", "prefect")
    )
