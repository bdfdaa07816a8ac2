"""Stages that sleep in place of computing, for what only the pipeline around them is measured on.

    python -m tests.benchmarks.sleeping NAME [KEY]      as a command of dvc.yaml, in a line's folder; a fine-tuning sleeps OTMF_SLEEP seconds

Every output is written with plausible content, so that gate, versions and status work on it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from otmf.runtime import layout

CHANCE = 0.9
FIRST = "s00"  # settings.FIRST, without importing pydantic


def into(line: layout.Layout) -> None:
    """Replaces the stages of a line's dvc.yaml by sleeping ones."""
    path = line.root / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("python -m stages ", "python -m tests.benchmarks.sleeping "), encoding="utf-8")


def main() -> None:
    name, key = sys.argv[1], (sys.argv[2:] or [""])[0]
    line = layout.Layout(Path.cwd())
    if name == "pretrained":
        _model(line.pretrained)
        _json(line.merged(FIRST) / "merged.json", {})
        _json(line.heads(FIRST) / "heads.json", {})
        _json(line.evaluation(FIRST), {"rows": []})
    elif name == "finetune":
        time.sleep(float(os.environ.get("OTMF_SLEEP", "0")))
        _model(line.finetuned(key), key)
    elif name == "extract":
        _model(line.task_vector(key), key)
        _json(line.manifest(key), {})
    elif name == "merge_step":
        _model(line.merged(key), key)
        _json(line.masks(key) / "masks.json", {"step": key})
        _json(line.trace(key), {})
    elif name == "head_tune":
        _json(line.heads(key) / "heads.json", {"step": key})
    else:
        _evaluate(line, key)
    print(f"{name} {key}: slept", flush=True)


def _evaluate(line: layout.Layout, step: str) -> None:
    from flows.line import workspace  # what the other stages need not wait for
    from otmf import settings

    params = workspace.params(line)
    order = settings.chain(params.steps)
    tasks = [params.steps[name].task for name in order[: order.index(step) + 1]]
    before = json.loads(line.evaluation(params.steps[step].previous).read_text(encoding="utf-8"))
    rows = before["rows"] + [{"step": step, "task": task, "accuracy": CHANCE} for task in tasks]
    reference = {task: {"base": 0.1, "finetuned": CHANCE} for task in tasks}
    content = {"step": step, "task": tasks[-1], "tasks": tasks, "heads": "frozen", "acc": CHANCE, "bwt": 0.0 if len(tasks) > 1 else None,
               "references": reference, "rows": rows}  # fmt: skip
    _json(line.evaluation(step), content)


def _model(folder: Path, content: str = "base") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content, encoding="utf-8")


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
