"""A line of models as a git and DVC folder: made, opened, held for one change at a time, and changed only by whole commits."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from flows.dvc import commands
from flows.line import encoders
from flows.programs import git, plain_yaml
from flows.programs.failures import WorkspaceError
from otmf import settings
from otmf.data import cards, gathering
from otmf.runtime import foreign_parsers, layout, processes, strict_yaml
from otmf.settings import names

PARTS = (
    "data",
    ".dvc",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "prefect.yaml",
)  # of a line, in git
TEMPLATE = ("dvc.yaml", "params.yaml", "prefect.yaml", "data/backbones")
IGNORED = "# outputs and run-time state are DVC's and otmf's\n/data/models/\n/.otmf/\n/data/inbox/\n/report.html\n"


def template() -> Path:
    """The folder with the files a new line starts from: inside the installed package, or the repository's root."""
    packaged = Path(str(resources.files("flows"))) / "template"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2]


def create(
    folder: Path,
    *,
    name: str | None = None,
    base: Path | None = None,
    params: Path | None = None,
    backbone: Path | None = None,
) -> None:
    """A new line of models in a folder that does not exist or is empty, committed; made whole or not at all.

    Args:
        folder: where.
        name: of the line; the folder's own name if that is a slug, else `line`.
        base: a base card; the embedded mixture's otherwise.
        params: a params.yaml to start from, whole or in part: what it leaves out is the template's.
        backbone: a JSON configuration of an encoder, copied into the line and named in its parameters.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(
            f"expected a new or empty folder; received {folder}, which has content; choose another name"
        )
    require_plain(folder.resolve())
    base = base or template() / "data/cards/pretrained.yaml"
    card = cards.read_base(base)
    given = None if params is None else (params.name, _load(params))
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fill(folder, card, base, given, name or _slug(folder), backbone)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir()
        raise


def _fill(
    folder: Path, card: cards.BaseCard, base: Path, given: tuple[str, Any] | None, name: str, backbone: Path | None
) -> None:
    line = layout.Layout(folder.resolve())
    for part in TEMPLATE:
        source, target = template() / part, line.root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    document = _load(line.params)
    if given is not None:
        _lay_over(document, given[1])
    document["line"] = name
    if backbone is not None:
        if not backbone.is_file() or backbone.suffix != ".json":
            raise WorkspaceError(
                f"expected a JSON file of a backbone; received {backbone}; see data/backbones for the form"
            )
        shutil.copyfile(backbone, line.root / "data/backbones" / backbone.name)
        document["backbone"] = {"model": f"data/backbones/{backbone.name}"}
    if card.backbone is not None:
        if backbone is not None:
            raise WorkspaceError(
                f"expected one encoder; received that of the base's card and {backbone}; leave out one of them"
            )
        document["backbone"] = {"model": settings.OF_THE_BASE}
    try:
        write_params(line, document)
        encoders.require_known(line.root, params(line).backbone.model)
    except settings.SettingsError as error:  # the file is the one that was given, not its copy
        raise settings.SettingsError(
            str(error).replace(line.params.name, given[0] if given else line.params.name)
        ) from error
    line.base_card.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base, line.base_card)
    (line.root / ".gitignore").write_text(IGNORED, encoding="utf-8")
    gathering.gather_base(card, base.parent, line.raw("pretrained"))
    git.run(line.root, "init", "--quiet", "--initial-branch", "main")
    commands.start(line.root)
    commands.track(line.root, line.raw("pretrained"))
    commit(line.root, f"Start line {name}")


def _lay_over(document: Any, given: Any) -> None:
    """Puts values in place of a document's own, mapping by mapping; a mapping for something else takes its place whole."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _lay_over(document[key], value)
        else:
            document[key] = value


def require_plain(folder: Path) -> None:
    """Refuses a path that MLflow's and Prefect's databases, git or DVC would read as something else. Raises WorkspaceError."""
    bad = [one for one in str(folder) if one == "?" or not one.isprintable()]
    if bad:
        raise WorkspaceError(
            f"expected a folder for a line whose path has no question mark and no character that cannot be printed; received {bad[0]!a} in "
            f"{str(folder)!a}; choose or rename the folder"
        )


def open_line(folder: Path) -> layout.Layout:
    """The line in a folder.

    Raises:
        WorkspaceError: if there is none, or none that can be worked on.
    """
    require_plain(folder.resolve())
    line = layout.Layout(folder.resolve())
    if not (line.params.is_file() and (line.root / ".dvc").is_dir() and (line.root / ".git").exists()):
        raise WorkspaceError(
            f"expected a line of models in {folder}; received a folder without one; make it with `otmf init`, or "
            "name another with --line"
        )
    links = [path for path in (line.private, *line.private.glob("*"), *line.tracking.glob("*")) if path.is_symlink()]
    if links:
        raise WorkspaceError(
            f"expected a line that keeps its run-time state in itself; received the link {links[0].relative_to(line.root)}, which leads elsewhere; "
            "remove it"
        )
    return line


def params(line: layout.Layout) -> settings.Params:
    """The line's parameters, checked as a whole. Raises SettingsError if they do not hold up."""
    return _checked(_text(line.params), line.params.name)


@functools.lru_cache(maxsize=8)
def _checked(text: str, name: str) -> settings.Params:
    """Parameters of a text, parsed as DVC parses it: without comments it takes a fifth of the time."""
    return settings.check(_parsed(plain_yaml.load, text, name))


def read_params(line: layout.Layout):
    """params.yaml as a document that keeps comments. Raises SettingsError if it does not parse."""
    return _load(line.params)


def write_params(line: layout.Layout, document) -> None:
    """params.yaml from a document, after a check of the whole."""
    settings.check(_plain(document))
    stream = StringIO()
    _round_trip().dump(document, stream)
    part = line.params.with_suffix(".part")
    part.write_text(stream.getvalue(), encoding="utf-8")
    part.replace(line.params)


