"""What a check of a line is, and what the checks share: the line's records, and what was read of it already."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from flows.dvc import cache
from flows.programs import git, process
from flows.versions import accepted_models
from otmf.provenance import ledger
from otmf.runtime import layout


@dataclass(frozen=True)
class Check:
    """One check: what it is about, and what does not hold; empty if it holds.

    With `uncovered` it is no check: it names something that lies in the line and that no record tells of.
    """

    about: str
    trouble: str = ""
    uncovered: bool = False


@dataclass
class Examined:
    """A line under examination: its records, those of accepted models by version, and what was read already."""

    layout: layout.Layout
    records: list[ledger.Record]
    objects: git.Objects
    reader: cache.Reader = field(default_factory=cache.Reader)
    blobs: dict[str, bytes] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    seen: set[object] = field(default_factory=set)

    @property
    def root(self) -> Path:
        return self.layout.root

    @property
    def models(self) -> dict[int, ledger.Record]:
        return accepted_models.models(self.records)

    @functools.cached_property
    def history(self) -> set[str]:
        """The commits of the line, the last one with all before it."""
        return self.objects.history()

    def first(self, what: object) -> bool:
        """Whether this is asked for the first time; later versions share nearly everything with earlier ones."""
        known = what in self.seen
        self.seen.add(what)
        return not known

    def blob(self, name: str) -> bytes:
        if name not in self.blobs:
            self.blobs[name] = self.objects.blob(name)
        return self.blobs[name]


def guarded(about: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Turns what cannot even be read into a check that does not hold."""
    try:
        yield from checks
    except (process.ProcessError, OSError, ValueError, KeyError, TypeError, YAMLError) as error:
        yield Check(
            about, f"expected to read all of it; received {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )


def differ(kind: str, wanted: str, received: str) -> str:
    """What does not hold where two hashes are not the same; empty if they are."""
    return "" if wanted == received else f"expected {kind} {wanted[:16]}; received {received[:16]}"
