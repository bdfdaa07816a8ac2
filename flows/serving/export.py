"""A version as one folder for whoever does not have otmf: open_clip weights and configuration, heads, labels, card, ONNX."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.audit import collect, files
from flows.line import workspace
from flows.programs import process
from flows.rendering import templates
from flows.versions import recorded_files
from otmf.data import datasets
from otmf.runtime import layout
from otmf.runtime.environment import WARM


def export(
    line: layout.Layout,
    number: int,
    folder: Path,
    *,
    dtype: str = "float32",
    largest: int = 5_000_000_000,
    beside: Sequence[str] = (),
) -> list[str]:
    """Writes a version into a folder that does not exist; whole or not at all. Returns sentences about what was written.

    Args:
        line: the folder of the line.
        number: of the version.
        folder: the new folder.
        dtype: of the encoder's weights: float32, float16 or bfloat16. Heads, and ONNX, stay float32.
        largest: bytes of a file of weights for transformers, beyond which there are several with an index.
        beside: what else is wanted: `onnx`, `hugging-face`.

    Raises:
        WorkspaceError: if there is no such version, its files are not those recorded, or the folder exists. ProcessError: if it cannot be written.
    """
    if folder.exists():
        raise workspace.WorkspaceError(
            f"expected a new folder to export to; received {folder}, which exists; choose another"
        )
    found = recorded_files.clone(line, number)
    recorded_files.require(line, found, number)
    part = folder.resolve().with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "heads").mkdir(parents=True)
    try:
        said = process.pump(
            [sys.executable, "-m", "stages", "export", str(part), dtype, str(largest), *beside],
            folder=found.root, log=lambda _: None, extra={WARM: ""},
        )  # fmt: skip
        made = collect.audit(line, number, [], at=datetime.now(UTC))
        (part / files.CARD).write_text(files.model_card(made), encoding="utf-8")
        script = "classify.py" if made.reads == datasets.IMAGES else "classify_texts.py"
        shutil.copyfile(templates.PAGES / script, part / "classify.py")
        part.rename(folder)
        return said
    finally:
        shutil.rmtree(part, ignore_errors=True)
