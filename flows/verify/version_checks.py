"""Checks of one version: its commit, tag, parameters and stages, down to the bytes of every model and every picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.dvc import cache as dvc_cache
from flows.dvc import commands, lockfile
from flows.programs import git
from flows.verify import checks
from flows.versions import accepted_models, history
from otmf.provenance import ledger, statements


def version(found: checks.Examined, number: int, record: ledger.Record) -> Iterator[checks.Check]:
    """All of a version that was not checked with an earlier one already."""
    provenance = record.statement.predicate
    commit = accepted_models.commit_of(record)
    yield checks.Check(f"v{number}: commit {commit[:12]} and tag", _tag(found, number, record, commit))
    tree = found.objects.tree(commit)
    for resource in provenance.buildDefinition.resolvedDependencies:
        if "sha256" in resource.digest and resource.name in tree:
            received = hashlib.sha256(found.blob(tree[resource.name])).hexdigest()
            yield checks.Check(
                f"v{number}: {resource.name}", checks.differ("sha256", resource.digest["sha256"], received)
            )
    locked = found.blob(tree["dvc.lock"])
    stages, texts = _stages(found, locked)
    known = accepted_models.recorded(found.records, record)
    outs = {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", ())}
    for name, entry in stages.items():
        made = {
            path: outs[path] if path in outs else _pointer(path, tree, found)
            for path in (one["path"] for one in entry.get("deps", ()))
        }
        told = known.get(name)
        if found.first((name, texts.get(name, number), tuple(made.items()), id(told))):
            yield checks.Check(f"v{number}: stage {name} in dvc.lock", _stage(told, entry, made))
    yield from _restored(found, number, record)
    newest = number == max(found.models)
    for path, output in _contents(stages, known):
        about = f"v{number}: {path}"
        if found.first((path, output.sha256, output.md5, tree.get(path))):
            yield from checks.guarded(about, _kept(found, about, path, output, tree))
        if newest:
            yield from checks.guarded(about, _lying(found, about, path, output))


def attempt(found: checks.Examined, branch: str, record: ledger.Record) -> Iterator[checks.Check]:
    """What a refused attempt has made, which `otmf promote` would take: as its record says, or no longer there."""
    cache = commands.cache(found.root)
    for stage in record.statement.predicate.buildDefinition.otmf_stages.values():
        for path, output in stage.outputs.items():
            if output.md5 is None or not found.first((path, output.sha256, output.md5, None)):
                continue
            if dvc_cache.place(cache, output.md5).exists():
                yield from checks.guarded(f"{branch}: {path}", _cached(found, f"{branch}: {path}", path, output))
            else:
                yield checks.Check(f"{branch}: {path} (no longer in DVC's cache)", uncovered=True)


def _restored(found: checks.Examined, number: int, record: ledger.Record) -> Iterator[checks.Check]:
    """Stages whose outputs DVC took from a run that no record tells of: an attempt that died, or somebody who wrote into its run cache."""
    earlier = [
        one
        for one in found.records
        if one.index < record.index and isinstance(one.statement.predicate, statements.Provenance)
    ]
    known = {tuple(sorted((path, output.sha256) for path, output in stage.outputs.items()))
             for one in earlier for stage in one.statement.predicate.buildDefinition.otmf_stages.values()}  # fmt: skip
    for name, stage in record.statement.predicate.buildDefinition.otmf_stages.items():
        made = tuple(sorted((path, output.sha256) for path, output in stage.outputs.items()))
        if stage.outcome == "restored" and stage.run is None and made not in known:
            yield checks.Check(f"v{number}: which run made {name}, restored from DVC's run cache", uncovered=True)


def _tag(found: checks.Examined, number: int, record: ledger.Record, commit: str) -> str:
    tag, parent = found.objects.commit(f"refs/tags/{history.tag(number)}")
    if parent != commit:
        return f"expected the tag's commit to follow {commit[:12]}; received one that follows {parent[:12]}"
    tagged, place = found.objects.tree(tag), f"{ledger.FOLDER}/{record.name}"
    if tagged.get(place) != git.name(record.content):
        return f"expected {record.name} in the tag's commit; received another content or none"
    recorded = found.objects.tree(commit)
    other = sorted(
        path for path in tagged.keys() | recorded.keys() if path != place and tagged.get(path) != recorded.get(path)
    )
    if other:
        return f"expected the tag's commit to add {record.name} alone; received one that changes {', '.join(other[:3])}"
    return "" if tag in found.history else f"expected {tag[:12]} in the line's history; received a line without it"


def _stage(recorded: statements.Stage | None, entry: Mapping[str, Any], made: Mapping[str, str]) -> str:
    """What does not hold of a stage in dvc.lock; `made` is the md5 of each path it reads, as that was written."""
    if recorded is None:
        return "expected a record of the stage; received none in the ledger"
    if entry["cmd"] != recorded.command:
        return f"expected the command {recorded.command!r}; received {entry['cmd']!r}"
    if _plain(entry.get("params", {}).get("params.yaml", {})) != _plain(recorded.parameters):
        return "expected the parameters recorded; received others"
    for part, known in (("deps", recorded.inputs), ("outs", recorded.outputs)):
        named = {one["path"]: one["md5"] for one in entry.get(part, ())}
        wanted = {path: output.md5 for path, output in known.items()}
        if named != wanted:
            return f"expected {part} {_first(wanted, named)}; received {_first(named, wanted)}"
        if part == "deps" and named != made:
            return f"expected what is read as it was made, {_first(made, named)}; received {_first(named, made)}"
    return ""


def _stages(found: checks.Examined, locked: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Stage -> its entry in a dvc.lock, and stage -> its lines; what an earlier version has as well is not parsed again."""
    texts = lockfile.parse(locked.decode()) or {}
    try:
        for text in set(texts.values()) - set(found.entries):
            (found.entries[text],) = _yaml(text.encode()).values()
    except (YAMLError, ValueError):  # not as DVC writes it: entries that refer to each other, say
        texts = {}
    if not texts:
        return _yaml(locked)["stages"], {}
    return {name: found.entries[text] for name, text in texts.items()}, texts


