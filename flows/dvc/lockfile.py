"""dvc.lock cut to one stage while DVC runs it: DVC parses and writes the whole file anew for each stage."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.programs import plain_yaml
from flows.programs.failures import WorkspaceError

NAME = "dvc.lock"
_HEAD = "schema: '2.0'\nstages:\n"
_STAGE = re.compile(r"^(?=  \S)", re.MULTILINE)
_TITLE = re.compile(r"  ([A-Za-z0-9][A-Za-z0-9@_-]*):\n")


@contextlib.contextmanager
def cut(folder: Path, stage: str) -> Iterator[None]:
    """Leaves only a stage's own entry in a folder's dvc.lock, and puts the others back afterwards, before and around it as they were.

    A file of another form than DVC's own is left as it is. After a death in between, the next call puts the others back first.
    """
    path, kept = folder / NAME, folder / ".dvc/tmp" / NAME
    if kept.exists():
        _restore(path, kept, ended_well=False)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    entries = parse(before)
    if entries is None or not set(entries) - {stage}:
        yield
        return
    kept.parent.mkdir(exist_ok=True)
    _write(kept, before)
    if stage in entries:
        _write(path, text({stage: entries[stage]}))
    else:
        path.unlink()
    try:
        yield
    except BaseException:
        _restore(path, kept, ended_well=False)
        raise
    _restore(path, kept, ended_well=True)


def parse(content: str) -> dict[str, str] | None:
    """Stage -> its lines, of a dvc.lock as DVC writes it; None of any other text."""
    if not content.startswith(_HEAD):
        return None
    entries: dict[str, str] = {}
    for lines in filter(None, _STAGE.split(content[len(_HEAD) :])):
        title = _TITLE.match(lines)
        if title is None or title.group(1) in entries or not lines.endswith("\n"):
            return None
        entries[title.group(1)] = lines
    return entries


def text(entries: Mapping[str, str]) -> str:
    """A dvc.lock of some entries, as `parse` gives them."""
    return _HEAD + "".join(entries.values())


def read(content: str, stages: Collection[str]) -> dict[str, Any]:
    """Stage -> its entry as plain objects, of some stages of a dvc.lock: nothing else of a long line's is parsed."""
    entries = parse(content)
    if entries is None:
        return {
            name: entry for name, entry in (plain_yaml.load(content) or {}).get("stages", {}).items() if name in stages
        }
    some = "".join(entry for name, entry in entries.items() if name in stages)
    return plain_yaml.load(f"stages:\n{some}")["stages"] if some else {}


def outs(entry: str) -> Iterator[tuple[str, str]]:
    """Path and md5 of what a stage wrote, of an entry as `parse` gives it."""
    _, _, part = entry.partition("\n    outs:\n")
    path = ""
    for line in part.splitlines():
        if not line.startswith(("    - ", "      ")):
            return
        key, _, value = line[6:].partition(": ")
        if key == "path":
            path = value
        elif key == "md5":
            yield path, value


def _restore(path: Path, kept: Path, *, ended_well: bool) -> None:
    """Puts the others back; what a DVC that did not end well left half-written is dropped."""
    entries = parse(kept.read_text(encoding="utf-8")) or {}
    now = parse(path.read_text(encoding="utf-8") if path.exists() else _HEAD)
    if now is None and ended_well:
        raise WorkspaceError(
            f"expected {NAME} as DVC writes it; received another form; what it held before is in {kept}: put it back, and use the DVC that "
            "otmf comes with"
        )
    _write(path, text(entries | (now or {})))
    kept.unlink()


def _write(path: Path, content: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)
