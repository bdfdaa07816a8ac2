"""Which stages and data of a line are stale, and why.

`dvc status` reads all of params.yaml anew for every stage, so that its cost grows with the square of the line. Here DVC is asked once which of what
it holds has changed (`dvc data status`); what the stages were run with is in its lock, and read once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dvc import commands, lockfile, subset
from flows.programs import plain_yaml
from flows.programs.failures import WorkspaceError
from otmf.runtime import layout

_PLACE = re.compile(r"\$\{(key|item(?:\.\w+)*)\}")
_PARAMS = "params.yaml"


@dataclass(frozen=True)
class _Stage:
    """A stage of dvc.yaml with its key filled in: its command, what it reads and writes, which parameters it names."""

    command: str
    reads: list[str]
    writes: list[str]
    parameters: list[str]


def reasons(line: layout.Layout) -> dict[str, str]:
    """Stale stages, in the order of dvc.yaml, and stale data (as `data/raw/NAME.dvc`) -> what changed, in DVC's words.

    Raises:
        WorkspaceError: if dvc.yaml has places that are not filled from tasks and steps.
    """
    changed = commands.changed(line.root)
    found = _stale(line, changed)
    for other in sorted((line.root / "data").glob("*/dvc.yaml")):
        where = other.relative_to(line.root).as_posix()
        found |= {name: "changed" for name in commands.stale(line.root, [where])}
    for path, how in sorted(changed.items()):
        if (line.root / f"{path}.dvc").exists():
            found[f"{path}.dvc"] = f"changed outs: {path} {how}"
    return found


def stale(line: layout.Layout, stages: Collection[str]) -> list[str]:
    """Those of some stages of a clone's dvc.yaml that are stale; what else the line has need not be there."""
    with subset.cut(line.root, stages):
        changed = commands.changed(line.root)
    return list(_stale(line, changed, stages))


def _stale(line: layout.Layout, changed: Mapping[str, str], wanted: Collection[str] | None = None) -> dict[str, str]:
    """Stale stages of dvc.yaml, all or some -> why, given how paths are other than what DVC holds of them."""
    params = _yaml(line.params)
    locked, made = _locked(line.root / lockfile.NAME, wanted)
    found: dict[str, str] = {}
    for name, stage in _stages(_yaml(line.root / "dvc.yaml")["stages"], params):
        if wanted is not None and name not in wanted:
            continue
        for path in stage.reads:
            if path not in made and (line.root / f"{path}.dvc").exists():
                made[path] = _yaml(line.root / f"{path}.dvc")["outs"][0]["md5"]
        why = list(_why(line.root, stage, locked.get(name), params, made, changed))
        if why:
            found[name] = "; ".join(why)
    return found


def _locked(lock: Path, wanted: Collection[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Stage -> its entry in the lock, all or some; and path -> md5 of what all of them wrote."""
    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    entries = lockfile.parse(text) if wanted is not None else None
    if entries is None:
        locked = plain_yaml.load(text)["stages"] if text else {}
        return locked, {out["path"]: out["md5"] for entry in locked.values() for out in entry.get("outs", ())}
    return lockfile.read(text, wanted), {path: md5 for entry in entries.values() for path, md5 in lockfile.outs(entry)}


def _why(
    root: Path,
    stage: _Stage,
    entry: Mapping[str, Any] | None,
    params: Mapping[str, Any],
    made: Mapping[str, str],
    changed: Mapping[str, str],
) -> Iterator[str]:
    if entry is None:
        yield "never ran"
        return
    if entry["cmd"] != stage.command:
        yield "changed command"
    given = entry.get("params", {}).get(_PARAMS, {})
    for key in stage.parameters:
        if key not in given:
            yield f"changed deps: {key} new"
        elif _value(params, key) != given[key]:
            yield f"changed deps: {key} modified"
    for kind, wanted, part in (("deps", stage.reads, "deps"), ("outs", stage.writes, "outs")):
        known = {one["path"]: one["md5"] for one in entry.get(part, ())}
        for path in wanted:
            how = changed.get(path) or _compared(root, path, known.get(path), made, own=kind == "outs")
            if how:
                yield f"changed {kind}: {path} {how}"


def _compared(root: Path, path: str, known: str | None, made: Mapping[str, str], *, own: bool) -> str:
    """How a path is other than it was when the stage ran; of results, which git holds, by their content."""
    if known is None:
        return "new"
    if path.endswith(".json"):
        file = root / path
        if not file.is_file():
            return "deleted"
        return "" if hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == known else "modified"
    if own:
        return ""
    now = made.get(path)
    if now is None:  # what writes it is stale itself
        return "" if (root / path).exists() else "deleted"
    return "" if now == known else "modified"


def _stages(template: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, _Stage]]:
    for name, entry in template.items():
        if "foreach" not in entry:
            yield name, _stage(entry, "", {})
            continue
        for key, item in (params.get(entry["foreach"].strip("${}")) or {}).items():
            yield f"{name}@{key}", _stage(entry["do"], key, item)


def _stage(entry: Mapping[str, Any], key: str, item: Mapping[str, Any]) -> _Stage:
    def filled(text: str) -> str:
        def value(match: re.Match) -> str:
            return key if match[1] == "key" else str(_value({"item": item}, match[1]))

        done = _PLACE.sub(value, text)
        if "${" in done:
            raise WorkspaceError(
                f"expected ${{key}} and ${{item...}} in dvc.yaml; received {text!r}; take dvc.yaml as otmf wrote it"
            )
        return done

    def paths(part: str) -> list[str]:
        return [filled(one if isinstance(one, str) else next(iter(one))) for one in entry.get(part, ())]

    return _Stage(filled(entry["cmd"]), paths("deps"), paths("outs") + paths("metrics"), paths("params"))


def _value(content: Any, key: str) -> Any:
    """What lies at a dotted name; None where nothing does."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _yaml(path: Path) -> Any:
    return plain_yaml.load(path.read_text(encoding="utf-8"))
