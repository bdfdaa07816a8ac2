"""A line of models as a git and DVC folder: made, attempted on in a clone, and changed only by whole commits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import process, repro
from otmf import cards, gathering, layout, settings

_OF_STEP = ("merge-step", "head-tune", "evaluate")
REMOTE = "origin"
KEPT = ("rejected", "quarantined")
TEMPLATE = ("dvc.yaml", "params.yaml", "prefect.yaml", "data/backbones")
IGNORED = "# outputs and run-time state are DVC's and otmf's\n/data/models/\n/.otmf/\n/data/inbox/\n/report.html\n"


class WorkspaceError(RuntimeError):
    """A folder that cannot be worked on. The message says what was expected, received and what to do."""


def template() -> Path:
    """The folder with the files a new line starts from: inside the installed package, or the repository's root."""
    packaged = Path(str(resources.files("flows"))) / "template"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent


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
        params: a params.yaml to start from; the template's otherwise.
        backbone: a JSON configuration of an encoder, copied into the line and named in its parameters.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(
            f"expected a new or empty folder; received {folder}, which has content; choose another name"
        )
    base = base or template() / "data/cards/pretrained.yaml"
    card = cards.read_base(base)
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fill(folder, card, base, params or template() / "params.yaml", name or _slug(folder), backbone)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir()
        raise


def _fill(folder: Path, card: cards.BaseCard, base: Path, params: Path, name: str, backbone: Path | None) -> None:
    line = layout.Layout(folder.resolve())
    for part in TEMPLATE:
        source, target = template() / part, line.root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    document = _load(params)
    document["line"] = name
    if backbone is not None:
        if not backbone.is_file() or backbone.suffix != ".json":
            raise WorkspaceError(
                f"expected a JSON file of a backbone; received {backbone}; see data/backbones for the form"
            )
        shutil.copyfile(backbone, line.root / "data/backbones" / backbone.name)
        document["backbone"] = {"model": f"data/backbones/{backbone.name}"}
    write_params(line, document)
    line.base_card.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base, line.base_card)
    (line.root / ".gitignore").write_text(IGNORED, encoding="utf-8")
    gathering.gather_base(card, base.parent, line.raw("pretrained"))
    git(line.root, "init", "--quiet", "--initial-branch", "main")
    repro.start(line.root)
    repro.track(line.root, line.raw("pretrained"))
    commit(line.root, f"Start line {name}")


def open_line(folder: Path) -> layout.Layout:
    """The line in a folder.

    Raises:
        WorkspaceError: if there is none.
    """
    line = layout.Layout(folder.resolve())
    if not (line.params.is_file() and (line.root / ".dvc").is_dir() and (line.root / ".git").exists()):
        raise WorkspaceError(
            f"expected a line of models in {folder}; received a folder without one; make it with `otmf init`, or "
            "name another with --line"
        )
    return line


def params(line: layout.Layout) -> settings.Params:
    """The line's parameters, checked as a whole."""
    return settings.check(read_params(line))


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


def result(line: layout.Layout) -> dict[str, Any]:
    """The evaluation of the line's last step.

    Raises:
        WorkspaceError: if the line has no step.
    """
    order = settings.chain(params(line).steps)
    if not order:
        raise WorkspaceError("expected a line with at least one step; received none; onboard a task first")
    return json.loads(line.evaluation(order[-1]).read_text(encoding="utf-8"))


def without(clone: layout.Layout, task: str) -> int:
    """Takes a task, its data and its step out of a clone; later steps move up by one.

    Returns:
        The number of the first step that has to be made again (one more than there are, if the last task went).
    """
    document = read_params(clone)
    steps = params(clone).steps
    order = settings.chain(steps)
    gone = next(place for place, step in enumerate(order) if steps[step].task == task)
    kept = [document["steps"][step] for step in order if steps[step].task != task]
    for place, step in enumerate(kept):
        step["previous"] = f"s{place:02d}"
    document["steps"] = {f"s{place:02d}": step for place, step in enumerate(kept, start=1)}
    del document["tasks"][task]
    write_params(clone, document)
    repro.untrack(clone.root, clone.raw(task))
    last = order[-1]
    repro.forget(clone.root, {f"finetune@{task}", f"extract@{task}"} | {f"{name}@{last}" for name in _OF_STEP})
    shutil.rmtree(clone.raw(task), ignore_errors=True)
    for path in (clone.card(task), clone.manifest(task), clone.evaluation(last), clone.trace(last), clone.gate(last)):
        path.unlink(missing_ok=True)
    comparison = clone.root / "data/results/compare.json"
    if comparison.exists() and task in json.loads(comparison.read_text(encoding="utf-8"))["tasks"]:
        comparison.unlink()
        shutil.rmtree(clone.root / "data/compare")
    return gone + 1


