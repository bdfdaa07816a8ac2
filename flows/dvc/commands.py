"""The only place that starts DVC."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from configobj import ConfigObj, ConfigObjError
from ruamel.yaml import YAML

from flows.dvc import lockfile
from flows.programs import plain_yaml, process
from flows.programs.failures import WorkspaceError
from flows.programs.git_settings import SETTINGS
from otmf.runtime.environment import NOWHERE

Outcome = Literal["ran", "restored", "unchanged"]
_RUNNING = re.compile(r"^Running stage '(.+)':$")
_RESTORED = re.compile(r"^Stage '(.+)' is cached - skipping run")
_DVC = (sys.executable, "-m", "stages.warm.dvc")
# DVC reads git's settings with a library of its own, which takes the user's ignore file from where XDG says.
_OURS = {**SETTINGS, "XDG_CONFIG_HOME": NOWHERE}
_SETTINGS = {
    "core": {"analytics": "false", "check_update": "false", "autostage": "false"},
    "cache": {"type": "reflink,hardlink,copy"},
}


_CHATTER = re.compile(
    r"^$|^(To track the changes with git|To enable auto staging|Use `dvc push`)|^\s+(git add |dvc config core\.autostage)"
)


def stage(
    line: Path,
    target: str,
    *,
    log: Callable[[str], None],
    extra: Mapping[str, str] | None = None,
    force: bool = False,
    pull: bool = False,
    keep: bool = True,
) -> Outcome:
    """Brings one stage up to date; says whether it ran, was restored from the cache, or had nothing to do.

    Args:
        line: the folder.
        target: the stage.
        log: takes each line of output.
        extra: further environment.
        force: run it whatever DVC knows of it.
        pull: look for its outputs in the DVC remote as well, by the runs recorded there. What it reads must lie in the
            folder already: of what does not, DVC takes what it last knew.
        keep: whether its outputs go into DVC's cache.

    Raises:
        ProcessError: with the stage's own sentence, if it fails.
    """
    flags = {"--force": force, "--pull": pull, "--no-commit": not keep}
    options = [flag for flag, wanted in flags.items() if wanted]
    with lockfile.cut(line, target):
        lines = process.pump(
            [*_DVC, "--wait-for-lock", "repro", "--single-item", *options, target],
            folder=line,
            log=_without_chatter(log),
            extra={**_OURS, **(extra or {})},
        )
    if any(_RESTORED.match(found) for found in lines):
        return "restored"
    return "ran" if any(_RUNNING.match(found) for found in lines) else "unchanged"


def _without_chatter(log: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: None if _CHATTER.match(text) else log(text)


def start(line: Path) -> None:
    """Makes a git folder a DVC folder: telemetry off, hard links before copies."""
    _call(line, "init")
    _configure(line / ".dvc/config", _SETTINGS)


def share_cache(line: Path, owner: Path) -> None:
    """Gives a clone the owner's settings that are not versioned, and has it use the owner's cache."""
    content = _configuration(owner / ".dvc/config.local")  # what a person keeps out of git: passwords of remotes, say
    content.merge({"cache": {"dir": str(cache(owner).resolve())}})
    content.filename = str(line / ".dvc/config.local")
    content.write()


def cache(line: Path) -> Path:
    """The folder of DVC's cache."""
    for name in ("config.local", "config"):
        own = _configuration(line / ".dvc" / name).get("cache", {})
        if "dir" in own:
            return line / ".dvc" / own["dir"]
    return line / ".dvc/cache"


