"""Parent runs: one MLflow run per task onboarded, above the runs of its stages."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from flows import workspace
from otmf import layout

RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def uri(line: layout.Layout) -> str:
    """MLFLOW_TRACKING_URI, or the line's own sqlite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{line.private / 'mlflow' / 'mlflow.db'}"


def prepare(line: layout.Layout, name: str) -> tuple[Any, str]:
    """A client and the id of the line's experiment; makes both where they are missing.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    for key, value in RETRIES.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    where = uri(line)
    location = None
    if where.startswith("sqlite:"):
        (line.private / "mlflow").mkdir(parents=True, exist_ok=True)
        location = (line.private / "mlflow" / "artifacts").as_uri()
    try:
        client = MlflowClient(tracking_uri=where)
        found = client.get_experiment_by_name(name)
        return client, found.experiment_id if found else client.create_experiment(name, artifact_location=location)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise workspace.WorkspaceError(
            f"expected a tracking store at {where}; received no answer ({reason}); start it, or unset "
            "MLFLOW_TRACKING_URI to use the line's own file"
        ) from error


def begin(store: tuple[Any, str], task: str, tags: dict[str, str]) -> str:
    """Starts the parent run of a task; returns its id."""
    client, experiment = store
    return client.create_run(
        experiment, tags={"mlflow.runName": f"onboard {task}", "task": task, "kind": "onboard", **tags}
    ).info.run_id


def link(store: tuple[Any, str], parent: str, stage: str, output: tuple[str, str]) -> None:
    """Links a stage that did not run again to the run that made its output, found by the output's hash."""
    client, experiment = store
    name, digest = output
    found = client.search_runs([experiment], filter_string=f"tags.`{name}` = '{digest}'", max_results=1)
    if found:
        client.set_tag(parent, f"restored.{stage}", found[0].info.run_id)


def finish(
    store: tuple[Any, str], parent: str, *, metrics: dict[str, float], tags: dict[str, str], failed: bool = False
) -> None:
    """Ends the parent run with what came out of it."""
    from mlflow.entities import Metric, RunTag

    client, _ = store
    now = int(time.time() * 1000)
    client.log_batch(
        parent,
        metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    client.set_terminated(parent, "FAILED" if failed else "FINISHED")