@contextlib.contextmanager
def locked(line: layout.Layout, *, patience: float = 0, name: str = "lock") -> Iterator[None]:
    """Holds the line for one change at a time; the lock ends with its holder, however that ends.

    Raises:
        WorkspaceError: if another process holds it for longer than `patience` seconds.
    """
    line.private.mkdir(exist_ok=True)
    try:
        with FileLock(line.private / name, timeout=patience):
            yield
    except Timeout as error:
        raise WorkspaceError(
            f"expected {line.root.name} to be free; received a line that another onboarding holds; wait for it, or "
            "pass --wait SECONDS"
        ) from error


def require_clean(line: layout.Layout) -> None:
    """Refuses a line with uncommitted changes, which a new commit would swallow or trip over."""
    changed = git(line.root, "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise WorkspaceError(
            f"expected a line without uncommitted changes; received {', '.join(entry[3:] for entry in changed[:3])}; "
            "commit or undo them with git first"
        )


def require_absent(line: layout.Layout, *paths: Path) -> None:
    """Refuses a line with files where a new commit will put its own."""
    for path in paths:
        if path.exists():
            raise WorkspaceError(
                f"expected nothing at {path.relative_to(line.root)}; received a file or folder, which onboarding writes itself; move it away"
            )


def begin(line: layout.Layout, name: str, *, commit: str = "HEAD") -> layout.Layout:
    """A clone of the line to attempt a change in, with the line's DVC cache; an older attempt of that name goes.

    Nothing in the line itself changes until `land`; a failed attempt stays where it is, to be looked at.
    """
    return _clone(line, line.private / "attempts" / name, git(line.root, "rev-parse", commit).strip())


def at(line: layout.Layout, commit: str, name: str) -> layout.Layout:
    """The line as it was at a commit, in a clone that is kept under a name and made again only if it differs."""
    folder = line.private / "versions" / name
    if (folder / ".git").exists() and git(folder, "rev-parse", "HEAD").strip() == commit:
        return layout.Layout(folder)
    return _clone(line, folder, commit)


def _clone(line: layout.Layout, folder: Path, commit: str) -> layout.Layout:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(line.root, "clone", "--quiet", "--shared", "--no-tags", "--no-checkout", str(line.root), str(folder))
    git(folder, "checkout", "--quiet", "-B", "main", commit)
    clone = layout.Layout(folder)
    repro.share_cache(clone.root, line.root)
    repro.checkout(clone.root)
    return clone


