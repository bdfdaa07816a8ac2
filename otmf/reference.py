"""Where the files of a version lie and what they are, in place of the files: what a model registry keeps of it."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SCHEMES = ("https", "http", "ssh", "git", "file")
_SCP = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:[^\s-][^\s]*")
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

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    version: int = Field(ge=1)
    step: Annotated[str, StringConstraints(pattern=r"^s[0-9]{2,6}$")]
    files: dict[str, Sha256] = Field(min_length=1)
    record: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}\.json$")]
    record_sha256: Sha256

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str) -> str:
        """No option, no transport that starts a command, no password."""
        url = urlsplit(value)
        named = url.scheme in SCHEMES and url.path and not (url.hostname or "").startswith("-")
        if not value.isprintable() or not (value.startswith("/") or _SCP.fullmatch(value) or named):
            raise ValueError(f"expected a git repository's address or absolute path; received {value[:60]!r}")
        if url.password:
            raise ValueError("expected a repository's address without a password; received one with")
        return value

    @field_validator("files")
    @classmethod
    def _files(cls, value: dict[str, str]) -> dict[str, str]:
        for path in value:
            if not all(_NAME.fullmatch(part) for part in path.split("/")):
                raise ValueError(f"expected paths below the line's folder; received {path[:60]!r}")
        return value


def address(url: str) -> str:
    """A repository's address without the user and password that may stand in one of http(s)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
