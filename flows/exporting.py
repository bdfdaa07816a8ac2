"""A version as one folder for whoever does not have otmf: open_clip weights and configuration, heads, labels, card, ONNX."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows import audit, audit_files, git, process, versions, workspace
from otmf import layout

SCRIPT = Path(__file__).parent / "pages/classify.py"


def export(line: layout.Layout, number: int, folder: Path, *, onnx: bool) -> None:
    """Writes a version into a folder that does not exist; whole or not at all.

    Raises:
        WorkspaceError: if there is no such version, or the folder exists. ProcessError: if it cannot be written.
    """
    if folder.exists():
        raise workspace.WorkspaceError(
            f"expected a new folder to export to; received {folder}, which exists; choose another"
        )
    versions.find(versions.history(line.root), number)
    commit = git.run(line.root, "rev-parse", f"{versions.tag(number)}^{{commit}}").strip()
    found = workspace.at(line, commit, f"v{number}")
    part = folder.resolve().with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "heads").mkdir(parents=True)
    try:
        process.pump(
            [sys.executable, "-m", "stages", "export", str(part), "onnx" if onnx else "plain"],
            folder=found.root, log=lambda _: None, extra={"OTMF_WARM": ""},
        )  # fmt: skip
        made = audit.audit(line, number, [], at=datetime.now(UTC))
        (part / audit_files.CARD).write_text(audit_files.model_card(made), encoding="utf-8")
        shutil.copyfile(SCRIPT, part / "classify.py")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