def commit(folder: Path, message: str) -> str:
    """Commits everything that is not ignored; returns the commit's hash (the present one if nothing changed)."""
    git(folder, "add", "--all")
    if git(folder, "status", "--porcelain"):
        git(folder, "commit", "--quiet", "--no-verify", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def keep(line: layout.Layout, attempt: layout.Layout, kind: Literal["rejected", "quarantined"]) -> str:
    """Keeps the attempt's commit in the line under a branch, in place of an older one, and the attempt goes.

    The git remote gets the branch if it answers. Returns the branch.
    """
    name = attempt.root.name
    branch = f"{kind}/{name}"
    git(line.root, "fetch", "--quiet", "--no-tags", str(attempt.root), f"+HEAD:refs/heads/kept-{name}")
    drop_kept(line, name)
    git(line.root, "branch", "--quiet", "--move", f"kept-{name}", branch)
    if has_remote(line):
        with contextlib.suppress(process.ProcessError):
            git(line.root, "push", "--quiet", "--force", REMOTE, f"refs/heads/{branch}")
    shutil.rmtree(attempt.root, ignore_errors=True)
    return branch


def kept(line: layout.Layout) -> dict[str, str]:
    """Name of each attempt that was kept -> its branch."""
    asked = [f"refs/heads/{kind}" for kind in KEPT]
    branches = git(line.root, "for-each-ref", "--format=%(refname:strip=2)", *asked).split()
    return {branch.partition("/")[2]: branch for branch in sorted(branches)}


def drop_kept(line: layout.Layout, name: str) -> None:
    """Lets a kept attempt of that name go, here and in the git remote."""
    branch = kept(line).get(name)
    if branch is None:
        return
    git(line.root, "branch", "--quiet", "-D", branch)
    if has_remote(line):
        with contextlib.suppress(process.ProcessError):
            git(line.root, "push", "--quiet", REMOTE, f":refs/heads/{branch}")


def offer(clone: layout.Layout, ref: str) -> str:
    """Puts what a clone holds into the line's git remote, as a commit under a name of ours, on no branch.

    The commit depends on nothing but its content and the clone's commit below it, so that an attempt made again after a
    death gives the same one. `{}` in the name stands for it. Returns its hash.
    """
    git(clone.root, "add", "--all")
    tree = git(clone.root, "write-tree").strip()
    date = git(clone.root, "show", "--no-patch", "--format=%cI", "HEAD").strip()
    parts = [f"{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL", "DATE")]
    fixed = {f"GIT_{part}": date if part.endswith("DATE") else "otmf@localhost" for part in parts}
    arguments = ("commit-tree", tree, "-p", "HEAD", "-m", "An attempt under way")
    commit = process.run(["git", *arguments], folder=clone.root, extra=fixed).strip()
    _patiently(
        lambda: git(clone.root, "push", "--quiet", "--force", _remote_of(clone), f"{commit}:{ref.format(commit)}")
    )
    return commit


def withdraw(clone: layout.Layout, *refs: str) -> None:
    """Takes such names off the git remote again; that they may stay there does no harm."""
    with contextlib.suppress(process.ProcessError):
        git(clone.root, "push", "--quiet", _remote_of(clone), *(f":{ref}" for ref in refs))


def fetch(line: layout.Layout, ref: str) -> None:
    """Brings such a commit from the line's git remote into the line."""
    _patiently(lambda: git(line.root, "fetch", "--quiet", "--no-tags", REMOTE, ref))


def take_over(clone: layout.Layout, ref: str, paths: tuple[str, ...]) -> None:
    """Takes from a commit in the line's git remote what differs from a clone, below some paths only.

    Raises:
        WorkspaceError: if anything else differs.
    """
    _patiently(lambda: git(clone.root, "fetch", "--quiet", "--no-tags", _remote_of(clone), ref))
    commit = git(clone.root, "rev-parse", "FETCH_HEAD").strip()
    git(clone.root, "add", "--all")
    names = git(clone.root, "diff", "--cached", "--name-only", "--no-renames", "-z", commit).split("\0")[:-1]
    foreign = [name for name in names if not name.startswith(paths)]
    if foreign:
        raise WorkspaceError(
            f"expected a stage's results to differ below {', '.join(paths)} only; received {', '.join(foreign[:3])}; do not trust that agent"
        )
    if names:
        git(clone.root, "checkout", "--quiet", commit, "--", *names)


def _remote_of(clone: layout.Layout) -> str:
    """The address of the git remote of the line that a clone is one of."""
    return git(owner(clone).root, "remote", "get-url", REMOTE).strip()


def owner(clone: layout.Layout) -> layout.Layout:
    """The line that an attempt is a clone of."""
    return layout.Layout(Path(git(clone.root, "remote", "get-url", "origin").strip()))


def has_remote(line: layout.Layout) -> bool:
    """Whether the line has a git remote of ours."""
    return REMOTE in git(line.root, "remote").split()


