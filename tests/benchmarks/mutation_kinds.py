"""What can be done to a line that is no altered byte of a file: commits, references, links, git's settings, rows of MLflow's registry.

Each alteration is made on a line and returns what undoes it, or None where nothing would change.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from flows.services import tracking
from flows.verify import commit_checks
from otmf.runtime import layout

Undo = Callable[[], None]


def git(root: Path, *arguments: str) -> str:
    named = ["-c", "user.name=mutation", "-c", "user.email=mutation@localhost"]
    return subprocess.run(
        ["git", *named, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def committed(root: Path, rng: random.Random) -> Undo | None:
    """A guarded file altered and committed after the last record, taken out, or put in."""
    head = git(root, "rev-parse", "HEAD")
    paths = [
        path for path in git(root, "ls-files").splitlines() if commit_checks.guarded(path) and "lineage" not in path
    ]
    path = root / rng.choice(paths)
    kind = rng.choice(("alter", "delete", "add"))
    if kind == "add":
        path = path.with_name(f"{path.stem}_more{path.suffix}")
        path.write_text("more\n", encoding="utf-8")
        git(root, "add", "--force", "--", str(path))
    elif kind == "delete":
        git(root, "rm", "--quiet", "--", str(path))
    else:
        path.write_bytes(path.read_bytes() + b"\n# more\n")
    git(root, "commit", "--quiet", "--all", "--message", "more")
    return lambda: git(root, "reset", "--quiet", "--hard", head)


def tree(root: Path, rng: random.Random) -> Undo | None:
    """A link, another repository or another mode in a commit."""
    head = git(root, "rev-parse", "HEAD")
    path = rng.choice([path for path in git(root, "ls-files").splitlines() if "lineage" not in path])
    blob = git(root, "rev-parse", f"HEAD:{path}")
    entry = rng.choice((f"120000,{blob},{path}", f"160000,{head},data/raw/more", f"120000,{blob},notes"))
    git(root, "update-index", "--add", "--cacheinfo", entry)
    git(root, "commit", "--quiet", "--message", "more")
    return lambda: git(root, "reset", "--quiet", "--hard", head)


def references(root: Path, rng: random.Random) -> Undo | None:
    """Tags and branches put in or moved, objects replaced, parents grafted."""
    kind = rng.choice(("tag", "moved", "branch", "replace", "graft"))
    commits = git(root, "rev-list", "HEAD").splitlines()
    if kind == "tag":
        name = f"model/v{rng.randint(6, 99)}"
        git(root, "tag", name, rng.choice(commits))
        return lambda: git(root, "tag", "--delete", name)
    if kind == "moved":
        name = f"model/v{rng.randint(1, 5)}"
        before, target = git(root, "rev-parse", name), rng.choice(commits)
        if before == target:
            return None
        git(root, "update-ref", f"refs/tags/{name}", target)
        return lambda: git(root, "update-ref", f"refs/tags/{name}", before)
    if kind == "branch":
        name = f"{rng.choice(('rejected', 'quarantined'))}/other{rng.randint(0, 99)}"
        git(
            root,
            "branch",
            name,
            rng.choice([one for one in commits if "Refused" not in git(root, "log", "-1", "--format=%s", one)]),
        )
        return lambda: git(root, "branch", "-D", name)
    if kind == "replace":
        one, other = rng.sample(git(root, "rev-list", "HEAD").splitlines(), 2)
        git(root, "update-ref", f"refs/replace/{one}", other)
        return lambda: git(root, "update-ref", "-d", f"refs/replace/{one}")
    path = root / ".git/info/grafts"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{rng.choice(commits)}\n", encoding="utf-8")
    return path.unlink


def folder(root: Path, rng: random.Random) -> Undo | None:
    """Links and modes in the folder, files that git does not look at, another index, files put in where git ignores them."""
    kind = rng.choice(("link", "linked folder", "mode", "overlooked", "staged", "ignored"))
    path = root / rng.choice(git(root, "ls-files").splitlines())
    if kind == "link":
        models = sorted(one for one in (root / "data/models").rglob("*.safetensors"))
        path = rng.choice([path, *models])
        return _linked(root, path)
    if kind == "linked folder":
        return _linked(
            root, rng.choice([root / "data" / name for name in ("cards", "results", "raw", "lineage", "backbones")])
        )
    if kind == "mode":
        path.chmod(path.stat().st_mode ^ 0o100)
        return lambda: path.chmod(path.stat().st_mode ^ 0o100)
    if kind == "overlooked":
        flag = rng.choice(("skip-worktree", "assume-unchanged"))
        git(root, "update-index", f"--{flag}", str(path))
        return lambda: git(root, "update-index", f"--no-{flag}", str(path))
    if kind == "staged":
        other = git(root, "rev-parse", "HEAD:params.yaml")
        name = path.relative_to(root).as_posix()
        if name == "params.yaml":
            return None
        before = git(root, "rev-parse", f"HEAD:{name}")
        git(root, "update-index", "--cacheinfo", f"100644,{other},{name}")
        return lambda: git(root, "update-index", "--cacheinfo", f"100644,{before},{name}")
    place = root / rng.choice(
        (
            "data/models/more.bin",
            "data/models/merged/more.dvc",
            "data/raw/more.npz",
            "data/cards/more.yaml",
            "data/more",
        )
    )
    place.write_text("more", encoding="utf-8")
    return place.unlink


COMMANDS = (
    "filter.x.clean", "filter.x.smudge", "filter.x.process", "core.fsmonitor", "core.sshCommand", "core.pager", "core.editor",
    "core.askPass", "core.gitProxy", "core.hooksPath", "core.worktree", "diff.external", "diff.x.textconv", "merge.x.driver",
    "credential.helper", "gpg.program", "url./x.insteadOf", "include.path", "remote.origin.uploadpack", "remote.origin.receivepack",
    "remote.origin.vcs", "protocol.ext.allow", "pager.log", "core.alternateRefsCommand",
)  # fmt: skip


def configuration(root: Path, rng: random.Random) -> Undo | None:
    """A setting of the repository that names a command or leads git elsewhere."""
    path = root / ".git/config"
    before = path.read_bytes()
    git(root, "config", rng.choice(COMMANDS), str(root / "evil"))
    return lambda: path.write_bytes(before) and None


def registry(root: Path, rng: random.Random) -> Undo | None:
    """A row of MLflow's registry: versions, their source, run and tags, aliases, tags of the model."""
    store = layout.Layout(root).tracking / "mlflow.db"
    kept = store.read_bytes()
    number = rng.randint(1, 5)
    statement = rng.choice(
        (
            ("INSERT INTO model_versions SELECT name, 90 + ?, creation_time, last_updated_time, description, user_id, current_stage, source, run_id, status, status_message, run_link, storage_location, workspace FROM model_versions WHERE version = 1", (number,)),
            ("DELETE FROM model_version_tags WHERE key = 'otmf.version' AND version = ?", (number,)),
            ("DELETE FROM model_version_tags WHERE key = ? AND version = ?", (rng.choice(("step", "task", "sha256", "git.commit", "action", "by", "reason", "record", "record.sha256")), number)),
            ("UPDATE model_version_tags SET value = value || 'x' WHERE key = ? AND version = ?", (rng.choice(("step", "task", "sha256", "git.commit", "action", "by", "reason", "record", "record.sha256", "otmf.version")), number)),
            ("UPDATE model_versions SET source = source || 'x' WHERE version = ?", (number,)),
            ("UPDATE model_versions SET storage_location = storage_location || 'x' WHERE version = ?", (number,)),
            ("UPDATE model_versions SET run_id = ? WHERE version = ?", ("0" * 32, number)),
            ("UPDATE model_versions SET version = 80 WHERE version = ?", (number,)),
            ("DELETE FROM model_versions WHERE version = ?", (number,)),
            ("DELETE FROM registered_model_aliases WHERE alias = ?", (rng.choice(("champion", "previous")),)),
            ("UPDATE registered_model_aliases SET version = version % 5 + 1 WHERE alias = ?", (rng.choice(("champion", "previous")),)),
            ("UPDATE registered_model_aliases SET alias = alias || 'x' WHERE alias = ?", (rng.choice(("champion", "previous")),)),
            ("UPDATE registered_model_tags SET value = value || 'x' WHERE key = 'ledger'", ()),
            ("DELETE FROM registered_model_tags WHERE key = 'ledger'", ()),
        )
    )  # fmt: skip
    with closing(sqlite3.connect(store)) as rows:
        changed = rows.execute(*statement).rowcount
        rows.commit()
    if not changed:
        store.write_bytes(kept)
        return None
    return lambda: store.write_bytes(kept) and None


KINDS: dict[str, Callable[[Path, random.Random], Undo | None]] = {
    "committed after the record": committed,
    "links and repositories, committed": tree,
    "tags, branches, replacements, grafts": references,
    "links, modes, index, ignored files": folder,
    "git's configuration": configuration,
    "rows of the registry": registry,
}


def moved(root: Path, before: Path) -> None:
    """Has the tracking store of a copied line read its own artifacts, not those of the line it was copied from."""
    assert tracking.there(layout.Layout(root))
    with closing(sqlite3.connect(layout.Layout(root).tracking / "mlflow.db")) as rows:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "storage_location"),
        ):
            rows.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(before), str(root)))
        rows.commit()


def _linked(root: Path, path: Path) -> Undo | None:
    """A file or folder moved away, and a link in its place."""
    aside = root / ".otmf/aside"
    if path.is_symlink() or not path.exists():
        return None
    shutil.move(path, aside)
    path.symlink_to(aside)

    def back() -> None:
        path.unlink()
        shutil.move(aside, path)

    return back
