"""One run of `otmf bench`, in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from flows.programs import process


def rows(root: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run, computed by a process of its own.

    Raises:
        ProcessError: with its sentence, if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="otmf-bench-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        process.pump(
            [sys.executable, "-m", "stages", "bench", str(question), str(answer)], folder=root, log=lambda text: None
        )
        said = json.loads(answer.read_text(encoding="utf-8"))
    if asked["run"] is None:
        found = [{"task": task, **accuracies} for task, accuracies in said["found"].items()]
    else:
        found = said["found"]
    return [{**asked["columns"], **row, **said["about"]} for row in found]