def add_to_params(line: layout.Layout, added: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts entries into sections of params.yaml, in place of those of that name; the rest stays as it was written.

    New entries are written at the end of their sections: to take a long document apart and put it together again, comments and
    all, takes seconds.

    Raises:
        SettingsError: if what comes out does not hold up.
    """
    text = _text(line.params)
    document = _parsed(plain_yaml.load, text, line.params.name)
    wanted = document | {section: (document.get(section) or {}) | dict(found) for section, found in added.items()}
    written = text
    for section, found in added.items():
        written = _with(written, section, found)
    new = all(key not in (document.get(section) or {}) for section, found in added.items() for key in found)
    if new and plain_yaml.load(written) == _plain(wanted):
        settings.check(_plain(wanted))
        part = line.params.with_suffix(".part")
        part.write_text(written, encoding="utf-8")
        part.replace(line.params)
        return
    document = read_params(line)
    for section, found in added.items():
        if not document.get(section):
            document[section] = {}
        document[section].update(found)
    write_params(line, document)


def _with(text: str, section: str, entries: Mapping[str, Any]) -> str:
    """A YAML text with entries at the end of a section in block style; as it is where there is no such section."""
    lines = text.splitlines(keepends=True)
    start = next((place for place, line in enumerate(lines) if re.match(rf"{section}:( *{{}})? *\n", line)), None)
    if start is None:
        return text
    end = next(
        (place for place in range(start + 1, len(lines)) if not lines[place].startswith((" ", "\n"))), len(lines)
    )
    stream = StringIO()
    _round_trip().dump(_plain(entries), stream)
    block = "".join(f"  {line}" for line in stream.getvalue().splitlines(keepends=True))
    return "".join([*lines[:start], f"{section}:\n", *lines[start + 1 : end], block, *lines[end:]])


def result(line: layout.Layout) -> dict[str, Any]:
    """The evaluation of the line's last step.

    Raises:
        WorkspaceError: if the line has no step.
    """
    order = settings.chain(params(line).steps)
    if not order:
        raise WorkspaceError("expected a line with at least one step; received none; onboard a task first")
    return json.loads(line.evaluation(order[-1]).read_text(encoding="utf-8"))


WORK = "work"  # the lock of changes that are prepared in clones: one at a time, for as long as they take


class HeldError(WorkspaceError):
    """The line, or one of its submissions, is held by another process."""


@contextlib.contextmanager
def locked(line: layout.Layout, *, patience: float = 0, name: str = "lock") -> Iterator[None]:
    """Holds the line for one change at a time; the lock ends with its holder, however that ends.

    Raises:
        HeldError: if another process holds it for longer than `patience` seconds.
    """
    line.private.mkdir(exist_ok=True)
    try:
        with FileLock(line.private / name, timeout=patience):
            yield
    except Timeout as error:
        who = processes.holder(line.private / name)
        raise HeldError(
            f"expected {line.root.name} to be free; received a line that another change holds{f' ({who})' if who else ''}; wait for it "
            "(--wait SECONDS)"
        ) from error


def uncommitted(line: layout.Layout) -> list[str]:
    """Tracked files with changes that git has not."""
    found = git.run(line.root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [entry[3:] for entry in found]


def require_clean(line: layout.Layout) -> None:
    """Refuses a line with uncommitted changes, which a new commit would swallow or trip over."""
    if changed := uncommitted(line):
        raise WorkspaceError(
            f"expected a line without uncommitted changes; received {', '.join(changed[:3])}; commit or undo them with git first"
        )


def require_absent(line: layout.Layout, *paths: Path) -> None:
    """Refuses a line with files where a new commit will put its own."""
    for path in paths:
        if path.exists():
            raise WorkspaceError(
                f"expected nothing at {path.relative_to(line.root)}; received a file or folder, which onboarding writes itself; move it away"
            )


def commit(folder: Path, message: str) -> str:
    """Commits what belongs to a line and is not ignored; returns the commit's hash (the present one if nothing changed)."""
    git.run(folder, "add", "--update")
    git.run(folder, "add", "--all", "--", *(name for name in PARTS if (folder / name).exists()))
    if git.run(folder, "status", "--porcelain", "--untracked-files=no"):
        git.run(folder, "commit", "--quiet", "--no-verify", "--message", message)
    return git.run(folder, "rev-parse", "HEAD").strip()


def _load(path: Path) -> Any:
    return _parsed(_round_trip().load, _text(path), path.name)


def _text(path: Path) -> str:
    if not path.is_file():
        raise settings.SettingsError(f"expected a file of YAML at {path.name}; received none; correct the path")
    with foreign_parsers.reading(lambda reason: not_yaml(path.name, reason)):
        return path.read_text(encoding="utf-8")


def _parsed(load: Callable[[str], Any], text: str, name: str) -> Any:
    document = strict_yaml.loads(text, lambda reason: not_yaml(name, reason), load=load)
    if not isinstance(document, dict):
        raise settings.SettingsError(
            f"expected a mapping of sections in {name}; received {foreign_parsers.kind(document)}; mend the file"
        )
    return document


def not_yaml(name: str, reason: str) -> settings.SettingsError:
    """The refusal of a text that does not read."""
    return settings.SettingsError(
        f"expected YAML in {name}; received text that does not parse ({reason}); mend the file"
    )


def _slug(folder: Path) -> str:
    try:
        return names.check_slug(folder.resolve().name.lower())
    except ValueError:
        return "line"


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 120
    return yaml


def _plain(document) -> object:
    if isinstance(document, dict):
        return {str(key): _plain(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_plain(value) for value in document]
    return document
