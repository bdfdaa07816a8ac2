"""The line of models a stage runs in: its parameters, checked as a whole, and its paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from otmf import settings
from otmf.data import datasets, splits
from otmf.runtime import foreign_parsers, layout
from otmf.settings import limits


@dataclass(frozen=True)
class Line(layout.Layout):
    """A line of models with its checked parameters."""

    params_checked: settings.Params

    def task(self, name: str) -> settings.Task:
        return _known(self.params_checked.tasks, name, "task")

    def step(self, name: str) -> settings.Step:
        return _known(self.params_checked.steps, name, "step")

    @cached_property
    def order(self) -> list[str]:
        return settings.chain(self.params_checked.steps)

    def tasks_until(self, step: str) -> list[str]:
        """The tasks merged up to and with a step, in order."""
        return [self.step(name).task for name in self.order[: self.order.index(step) + 1]]

    def load(self, task: str) -> tuple[datasets.Task, splits.Split]:
        """The data of a task and its split, as set for it."""
        loaded = datasets.load(self.raw(task))
        options = self.task(task).split
        return loaded, splits.split(
            loaded, unlabelled=options.unlabelled, held_back=options.held_back, seed=options.seed
        )


def _known(section: dict[str, Any], name: str, kind: str) -> Any:
    if name not in section:
        raise ValueError(
            f"expected a {kind} of params.yaml ({', '.join(section) or 'none yet'}); received {name!r}; correct it"
        )
    return section[name]


def read(root: Path) -> Line:
    """The line in a folder. Raises SettingsError if params.yaml does not hold up."""
    found = settings.check(load_yaml(root / "params.yaml"))
    limits.apply(found.limits)
    return Line(root, found)


def load_yaml(path: Path) -> object:
    """The content of a YAML file, plain types only. Raises SettingsError if it does not parse."""
    with foreign_parsers.reading(
        lambda reason: settings.SettingsError(f"expected YAML in {path.name}; received {reason}; mend the file")
    ):
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
