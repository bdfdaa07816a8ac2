"""Checks of what git holds: objects, references, and what the last commit has otherwise than the newest version's record.

Everything in a recorded commit is held by that commit, which the record names. What came after it is gone through by exclusion: a file
is the ledger's own, a setting for the next version, somebody's own file that nothing reads, or it fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from ruamel.yaml import YAML

from flows.line import refused_attempts
from flows.programs import process
from flows.verify import checks
from flows.versions import accepted_models, history, records
from otmf.provenance import ledger, statements
from otmf.runtime import layout

FILE, PROGRAM = "100644", "100755"  # modes in git
READ = ("dvc.yaml", "dvc.lock", "prefect.yaml", ".dvcignore", ".gitignore", ".gitattributes", ".gitmodules")
PARAMS = "params.yaml"


def objects(found: checks.Examined) -> Iterator[checks.Check]:
    try:
        found.objects.check()
        yield checks.Check("git objects")
    except process.ProcessError as error:
        yield checks.Check("git objects", str(error))


def references(found: checks.Examined) -> Iterator[checks.Check]:
    """Tags and branches that otmf reads, each as a record names it; replacements of objects; other references are named."""
    there = found.objects.references()
    refused = _refused(found)
    for name, target in sorted(there.items()):
        kind, _, rest = name.removeprefix("refs/").partition("/")
        about, trouble = f"reference {name}", ""
        if kind == "replace":
            trouble = "expected no object in place of another; received one; remove it with `git replace -d`"
        elif kind == "tags" and rest.startswith("model/"):
            known = {history.tag(number) for number in found.models}
            trouble = "" if rest in known else "expected tags of recorded versions; received one of another; delete it"
        elif kind == "heads" and rest.partition("/")[0] in refused_attempts.KINDS:
            commit = found.objects.commit(target)[0]
            trouble = (
                ""
                if commit in refused
                else f"expected a commit that the record of a refusal names; received {commit[:12]}; do not promote it"
            )
        elif (kind, rest) != ("heads", "main") and kind != "remotes":
            yield checks.Check(f"{kind} {rest}", uncovered=True)
            continue
        if trouble or kind != "remotes":
            yield checks.Check(about, trouble)
    grafts = found.root / ".git/info/grafts"
    if grafts.is_file() and grafts.stat().st_size:
        yield checks.Check(
            "git grafts", "expected the parents that commits name; received others; remove .git/info/grafts"
        )


def last(found: checks.Examined) -> Iterator[checks.Check]:
    """What is in the last commit: files alone, and of those that matter none otherwise than the newest version's record has it."""
    now = found.objects.entries("HEAD")
    for path, (mode, _) in sorted(now.items()):
        if mode not in (FILE, PROGRAM):
            yield checks.Check(
                f"file {path}", "expected a file in the last commit; received a link or another repository; take it out"
            )
    if staged := found.objects.staged():
        yield checks.Check(
            f"file {staged[0]}",
            "expected nothing to be committed next; received another content in git's index; see git diff --cached",
        )
    if not found.models:
        return
    newest = max(found.models)
    record = found.models[newest]
    then = found.objects.entries(accepted_models.commit_of(record))
    changed = sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))
    for path in changed:
        if path.startswith(f"{ledger.FOLDER}/"):
            continue
        if not guarded(path):
            yield checks.Check(f"{path} (since v{newest})", uncovered=True)
            continue
        yield checks.Check(
            f"file {path}",
            f"expected it as v{newest} was recorded with; received another, which no record tells of; see git log {path}; "
            "if the change is yours, the next version records it",
        )
    yield checks.Check(f"the last commit makes models as v{newest} was made")
    if layout.COMPARED in now and any(
        path == layout.COMPARED or path.startswith(f"{layout.COMPARISON}/") for path in changed
    ):
        yield checks.Check(f"file {layout.COMPARED}", _compared(found, {path: name for path, (_, name) in now.items()}))
    yield from _named(found, newest, record)


def guarded(path: str) -> bool:
    """Whether a committed file says how models are made, fetched, served or run, or is one of what they are made from."""
    if path == PARAMS or path == layout.COMPARED or path.startswith(f"{layout.COMPARISON}/"):
        return False
    name = PurePosixPath(path).name
    return path.startswith(("data/", ".dvc/")) or name in READ or name.endswith(".dvc")


def _named(found: checks.Examined, newest: int, record: ledger.Record) -> Iterator[checks.Check]:
    """Files that records name by sha256 today, and those of earlier releases held by the commit's id alone."""
    named = {one.name for one in record.statement.predicate.buildDefinition.resolvedDependencies}
    tree = found.objects.tree(accepted_models.commit_of(record))
    missing = [path for path in records.DESCRIBED if path in tree and path not in named]
    if missing:
        yield checks.Check(
            f"sha256 of {', '.join(missing)} (the record of v{newest} is of an earlier release; its commit holds them)",
            uncovered=True,
        )


def kept_attempts(found: checks.Examined) -> dict[str, ledger.Record]:
    """Branch of each refused attempt that is kept -> the record of its refusal."""
    refused = _refused(found)
    branches = {name.removeprefix("refs/heads/"): found.objects.commit(target)[0]
                for name, target in sorted(found.objects.references().items())
                if name.startswith(tuple(f"refs/heads/{kind}/" for kind in refused_attempts.KINDS))}  # fmt: skip
    return {name: refused[commit] for name, commit in branches.items() if commit in refused}


def _refused(found: checks.Examined) -> dict[str, ledger.Record]:
    """Commit of each refused model -> its record."""
    made = (record for record in found.records if isinstance(record.statement.predicate, statements.Provenance))
    return {accepted_models.commit_of(record): record for record in made if record.statement.decision.version is None}


def _compared(found: checks.Examined, tree: dict[str, str]) -> str:
    """What does not hold of a comparison that is newer than the last record: its lock against its result, and against what was recorded."""
    lock = YAML(typ="safe").load(found.blob(tree[f"{layout.COMPARISON}/dvc.lock"]).decode())
    entry = lock["stages"]["compare"]
    told = {one["path"]: one["md5"] for one in entry["outs"]}
    received = hashlib.md5(found.blob(tree[layout.COMPARED]), usedforsecurity=False).hexdigest()
    if told != {layout.COMPARED: received}:
        return f"expected the result of its dvc.lock; received md5 {received[:16]}; run `otmf compare` again"
    known: dict[str, set[str]] = {}
    for record in found.models.values():
        for stage in record.statement.predicate.buildDefinition.otmf_stages.values():
            for path, one in (stage.inputs | stage.outputs).items():
                known.setdefault(path, set()).add(one.md5)
    for one in entry["deps"]:
        if one["md5"] not in known.get(one["path"], ()):
            return f"expected {one['path']} as a version has it; received another; run `otmf compare` again"
    return ""