def synchronise(line: layout.Layout) -> None:
    """Moves a line with a git remote forward to where the remote's main is; to be called by the holder of its lock.

    Raises:
        WorkspaceError: if both have moved on; a person has to decide then.
    """
    if not has_remote(line):
        return
    _patiently(lambda: git(line.root, "fetch", "--quiet", "--tags", REMOTE))
    theirs = f"refs/remotes/{REMOTE}/main"
    if not git(line.root, "for-each-ref", theirs).strip():
        return
    ahead, behind = git(line.root, "rev-list", "--left-right", "--count", f"HEAD...{theirs}").split()
    if behind != "0" and ahead != "0":
        raise WorkspaceError(
            f"expected the line and its git remote to be one history; received {ahead} commits only here and {behind} only there; "
            "rebase or reset one of them"
        )
    if behind != "0":
        git(line.root, "merge", "--quiet", "--ff-only", theirs)
        if repro.has_remote(line.root):
            repro.pull(line.root)


def _publish(line: layout.Layout, attempt: layout.Layout, commit: str, names: list[str]) -> None:
    """Data first, then the commit: whoever sees the commit finds what it names. Nothing without remotes."""
    if not has_remote(line):
        return
    if repro.has_remote(attempt.root):
        _patiently(lambda: repro.push(attempt.root, runs=True))
    try:
        _patiently(lambda: git(line.root, "push", "--quiet", "--atomic", REMOTE, f"{commit}:refs/heads/main", *names))
    except process.ProcessError as error:
        raise WorkspaceError(
            f"expected the git remote to take the new version; received: {str(error)[:200]}; the line is as it was; it goes on from "
            "there when the remote answers and nobody has pushed in between"
        ) from error


def _patiently(work: Callable[[], object]) -> None:
    """Tries three times, for remotes that do not answer at once; what the remote refuses is not tried again."""
    for pause in (1, 4, None):
        try:
            work()
            return
        except process.ProcessError as error:
            if pause is None or any(word in str(error) for word in ("rejected", "non-fast-forward", "not found")):
                raise
            time.sleep(pause)


def land(line: layout.Layout, attempt: layout.Layout, *, tag: str | None = None) -> str:
    """Moves the line, and its git remote before it, to the attempt's commit, forward only; then brings its outputs there,
    and the attempt goes.

    Args:
        line, attempt: the line, and a clone of it that is ahead.
        tag: a name for the commit. It is given before the line moves, so that a line never stands at a version without one.

    Returns:
        Empty, or one sentence if the commit has landed but its outputs could not be brought there.
    """
    named = [f"+HEAD:refs/tags/{tag}"] if tag else []
    git(line.root, "fetch", "--quiet", "--no-tags", str(attempt.root), "HEAD", *named)
    commit = git(attempt.root, "rev-parse", "HEAD").strip()
    try:
        _publish(line, attempt, commit, [f"refs/tags/{tag}"] if tag else [])
    except WorkspaceError:
        if tag:
            git(line.root, "tag", "--delete", tag)
        raise
    git(line.root, "merge", "--quiet", "--ff-only", commit)
    try:
        repro.checkout(line.root)
    except (process.ProcessError, OSError) as error:
        return f"the commit has landed, its outputs not yet ({' '.join(str(error).split())[:200]}); run `dvc checkout` in {line.root}"
    shutil.rmtree(attempt.root, ignore_errors=True)
    return ""


def git(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder, with an author where none is configured and no hooks of the user's."""
    return process.run(
        ["git", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", *arguments],
        folder=folder,
        extra=_author(folder),
    )


def _author(folder: Path) -> dict[str, str]:
    fallback = {"NAME": "otmf", "EMAIL": "otmf@localhost"}
    missing = {part: value for part, value in fallback.items() if not _configured(folder, part.lower())}
    return {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}", value)
        for role in ("AUTHOR", "COMMITTER")
        for part, value in missing.items()
    }


def _configured(folder: Path, part: str) -> bool:
    try:
        return bool(process.run(["git", "config", f"user.{part}"], folder=folder).strip())
    except (process.ProcessError, OSError):
        return False


def _load(path: Path) -> Any:
    try:
        document = _round_trip().load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise settings.SettingsError(f"expected YAML in {path.name}; received {reason}; mend the file") from error
    if not isinstance(document, dict):
        raise settings.SettingsError(
            f"expected a mapping of sections in {path.name}; received {type(document).__name__}; restore the file"
        )
    return document


def _slug(folder: Path) -> str:
    try:
        return cards.check_slug(folder.resolve().name.lower())
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
