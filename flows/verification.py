"""Whether a line is what its ledger says: from the signatures to the bytes of every model and every picture.

Nothing is taken from DVC's, git's or the file system's notes of what is unchanged: files are read and hashed. Each check is
one line; what does not hold names what was expected and received.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import contents, git, process, registry, repro, tracking, versions, workspace
from otmf import keys, layout, ledger, lineage, statements


@dataclass(frozen=True)
class Check:
    """One check: what it is about, and what does not hold; empty if it holds."""

    about: str
    trouble: str = ""


@dataclass
class _Line:
    """A line under examination: its records, those of accepted models by version, and what was read already."""

    layout: layout.Layout
    records: list[ledger.Record]
    reader: contents.Reader = field(default_factory=contents.Reader)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.layout.root

    @property
    def made(self) -> dict[int, ledger.Record]:
        return models(self.records)

    def blob(self, name: str) -> bytes:
        if name not in self.blobs:
            self.blobs[name] = git.blob(self.root, name)
        return self.blobs[name]


def verify(
    line: layout.Layout,
    wanted: Sequence[int],
    trusted: Sequence[keys.PublicKey],
    *,
    unsigned: bool = False,
    with_registry: bool = True,
) -> Iterator[Check]:
    """All checks of a line: its ledger, git, and some versions (all, if none is named) down to the raw data.

    Args:
        line: the folder.
        wanted: versions.
        trusted: public keys.
        unsigned: whether records that nobody signed are taken as they are.
        with_registry: whether the tracking store's registry is asked as well.

    Raises:
        WorkspaceError: if a wanted version never was.
    """
    found = _Line(line, [])
    sound = True
    for check in _ledger(found):
        sound &= not check.trouble
        yield check
    if not sound:  # which of two records that do not fit was altered, their signatures say
        yield from _signatures(found.records, trusted, unsigned)
        return
    for number in wanted:
        versions.find(versions.history(line.root), number)
    yield from _signatures(found.records, trusted, unsigned)
    yield from _guarded("decisions", _decisions(found))
    yield from _guarded("git", _git(line.root))
    for number, record in found.made.items():
        if not wanted or number in wanted:
            yield from _guarded(f"v{number}", _version(found, number, record))
    if with_registry:
        yield from _guarded("registry", _registry(found))


def models(records: Sequence[ledger.Record]) -> dict[int, ledger.Record]:
    """Version -> the record of how its model was made."""
    return {record.statement.decision.version: record for record in records if _is_model(record)}


def commit_of(record: ledger.Record) -> str:
    """The commit with the content that a record is about."""
    inputs = record.statement.predicate.buildDefinition.resolvedDependencies
    return next(one.digest["gitCommit"] for one in inputs if "gitCommit" in one.digest)


def recorded(records: Sequence[ledger.Record], last: ledger.Record) -> dict[str, statements.Stage]:
    """Stage -> how it was recorded when it last ran for a model, up to a record."""
    stages: dict[str, statements.Stage] = {}
    for record in models(records).values():
        if record.index <= last.index:
            stages |= record.statement.predicate.buildDefinition.otmf_stages
    return stages


def _guarded(about: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Turns what cannot even be read into a check that does not hold."""
    try:
        yield from checks
    except (process.ProcessError, OSError, ValueError, KeyError, TypeError, YAMLError) as error:
        yield Check(
            about, f"expected to read all of it; received {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )


def _ledger(found: _Line) -> Iterator[Check]:
    files = ledger.files(found.root)
    if not files:
        yield Check(
            "ledger",
            f"expected records in {ledger.FOLDER}; received none; the line never accepted a model, or lost them",
        )
    for path in files:
        trouble = ""
        try:
            found.records.append(ledger.load(path))
            trouble = ledger.broken_link(found.records) or ""
        except (ledger.LedgerError, OSError) as error:
            trouble = str(error)
        yield Check(f"record {path.name}", trouble)


def _signatures(records: list[ledger.Record], trusted: Sequence[keys.PublicKey], unsigned: bool) -> Iterator[Check]:
    for record, said in ledger.signatures(records, trusted):
        if said == "unsigned":
            said = (
                ""
                if unsigned
                else "expected a signature; received none; pass --unsigned to take such records as they are"
            )
            yield Check(f"signature of {record.name}: unsigned", said)
        else:
            yield Check(f"signature of {record.name}", said or "")


def _decisions(found: _Line) -> Iterator[Check]:
    """Records by themselves: versions count up, what is rolled back to was made, subjects agree with outputs."""
    number, models, name = 0, {}, workspace.params(found.layout).line
    for record in found.records:
        decision, trouble = record.statement.decision, _foreign(record.statement, name)
        if _is_model(record):
            number += 1
            models[decision.version] = decision.sha256
            if decision.version != number:
                trouble = trouble or f"expected version {number}; received {decision.version}"
        elif decision.version is not None and models.get(decision.version) != decision.sha256:
            trouble = f"expected v{decision.version} with sha256 {models.get(decision.version, 'none')[:12]}; received {decision.sha256[:12]}"
        yield Check(f"decision of {record.name}", trouble or _subjects(record.statement))


def _foreign(statement: statements.Statement, line: str) -> str:
    """Whether a record is of another line."""
    if not isinstance(statement.predicate, statements.Provenance):
        return ""
    told = statement.predicate.buildDefinition.externalParameters.get("line")
    return "" if told == line else f"expected a record of line {line}; received one of {str(told)[:60]!r}"


def _subjects(statement: statements.Statement) -> str:
    if not isinstance(statement.predicate, statements.Provenance):
        return ""
    named = {found.name: found.digest.get("sha256", "") for found in statement.subject}
    for stage in statement.predicate.buildDefinition.otmf_stages.values():
        for path, output in stage.outputs.items():
            below = {name.removeprefix(f"{path}/"): sha for name, sha in named.items() if name.startswith(f"{path}/")}
            if (named[path] if path in named else lineage.listing(below)) != output.sha256:
                return f"expected subjects that make up {path}; received others"
    decision = statement.decision
    model = (layout.Layout(Path()).merged(decision.step) / "model.safetensors").as_posix()
    if named.get(model) != decision.sha256:
        return f"expected {model} with sha256 {decision.sha256[:12]} among the subjects; received {named.get(model, 'none')[:12]}"
    return ""


def _git(root: Path) -> Iterator[Check]:
    try:
        process.run(["git", "fsck", "--full", "--no-dangling", "--no-progress"], folder=root)
        yield Check("git objects")
    except process.ProcessError as error:
        yield Check("git objects", str(error))
        return
    tree = git.tree(root, "HEAD")
    for path in sorted(_lying(root) - set(tree)):
        yield Check(
            f"file {path}", "expected no such file in the last commit; received one; move it away, or commit it"
        )
    for path, name in tree.items():
        there = root / path
        if there.is_symlink() or not there.is_file():
            yield Check(f"file {path}", "expected the file of the last commit; received none; restore it from git")
        elif git.name(there.read_bytes()) != name:
            yield Check(
                f"file {path}", "expected the content of the last commit; received another; compare it with git diff"
            )
    yield Check("files as in the last commit")


def _lying(root: Path) -> set[str]:
    """The files in the folders of a line that git holds all of."""
    folders = [root / "data" / name for name in ("backbones", "cards", "lineage", "results")]
    return {path.relative_to(root).as_posix() for folder in folders for path in folder.rglob("*") if not path.is_dir()}


def _version(found: _Line, number: int, record: ledger.Record) -> Iterator[Check]:
    provenance = record.statement.predicate
    commit = commit_of(record)
    yield Check(f"v{number}: commit {commit[:12]} and tag", _tag(found, number, record, commit))
    tree = git.tree(found.root, commit)
    for resource in provenance.buildDefinition.resolvedDependencies:
        if "sha256" in resource.digest and resource.name in tree:
            received = hashlib.sha256(found.blob(tree[resource.name])).hexdigest()
            yield Check(f"v{number}: {resource.name}", _differ("sha256", resource.digest["sha256"], received))
    stages = _yaml(found.blob(tree["dvc.lock"]))["stages"]
    known = recorded(found.records, record)
    for name, entry in stages.items():
        yield Check(f"v{number}: stage {name} in dvc.lock", _stage(known.get(name), entry, stages, tree, found))
    newest = number == max(found.made)
    for path, output in _contents(stages, known):
        yield from _guarded(f"v{number}: {path}", _content(found, f"v{number}: {path}", path, output, tree, newest))


def _tag(found: _Line, number: int, record: ledger.Record, commit: str) -> str:
    tag = git.run(found.root, "rev-parse", "--verify", f"refs/tags/{versions.tag(number)}^{{commit}}").strip()
    parent = git.run(found.root, "rev-parse", f"{tag}^").strip()
    if parent != commit:
        return f"expected the tag's commit to follow {commit[:12]}; received one that follows {parent[:12]}"
    if git.tree(found.root, tag).get(f"{ledger.FOLDER}/{record.name}") != git.name(record.content):
        return f"expected {record.name} in the tag's commit; received another content or none"
    base = git.run(found.root, "merge-base", tag, "HEAD").strip()
    return "" if base == tag else f"expected {tag[:12]} in the line's history; received a line without it"


def _stage(
    recorded: statements.Stage | None,
    entry: Mapping[str, Any],
    stages: Mapping[str, Any],
    tree: Mapping[str, str],
    found: _Line,
) -> str:
    if recorded is None:
        return "expected a record of the stage; received none in the ledger"
    if entry["cmd"] != recorded.command:
        return f"expected the command {recorded.command!r}; received {entry['cmd']!r}"
    if _plain(entry.get("params", {}).get("params.yaml", {})) != _plain(recorded.parameters):
        return "expected the parameters recorded; received others"
    outs = {out["path"]: out["md5"] for other in stages.values() for out in other.get("outs", ())}
    for part, known in (("deps", recorded.inputs), ("outs", recorded.outputs)):
        named = {one["path"]: one["md5"] for one in entry.get(part, ())}
        wanted = {path: output.md5 for path, output in known.items()}
        if named != wanted:
            return f"expected {part} {_first(wanted, named)}; received {_first(named, wanted)}"
        if part == "deps":
            made = {path: outs[path] if path in outs else _pointer(path, tree, found) for path in named}
            if named != made:
                return f"expected what is read as it was made, {_first(made, named)}; received {_first(named, made)}"
    return ""


def _pointer(path: str, tree: Mapping[str, str], found: _Line) -> str:
    """The md5 in the .dvc file of some raw data."""
    return _yaml(found.blob(tree[f"{path}.dvc"]))["outs"][0]["md5"]


def _contents(
    stages: Mapping[str, Any], recorded: Mapping[str, statements.Stage]
) -> Iterator[tuple[str, statements.Output]]:
    """Every path that is written or read, once, as recorded."""
    known: dict[str, statements.Output] = {}
    for name in stages:
        if name in recorded:
            known |= recorded[name].inputs | recorded[name].outputs
    yield from sorted(known.items())


def _content(
    found: _Line, about: str, path: str, wanted: statements.Output, tree: Mapping[str, str], newest: bool
) -> Iterator[Check]:
    if path in tree:
        received = hashlib.sha256(found.blob(tree[path])).hexdigest()
        yield Check(f"{about} in git", _differ("sha256", wanted.sha256, received))
    else:
        yield from _guarded(about, _cached(found, about, path, wanted))
    if newest:
        yield Check(about, _differ("sha256", wanted.sha256, found.reader.path(found.root / path)))


def _cached(found: _Line, about: str, path: str, wanted: statements.Output) -> Iterator[Check]:
    try:
        received = found.reader.cached(repro.cache(found.root), wanted.md5)
    except FileNotFoundError as error:
        yield Check(
            f"{about} in DVC's cache",
            f"expected {Path(str(error.filename)).name}; received nothing; fetch it with dvc pull",
        )
        return
    yield Check(f"{about} in DVC's cache", _differ("sha256", wanted.sha256, received))


def _registry(found: _Line) -> Iterator[Check]:
    line = found.layout
    name = workspace.params(line).line
    try:
        known = registry.standing(tracking.prepare(line, name), name)
    except workspace.WorkspaceError as error:
        yield Check("registry", f"{error}; or pass --without-registry")
        return
    wanted = registry.wanted(line, found.records)
    for number, tags in wanted.versions.items():
        received = known.versions.get(number, {})
        wrong = [key for key, value in tags.items() if received.get(key) != value]
        trouble = f"expected tag {wrong[0]} {tags[wrong[0]]!r}; received {received.get(wrong[0])!r}" if wrong else ""
        yield Check(f"registry: v{number}", trouble)
    for number in sorted(set(known.versions) - set(wanted.versions)):
        yield Check(
            f"registry: v{number}",
            "expected no version that the ledger does not know; received one; records may be lost",
        )
    for alias in sorted(set(wanted.aliases) | set(known.aliases)):
        expected, received = wanted.aliases.get(alias), known.aliases.get(alias)
        yield Check(
            f"registry: alias {alias}", "" if expected == received else f"expected v{expected}; received v{received}"
        )
    yield Check("registry: end of the ledger", _end(known.ledger, found.records))


def _end(said: str | None, records: list[ledger.Record]) -> str:
    """The registry may be behind the ledger, as while the store was away; it cannot know more."""
    number, _, sha256 = (said or "").partition(" ")
    if not number.isdigit():
        return "expected the number of the last record; received none"
    if not 1 <= int(number) <= len(records):
        return f"expected at least {number} records; received {len(records)}; records are lost"
    return _differ(f"sha256 of record {number}", sha256, records[int(number) - 1].sha256)


def _is_model(record: ledger.Record) -> bool:
    return record.statement.decision.version is not None and isinstance(
        record.statement.predicate, statements.Provenance
    )


def _differ(kind: str, wanted: str, received: str) -> str:
    return "" if wanted == received else f"expected {kind} {wanted[:16]}; received {received[:16]}"


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
