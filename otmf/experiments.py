"""The experiment of a line in a tracking store: one of that name, whoever makes it. No client of a store is known here."""

from __future__ import annotations

from typing import Any


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
