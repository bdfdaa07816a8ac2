"""MLflow's model registry, brought in line with a line's own history: a version each, `champion` and `previous`."""

from __future__ import annotations

from flows import git, tracking, versions, workspace
from otmf import layout

CHAMPION, PREVIOUS = "champion", "previous"


def follow(store: tracking.Store, line: layout.Layout, name: str) -> None:
    """Registers the versions the registry lacks and sets both aliases. Done again, it changes nothing.

    The weights stay with DVC: the source of a registered version is an output's path at a commit, its tags name the sha256.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    entries = versions.history(line.root)
    if not entries:
        return
    with tracking.answering(store.uri):
        known = _known(store, name)
        for entry in {entry.version: entry for entry in reversed(entries)}.values():
            if entry.version not in known:
                known[entry.version] = _register(store, line, name, entry)
        wanted = {CHAMPION: versions.champion(entries), PREVIOUS: versions.previous(entries)}
        for alias, entry in wanted.items():
            if entry is not None:
                store.client.set_registered_model_alias(name, alias, known[entry.version])


def catch_up(line: layout.Layout) -> None:
    """Tells the tracking store what it missed while it was away, the registry included; nothing if it missed nothing.

    Raises:
        WorkspaceError: if it is still away.
    """
    if not any(tracking.unsent(line).glob("*")):
        return
    name = workspace.params(line).line
    store = tracking.prepare(line, name)
    if tracking.catch_up(line, store):
        follow(store, line, name)


def _known(store: tracking.Store, name: str) -> dict[int, str]:
    """Our versions -> MLflow's; the registered model is made where it is missing."""
    if not store.client.search_registered_models(filter_string=f"name = '{name}'"):
        store.client.create_registered_model(name)
    found = store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return {int(version.tags["otmf.version"]): version.version for version in found if "otmf.version" in version.tags}


def _register(store: tracking.Store, line: layout.Layout, name: str, entry: versions.Entry) -> str:
    commit = git.run(line.root, "rev-parse", f"{versions.tag(entry.version)}^{{commit}}").strip()
    tags = {"otmf.version": str(entry.version), "step": entry.step, "task": entry.task, "sha256": entry.sha256,
            "git.commit": commit, "action": entry.action, "by": entry.by, "reason": entry.reason[:500]}  # fmt: skip
    source = f"dvc://data/models/merged/{entry.step}?rev={commit}"
    return store.client.create_model_version(name, source=source, tags=tags).version
