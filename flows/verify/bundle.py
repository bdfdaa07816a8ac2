"""One folder with the records of a line and the files of a version, to be checked elsewhere, with a public key and no otmf."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from flows.dvc import cache, commands
from flows.line import workspace
from flows.programs import git
from flows.rendering import templates
from flows.versions import accepted_models, history
from otmf.provenance import digests, ledger
from otmf.runtime import layout


def write(line: layout.Layout, number: int, folder: Path) -> list[str]:
    """Writes a bundle into a folder that does not exist, whole or not at all; returns the version's files in it.

    Raises:
        WorkspaceError: if there is no such version, the folder exists, no key signs the ledger, or something of the version is not
            as recorded.
    """
    if folder.exists():
        raise workspace.WorkspaceError(
            f"expected a new folder for the bundle; received {folder}, which exists; choose another"
        )
    records = ledger.read(line.root)
    if ledger.in_force(records) is None:
        raise workspace.WorkspaceError(
            f"expected a ledger that a key signs, as a bundle is checked with its public half; received the unsigned one of {line.root.name}; sign it "
            "from here on with `otmf keys new --reason ...`, then write the bundle"
        )
    history.find(history.decisions(line.root), number)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "records").mkdir(parents=True)
        for one in records:
            (part / "records" / one.name).write_bytes(one.content)
        _copy(line, records, accepted_models.models(records)[number], part / "files")
        names = sorted(
            path.relative_to(part / "files").as_posix() for path in (part / "files").rglob("*") if path.is_file()
        )
        (part / "contents.json").write_text(
            json.dumps({"version": number, "files": names}, indent=1) + "\n", encoding="utf-8"
        )
        shutil.copyfile(templates.PAGES / "verify_bundle.py", part / "verify.py")
        said = (
            templates.environment()
            .get_template("bundle.md.j2")
            .render(line=workspace.params(line).line, version=number, command=command("verify.py", records))
        )
        (part / "README.md").write_text(said, encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return names


def command(script: str, records: list[ledger.Record]) -> str:
    """How a bundle is checked: records from before the first key have to be taken as they are."""
    return f"python -I {script} KEY.pub" + ("" if records and records[0].envelope.signatures else " --unsigned")


def _copy(line: layout.Layout, records: list[ledger.Record], record: ledger.Record, target: Path) -> None:
    """Encoder, heads, results, cards and parameters as the version's records name them."""
    named: dict[str, str] = {}
    for one in accepted_models.until(records, record):
        named |= accepted_models.named(one)
    with git.Objects(line.root) as objects:
        tree = objects.tree(accepted_models.commit_of(record))
        for name in sorted(
            name for name in set(named) & set(tree) if not name.startswith(".") and name != "prefect.yaml"
        ):
            _place(target / name).write_bytes(objects.blob(tree[name]))
    step = record.statement.decision.step
    stages, where = accepted_models.recorded(records, record), layout.Layout(Path())
    for stage, path in ((f"merge-step@{step}", where.merged(step)), (f"head-tune@{step}", where.heads(step))):
        output = stages[stage].outputs[path.as_posix()]
        for name, source in cache.listed(commands.cache(line.root), output.md5).items():
            shutil.copyfile(source, _place(target / path / name))
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        name = path.relative_to(target).as_posix()
        if named.get(name) != digests.digest(path):
            raise workspace.WorkspaceError(
                f"expected {name} as the records name it; received another content; see what `otmf verify` says"
            )


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