def _configure(path: Path, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Writes DVC's configuration without starting DVC, which takes half a second a time."""
    content = _configuration(path)
    content.merge(settings)
    content.write()


def _configuration(path: Path) -> ConfigObj:
    try:
        return ConfigObj(str(path), encoding="utf-8", interpolation=False)
    except (ConfigObjError, UnicodeError) as error:
        raise ValueError(
            f"expected DVC's configuration in {path}; received text that does not parse; restore the file from git"
        ) from error


def track(line: Path, path: Path) -> None:
    """Puts a folder of data under DVC."""
    _call(line, "add", str(path.relative_to(line)))


def untrack(line: Path, path: Path) -> None:
    """Takes a folder of data out of DVC; the cache keeps it."""
    _call(line, "remove", f"{path.relative_to(line)}.dvc")


def forget(line: Path, stages: set[str]) -> None:
    """Drops stages that dvc.yaml no longer makes from dvc.lock."""
    path = line / "dvc.lock"
    yaml = YAML(typ="rt")
    content = yaml.load(path.read_text(encoding="utf-8"))
    for stage in stages & set(content["stages"]):
        del content["stages"][stage]
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def checkout(line: Path, targets: Sequence[str] = ()) -> None:
    """Brings data and outputs in line with dvc.lock, from the cache."""
    _call(line, "checkout", "--force", "--allow-missing", *targets)


def pull(line: Path, targets: Sequence[str] = ()) -> None:
    """Brings data and outputs from the DVC remote, as dvc.lock and the data's own files name them.

    Targets must be there; without targets it is everything, less what nobody has made yet.
    """
    _call(line, "--wait-for-lock", "pull", "--force", *(targets or ["--allow-missing"]))


def push(line: Path, targets: Sequence[str] = (), *, runs: bool = False) -> None:
    """Puts data and outputs, of all or of some, into the DVC remote; with `runs` also the record of which run made which.

    Targets are paths of data and outputs, or stages. Not `.dvc` files: DVC 3.67.1 silently leaves out what is named after one.
    """
    _call(line, "--wait-for-lock", "push", *(["--run-cache"] if runs else []), *targets)


def has_remote(line: Path, *, versioned: bool = False) -> bool:
    """Whether the line has a default DVC remote; with `versioned`, one that every clone of it has as well."""
    names = ("config",) if versioned else ("config", "config.local")
    return any("remote" in _configuration(line / ".dvc" / name).get("core", {}) for name in names)


def stale(line: Path, targets: Sequence[str] = ()) -> list[str]:
    """Names of stages and data that are not up to date, of some or of all; of a long line `flows.dvc.staleness` knows sooner."""
    text = _call(line, "status", *targets)
    return [found[:-1] for found in text.splitlines() if found and not found[0].isspace() and found.endswith(":")]


def changed(line: Path) -> dict[str, str]:
    """Path -> how it is other than what DVC holds of it, modified or deleted, of outputs and data.

    DVC is told that there is no git: it would read the whole line once more, as of the last commit, to say what nobody here asks.
    """
    if odd := next(no_files(line), None):
        raise WorkspaceError(
            f"expected files and folders in {line.name}; received a pipe, a socket or a device at {odd.relative_to(line)}; delete it"
        )
    with tempfile.TemporaryDirectory() as settings:
        _configure(Path(settings) / "config", {"core": {"no_scm": "true"}})
        extra = {**_OURS, "DVC_SYSTEM_CONFIG_DIR": settings}
        found = json.loads(process.run([*_DVC, "data", "status", "--json"], folder=line, extra=extra) or "{}")
    return {
        path.rstrip("/"): kind
        for kind in ("modified", "deleted")
        for path in found.get("uncommitted", {}).get(kind, ())
    }


def held(line: Path, stages: Sequence[str]) -> list[tuple[str, str]]:
    """Path and md5 of all data of a line, and of the models of some stages, as its `.dvc` files and its dvc.lock name them."""
    yaml = YAML(typ="safe")
    named = [yaml.load(path.read_text(encoding="utf-8"))["outs"][0] | {"path": str(path.with_suffix("").relative_to(line))}
             for path in sorted((line / "data/raw").glob("*.dvc"))]  # fmt: skip
    lock = line / lockfile.NAME
    entries = (lockfile.parse(lock.read_text(encoding="utf-8")) if lock.exists() else None) or {}
    for stage in stages:
        if stage in entries:
            outs = yaml.load(entries[stage])[stage].get("outs", ())
            named += [out for out in outs if out["path"].startswith("data/models/")]
    return [(out["path"], out["md5"]) for out in named if "md5" in out]


def no_files(line: Path) -> Iterator[Path]:
    """What lies in a line's data and is neither a file, nor a folder, nor a link: DVC would wait for its end for ever."""
    for where, _, names in os.walk(line / "data"):
        with os.scandir(where) as entries:
            odd = {entry.name for entry in entries if not (entry.is_symlink() or entry.is_dir() or entry.is_file())}
        yield from (Path(where) / name for name in names if name in odd)


def inputs(line: Path, stage: str, task: str, previous: str) -> list[str]:
    """What a stage of dvc.yaml reads, as paths; of outputs and data that DVC holds, those of git left out.

    Args:
        line: the folder.
        stage: name, with its key.
        task, previous: what `${item.task}` and `${item.previous}` stand for in a stage over steps.
    """
    name, _, key = stage.partition("@")
    found = plain_yaml.load((line / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    named = {"${key}": key, "${item.task}": task, "${item.previous}": previous}
    deps = found.get("do", found)["deps"]
    paths = [_filled(path, named) for path in deps]
    return [path for path in paths if not path.startswith("data/results/")]


def _filled(path: str, named: Mapping[str, str]) -> str:
    for placeholder, value in named.items():
        path = path.replace(placeholder, value)
    return path


def _call(line: Path, *arguments: str) -> str:
    return process.run([*_DVC, *arguments], folder=line, extra=_OURS)
