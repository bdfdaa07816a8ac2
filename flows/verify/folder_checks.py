"""Checks of a line's folder: every file in it is as in the last commit, is DVC's, or is named as not covered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flows.dvc import commands
from flows.programs import git
from flows.verify import checks, commit_checks
from flows.versions import accepted_models
from otmf.runtime import layout

OWN = (".git", ".otmf", ".dvc/cache", ".dvc/tmp")  # run-time state, which is no part of a version
READ_BY_DVC = (".dvcignore", "dvc.yaml", "dvc.lock")
WITHOUT_MORE = ("data/backbones", "data/cards", "data/lineage", "data/results", "data/raw", "data/models")


def folder(found: checks.Examined) -> Iterator[checks.Check]:
    entries = found.objects.entries("HEAD")
    yield from _committed(found, entries)
    yield from _links(found, entries)
    yield from _others(found, set(entries))
    yield from _settings(found)


def _committed(found: checks.Examined, entries: dict[str, tuple[str, str]]) -> Iterator[checks.Check]:
    """The files of the last commit, read whole, whatever git has been told to overlook."""
    for path in found.objects.unwatched():
        yield checks.Check(
            f"file {path}", "expected git to look at it; received an index that says not to; see git ls-files -v"
        )
    for path, (mode, name) in entries.items():
        there = found.root / path
        trouble = ""
        if there.is_symlink() or not there.is_file():
            trouble = "expected the file of the last commit; received none; restore it from git"
        elif git.name(there.read_bytes()) != name:
            trouble = "expected the content of the last commit; received another; compare it with git diff"
        elif mode in (commit_checks.FILE, commit_checks.PROGRAM) and _runs(there) != (mode == commit_checks.PROGRAM):
            trouble = f"expected mode {mode} as in the last commit; received another; compare it with git diff"
        if trouble:
            yield checks.Check(f"file {path}", trouble)
    yield checks.Check("files as in the last commit")


def _links(found: checks.Examined, entries: dict[str, tuple[str, str]]) -> Iterator[checks.Check]:
    """Links among the folders that hold a line's files, and in what DVC holds, unless they lead into DVC's cache."""
    folders = {parent.as_posix() for path in [*entries, *_made(found)] for parent in PurePosixPath(path).parents} - {
        "."
    }
    cache = commands.cache(found.root).resolve()
    inside = (one for name in _made(found) for one in _below(found.root / name) if one.is_symlink())
    linked = [found.root / name for name in sorted({".git", ".dvc", *folders}) if (found.root / name).is_symlink()]
    linked += [one for one in inside if not one.resolve().is_relative_to(cache)]
    for one in commands.no_files(found.root):
        yield checks.Check(
            f"file {one.relative_to(found.root).as_posix()}",
            "expected a file or a folder; received a pipe, a socket or a device, which never ends for who reads it; delete it",
        )
    for one in linked:
        yield checks.Check(
            f"file {one.relative_to(found.root).as_posix()}",
            "expected a file or folder of its own; received a link; put back what it leads to",
        )


def _others(found: checks.Examined, committed: set[str]) -> Iterator[checks.Check]:
    """What lies in the folder and is neither in the last commit nor recorded as read or written by a stage."""
    known = set(_made(found)) | committed
    made = tuple(f"{path}/" for path in _made(found))
    for path in _lying(found.root):
        if path in known or path.startswith(made):
            continue
        name = PurePosixPath(path).name
        if (
            name.endswith(".dvc")
            or name in READ_BY_DVC
            or path.startswith(tuple(f"{one}/" for one in WITHOUT_MORE))
            or str(PurePosixPath(path).parent) == "data"
        ):
            yield checks.Check(
                f"file {path}", "expected no such file in the last commit; received one; move it away, or commit it"
            )
        else:
            yield checks.Check(path, uncovered=True)


def _settings(found: checks.Examined) -> Iterator[checks.Check]:
    """The repository's own settings: none may name a command. What else is said there is named."""
    for key in git.commands(found.root):
        yield checks.Check(
            f"git configuration: {key}",
            "expected none that names a command or leads git elsewhere; received one, which otmf does not follow but a git of yours would; "
            "remove it with git config --unset-all",
        )
    yield checks.Check("git configuration names no command")
    yield checks.Check(".git/config", uncovered=True)
    hooks = found.root / ".git/hooks"
    for path in sorted(hooks.glob("*")) if hooks.is_dir() else ():
        if path.suffix != ".sample":
            yield checks.Check(f".git/hooks/{path.name}", uncovered=True)
    exclude = found.root / ".git/info/exclude"
    if exclude.is_file() and any(
        line.strip() and not line.startswith(b"#") for line in exclude.read_bytes().splitlines()
    ):
        yield checks.Check(".git/info/exclude", uncovered=True)
    if any(found.layout.predictions.glob("*.jsonl")):
        yield checks.Check(f"{found.layout.predictions.relative_to(found.root)} (what was predicted)", uncovered=True)


def _made(found: checks.Examined) -> list[str]:
    """Paths that the newest version's stages read or wrote, as recorded."""
    if not found.models:
        return [layout.Layout(Path()).raw("pretrained").as_posix()]
    stages = accepted_models.recorded(found.records, found.models[max(found.models)])
    return sorted({path for stage in stages.values() for path in (*stage.inputs, *stage.outputs)})


def _lying(root: Path) -> list[str]:
    """Every file and link below a folder, less run-time state; a folder that is a link counts as one."""
    found: list[str] = []
    for where, folders, files in os.walk(root):
        here = Path(where).relative_to(root)
        found += [(here / name).as_posix() for name in files]
        found += [(here / name).as_posix() for name in folders if (Path(where) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if (here / name).as_posix() not in OWN)
    return sorted(found)


def _below(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]


def _runs(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)
