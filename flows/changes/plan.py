"""What a retraining would run, why and for how long.

DVC decides in the end; `dvc repro --dry` cannot be asked beforehand (it fails on a line that never ran).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.dvc import staleness
from flows.services import tracking
from otmf.runtime import layout

OVERHEAD = 2.0


@dataclass(frozen=True)
class Planned:
    """A stage that would run.

    Attributes:
        stage: name in dvc.yaml.
        why: what changed, or which stage it follows.
        seconds: its last run took, DVC's own part included; None if it never ran here.
    """

    stage: str
    why: str
    seconds: float | None


def forced(tasks: Iterable[str]) -> dict[str, str]:
    """The stages that training some tasks again begins with."""
    return {f"finetune@{task}": "asked for" for task in tasks}


def changed(line: layout.Layout) -> dict[str, str]:
    """The stages that are stale, with the reasons."""
    return {stage: why for stage, why in staleness.reasons(line).items() if not stage.endswith(".dvc")}


def timed(wanted: Mapping[str, str], store: tracking.Store) -> list[Planned]:
    """The plan, with the seconds of each stage's last run in the tracking store."""
    seconds = tracking.seconds(store, wanted)
    return [
        Planned(stage, why, seconds[stage] + OVERHEAD if stage in seconds else None) for stage, why in wanted.items()
    ]
