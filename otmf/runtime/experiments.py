"""The experiment of a line in a tracking store: one of that name, whoever makes it. No client of a store is known here."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from filelock import FileLock


def opening(where: str) -> contextlib.AbstractContextManager[Any]:
    """What to open a store in: a file is opened by one process at a time, as the first of them makes its tables.

    Args:
        where: address of the store; a file's begins with `sqlite:///`, and its folder must exist.
    """
    scheme, _, path = where.partition(":///")
    return FileLock(Path(path).with_suffix(".lock")) if scheme == "sqlite" and path else contextlib.nullcontext()


def found_or_made(client: Any, name: str, location: str | None) -> str:
    """The id of the experiment of that name; made where it is missing.

    Two that find it missing at the same time may both try to make it: the store lets one, and the other takes what that one made.

    Args:
        client: an MLflow client.
        location: of the artifacts of an experiment that is made; None: where the store puts them.

    Raises:
        Exception: what the client raised, if the experiment is neither there nor could be made.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name, artifact_location=location)
    except Exception:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id
