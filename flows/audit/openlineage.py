"""A version's stages as OpenLineage events: one run per stage, its inputs and outputs as data sets with their hashes."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
from openlineage.client.generated.job_type_job import JobTypeJobFacet
from openlineage.client.transport.file import FileConfig, FileTransport

from flows.audit.document import Audit
from otmf.provenance import statements

PRODUCER = "urn:otmf:openlineage:1"
SERVER = "OPENLINEAGE_URL"


def events(found: Audit) -> list[RunEvent]:
    """A start and an end for each stage, in the order of the lock; the same version gives the same events."""
    return [
        event
        for name, stage in found.stages.items()
        for event in (
            _event(found, name, stage, RunState.START, found.started),
            _event(found, name, stage, RunState.COMPLETE, found.finished),
        )
    ]


def write(found: Audit, path: Path) -> None:
    """Writes the events to a file, one per line, through OpenLineage's own transport."""
    path.unlink(missing_ok=True)
    transport = FileTransport(FileConfig(log_file_path=str(path), append=True))
    for event in events(found):
        transport.emit(event)


def send(found: Audit) -> int:
    """Sends the events to the server of OPENLINEAGE_URL; returns their number, 0 if none is set."""
    if not os.environ.get(SERVER):
        return 0
    client = OpenLineageClient()
    sent = events(found)
    for event in sent:
        client.emit(event)
    client.close()
    return len(sent)


def _event(found: Audit, name: str, stage: statements.Stage, state: RunState, at: datetime) -> RunEvent:
    made = "/".join(sorted(output.sha256 for output in stage.outputs.values()))
    facets = {"jobType": JobTypeJobFacet(processingType="BATCH", integration="DVC", jobType="STAGE", producer=PRODUCER)}
    return RunEvent(
        eventType=state,
        eventTime=at.isoformat(),
        run=Run(runId=str(uuid5(NAMESPACE_URL, f"{found.line}/{name}/{made}"))),
        job=Job(namespace=f"otmf:{found.line}", name=name, facets=facets),
        producer=PRODUCER,
        inputs=[InputDataset(f"otmf:{found.line}", path, facets=_version(content)) for path, content in stage.inputs.items()],
        outputs=[OutputDataset(f"otmf:{found.line}", path, facets=_version(content)) for path, content in stage.outputs.items()],
    )  # fmt: skip


def _version(content: statements.Output) -> dict[str, DatasetVersionDatasetFacet]:
    return {"version": DatasetVersionDatasetFacet(datasetVersion=f"sha256:{content.sha256}", producer=PRODUCER)}
