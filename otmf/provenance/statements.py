"""What a record of the ledger says: an in-toto Statement (v1) with SLSA Provenance (v1) where a model was made.

The decision about the model and the record's place in the chain stand beside the standard's own fields, under names that
begin with `otmf_`, as SLSA asks of extensions. A record of a decision alone has a predicate of our own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
DECISION = "urn:otmf:decision:1"
BUILD = "urn:otmf:merge:1"
BUILDER = "urn:otmf:coordinator:1"
START = "0" * 64
Action = Literal["accepted", "overridden", "refused", "quarantined", "retired", "rolled_back", "key"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resource(_Part):
    """A file or folder by its content: in-toto's ResourceDescriptor.

    Attributes:
        name: path below the line's folder.
        digest: sha256 of a file; dirSha256 of a folder, as `otmf.provenance.digests.digest`; gitCommit.
        annotations: md5 as DVC has it, and the like.
    """

    name: str
    digest: dict[str, str]
    annotations: dict[str, Any] | None = None


class Finding(_Part):
    """A rule of the gate applied, as `otmf.evaluation.gate.Finding`."""

    rule: str
    about: str
    figure: float
    bound: float
    holds: bool


class Decision(_Part):
    """What was decided, by whom and why.

    Attributes:
        action: accepted by the gate; overridden against it; refused or put in quarantine by it; a task retired; rolled back to an
            earlier version; a key that signs from the next record on.
        version: that serves from here on; None where the decision changes nothing of that.
        step, task: what the version, or the attempt refused, ends with; empty for a key.
        sha256: of the encoder's file, or of the key's.
        by, reason: who and why; `gate` where no person did.
        at: when, UTC.
        findings: the gate's rules, where it was asked.
    """

    action: Action
    version: int | None = None
    step: str = ""
    task: str = ""
    sha256: str
    by: str
    reason: str
    at: datetime
    findings: list[Finding] = []


class Place(_Part):
    """A record's place in the chain: number, from 1, and sha256 of the file before it (zeros at the first)."""

    index: int
    previous: str


class Output(_Part):
    """An output of a stage: sha256 (of a folder: as `otmf.provenance.digests.digest`), and md5 as DVC has it, if DVC holds it."""

    sha256: str
    md5: str | None = None


class Stage(_Part):
    """A stage of dvc.yaml, as it made what the record is about.

    Attributes:
        command: as DVC ran it.
        outcome: ran, restored or unchanged.
        inputs, outputs: path -> content.
        parameters: as dvc.lock has them.
        run: MLflow's id of the run that made the outputs, if the store knew one.
        host: what that run said of its machine.
    """

    command: str
    outcome: str
    inputs: dict[str, Output]
    outputs: dict[str, Output]
    parameters: dict[str, Any]
    run: str | None = None
    host: dict[str, str] = {}


class BuildDefinition(_Part):
    """What went in: SLSA's buildDefinition."""

    buildType: Literal["urn:otmf:merge:1"] = BUILD  # noqa: N815
    externalParameters: dict[str, Any]  # noqa: N815
    internalParameters: dict[str, Any]  # noqa: N815
    resolvedDependencies: list[Resource]  # noqa: N815
    otmf_stages: dict[str, Stage]


class Builder(_Part):
    """Who made it: SLSA's builder; `version` holds package -> version."""

    id: Literal["urn:otmf:coordinator:1"] = BUILDER
    version: dict[str, str]


class BuildMetadata(_Part):
    """When, and under which flow run: SLSA's metadata."""

    invocationId: str  # noqa: N815
    startedOn: datetime  # noqa: N815
    finishedOn: datetime  # noqa: N815


class RunDetails(_Part):
    """How it was made: SLSA's runDetails."""

    builder: Builder
    metadata: BuildMetadata
    otmf_host: dict[str, str]
    otmf_runs: dict[str, str]


class Provenance(_Part):
    """SLSA Provenance v1 of a merged model, with the decision about it."""

    buildDefinition: BuildDefinition  # noqa: N815
    runDetails: RunDetails  # noqa: N815
    otmf_decision: Decision
    otmf_ledger: Place


class Decided(_Part):
    """A decision alone; for action `key`, the public key in PEM."""

    otmf_decision: Decision
    otmf_ledger: Place
    key: str | None = None


class Statement(BaseModel):
    """An in-toto Statement of ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT, alias="_type")
    subject: list[Resource] = Field(min_length=1)
    predicateType: Literal["https://slsa.dev/provenance/v1", "urn:otmf:decision:1"]  # noqa: N815
    predicate: Provenance | Decided

    @model_validator(mode="after")
    def _one_of_two(self) -> Statement:
        if (self.predicateType == PROVENANCE) != isinstance(self.predicate, Provenance):
            raise ValueError(f"expected a predicate of type {self.predicateType}; received another; restore the record")
        return self

    @property
    def decision(self) -> Decision:
        return self.predicate.otmf_decision

    @property
    def place(self) -> Place:
        return self.predicate.otmf_ledger
