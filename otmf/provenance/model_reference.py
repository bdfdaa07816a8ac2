"""Where the files of a version lie and what they are, in place of the files: what a model registry keeps of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from otmf.runtime import layout

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SCHEMES = ("https", "http", "ssh", "git", "git+ssh", "file")
MOST = 1000
_SCP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]+:[A-Za-z0-9/~._][^\s:]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Reference(BaseModel):
    """A version by its files' content.

    Attributes:
        repository: the line's git repository: an address, or an absolute path.
        commit: that holds the version.
        version, step: ours.
        files: path below the line's folder -> sha256; all that is needed to serve the version.
        record, record_sha256: of the ledger, which says how it was made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    repository: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    version: int = Field(ge=1)
    step: Annotated[str, StringConstraints(pattern=r"^s[0-9]{2,6}$")]
    files: dict[str, Sha256] = Field(min_length=1, max_length=MOST)
    record: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}\.json$")]
    record_sha256: Sha256

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str) -> str:
        """No option, no transport that starts a command, no password."""
        if not is_repository(value):
            raise ValueError(
                "expected a git repository's address without a password, or an absolute path; received another"
            )
        return value

    @field_validator("files")
    @classmethod
    def _files(cls, value: dict[str, str]) -> dict[str, str]:
        for path in value:
            if not all(_NAME.fullmatch(part) for part in path.split("/")):
                raise ValueError(f"expected paths below the line's folder; received {path[:60]!r}")
        return value

    @model_validator(mode="after")
    def _names_the_encoder(self) -> Reference:
        if self.encoder not in self.files:
            raise ValueError(f"expected {self.encoder} among the files; received none of that name")
        return self

    @property
    def encoder(self) -> str:
        """Path of the encoder's weights below the line's folder."""
        return (layout.Layout(Path()).merged(self.step) / "model.safetensors").as_posix()


def is_repository(value: str) -> bool:
    """Whether this is an address or path that git takes as one, holds no password, and can be mistaken for nothing else."""
    try:
        url = urlsplit(value)
        named = (
            url.scheme in SCHEMES
            and url.path
            and not url.netloc.startswith("-")
            and not (url.hostname or "").startswith("-")
        )
    except ValueError:
        return False
    if not value.isprintable() or url.password is not None:
        return False
    return value.startswith("/") or bool(named) or (not url.netloc and _SCP.fullmatch(value) is not None)


def address(url: str) -> str:
    """A repository's address without a password; without a user too where it is one of http(s), whose user may be a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url
    kept = "" if parts.scheme in ("http", "https") else user.partition(":")[0] + "@"
    return parts._replace(netloc=kept + host).geturl()
