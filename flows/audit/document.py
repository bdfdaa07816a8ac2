"""The document about one version of a line. Its JSON form has a published schema (docs/audit.schema.json); the page, the bill of
materials, the events and the model card are other forms of it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from otmf.provenance import statements

SCHEMA = "urn:otmf:audit:1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Broken(_Part):
    """A check that does not hold."""

    about: str
    trouble: str


class Data(_Part):
    """The data of a task, or of the base.

    Attributes:
        sha256, md5: of its folder.
        images: part of the split -> number; empty for the base.
        test_sha256: of the test part.
    """

    path: str
    sha256: str
    md5: str | None
    images: dict[str, int] = {}
    test_sha256: str = ""


class Task(_Part):
    """A task in the model.

    Attributes:
        name, title, description, owner, licence: as its card says.
        source: of its images.
        origin: `fine-tuned here`, or `checkpoint from elsewhere`.
        labels: what its labels were used for.
        step: where it came in.
        base, finetuned: accuracies of the base and of its expert, as fractions.
        accuracy: step -> accuracy of the merged model after it.
    """

    name: str
    title: str
    description: str
    owner: str
    licence: str
    source: str
    origin: str
    labels: str
    step: str
    data: Data
    base: float
    finetuned: float
    accuracy: dict[str, float]


class Step(_Part):
    """A merge.

    Attributes:
        changes: older task -> change of its accuracy by this merge, as a fraction.
        saw: what the merge was given, by its trace.
        heads: which changed after it: `frozen` none, `aligned` without labels, `previous` or `all` tuned on labels.
        aligned: task -> unlabelled inputs that its head was aligned on.
        record: file of the record of its making.
    """

    step: str
    task: str
    method: str
    parameters: dict[str, Any]
    saw: dict[str, Any]
    heads: str
    aligned: dict[str, int]
    acc: float
    bwt: float | None
    changes: dict[str, float]
    record: str
    sha256: str


class Decided(_Part):
    """A record of the ledger: what was decided, and which keys signed it."""

    record: str
    sha256: str
    signed_by: list[str]
    decision: statements.Decision


class Audit(_Part):
    """The document about one version. `deviations` come first, whatever else is right."""

    schema_id: str = Field(default=SCHEMA, alias="$schema")
    line: str
    version: int
    serves: str
    step: str
    sha256: str
    encoder: str
    reads: str
    commit: str
    generated: datetime
    deviations: list[str]
    checks_held: int
    checks_broken: list[Broken]
    not_covered: list[str]
    base: Data
    base_licence: str
    tasks: list[Task]
    steps: list[Step]
    decisions: list[Decided]
    stages: dict[str, statements.Stage]
    packages: dict[str, str]
    flow_run: str
    runs: dict[str, str]
    host: dict[str, str]
    started: datetime
    finished: datetime


def schema() -> dict[str, Any]:
    """The JSON schema of the document."""
    return {"$id": SCHEMA, **Audit.model_json_schema(by_alias=True, mode="serialization")}


def as_json(found: Audit) -> str:
    """The document as JSON."""
    return json.dumps(found.model_dump(mode="json", by_alias=True), indent=1) + "\n"


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