def _pointer(path: str, tree: Mapping[str, str], found: checks.Examined) -> str:
    """The md5 in the .dvc file of some raw data."""
    name = tree[f"{path}.dvc"]
    if name not in found.pointers:
        found.pointers[name] = _yaml(found.blob(name))["outs"][0]["md5"]
    return found.pointers[name]


def _contents(
    stages: Mapping[str, Any], recorded: Mapping[str, statements.Stage]
) -> Iterator[tuple[str, statements.Output]]:
    """Every path that is written or read, once, as recorded."""
    known: dict[str, statements.Output] = {}
    for name in stages:
        if name in recorded:
            known |= recorded[name].inputs | recorded[name].outputs
    yield from sorted(known.items())


def _kept(
    found: checks.Examined, about: str, path: str, wanted: statements.Output, tree: Mapping[str, str]
) -> Iterator[checks.Check]:
    """An output or input where it is kept: in git, or in DVC's cache; in both where DVC keeps a copy of its own as well."""
    if path in tree:
        received = hashlib.sha256(found.blob(tree[path])).hexdigest()
        yield checks.Check(f"{about} in git", checks.differ("sha256", wanted.sha256, received))
        if not dvc_cache.place(commands.cache(found.root), wanted.md5).exists():
            return
    yield from _cached(found, about, path, wanted)


def _lying(found: checks.Examined, about: str, path: str, wanted: statements.Output) -> Iterator[checks.Check]:
    """One of the newest version where it lies in the workspace."""
    yield checks.Check(about, checks.differ("sha256", wanted.sha256, found.reader.path(found.root / path)))


def _cached(found: checks.Examined, about: str, path: str, wanted: statements.Output) -> Iterator[checks.Check]:
    try:
        received = found.reader.cached(commands.cache(found.root), wanted.md5)
    except FileNotFoundError as error:
        yield checks.Check(
            f"{about} in DVC's cache",
            f"expected {''.join(Path(str(error.filename)).parts[-2:])}; received nothing; fetch it with `dvc pull`",
        )
        return
    yield checks.Check(f"{about} in DVC's cache", checks.differ("sha256", wanted.sha256, received))


def _first(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first entry of a mapping that the other has not."""
    return next((f"{key} {value}" for key, value in sorted(one.items()) if other.get(key) != value), "nothing more")


def _yaml(content: bytes) -> Any:
    return YAML(typ="safe").load(content.decode())


def _plain(value: Any) -> Any:
    """Parameters as JSON would have them: whole numbers and their floats are the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
