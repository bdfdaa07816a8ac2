"""What each stage writes for a tiny fixed input is pinned: a change needs a new `code_version`.

Names, shapes, dtypes, texts and counts are pinned exactly; numbers to 4 digits in the mean, because processors and thread
counts differ in the last bits and training carries that on. On one machine the same bytes are made again: see
tests/pipeline/test_chain.py. `python -m tests.stages.test_golden` prints what stages write now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import stages.head_tune
from flows.line import workspace
from otmf import checkpoints, settings
from otmf.data import gathering
from otmf.runtime import layout
from otmf.settings import presets
from stages import evaluate, extract, finetune, merge_step, pretrained
from stages.context import current_line
from tests import makers

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-3
VERSIONS = {
    "pretrained": settings.Pretrained().code_version,
    "finetune": settings.Finetune().code_version,
    "extract": settings.Extract().code_version,
    "merge_step": settings.Otmf().code_version,
    "head_tune": settings.HeadTune().code_version,
    "evaluate": settings.Evaluate().code_version,
}


def through_all_stages(folder: Path, head_tune: dict[str, object]) -> current_line.Line:
    """A line of two tasks, both through all stages in this process."""
    root = makers.line(folder / "line")
    line = layout.Layout(root)
    document = workspace.read_params(line)
    document["tasks"], document["steps"] = {}, {}
    for count, name in enumerate(("first", "second"), start=1):
        gathering.gather(
            workspace.cards.read(makers.card(folder / "cards", name, seed=count)), folder / "cards", line.raw(name)
        )
        document["tasks"][name] = {"finetune": {"epochs": 2, "batch_size": 8}}
        document["steps"][f"s{count:02d}"] = {
            "task": name, "previous": f"s{count - 1:02d}", "merge": presets.PRESETS["default"] | {"steps": 4, "batch_size": 4},
            "head_tune": head_tune,
        }  # fmt: skip
    workspace.write_params(line, document)
    full = current_line.read(root)
    torch.set_num_threads(1)
    pretrained.main(full)
    for task in full.params_checked.tasks:
        finetune.main(full, task)
        extract.main(full, task)
    for step in full.order:
        merge_step.main(full, step)
        stages.head_tune.main(full, step)
        evaluate.main(full, step)
    return full


def run(folder: Path) -> dict[str, dict]:
    """For each stage its code version and what it wrote of the second task."""
    line = through_all_stages(folder, {"heads": "all", "steps": 3})
    root = line.root
    written = {
        "pretrained": [line.pretrained],
        "finetune": [line.finetuned("second")],
        "extract": [line.task_vector("second"), line.manifest("second")],
        "merge_step": [line.merged("s02"), line.masks("s02"), line.trace("s02")],
        "head_tune": [line.heads("s02")],
        "evaluate": [line.evaluation("s02")],
    }
    return {
        stage: {"code_version": VERSIONS[stage], "files": dict(files(root, paths))} for stage, paths in written.items()
    }


def files(root: Path, paths: list[Path]) -> Iterator[tuple[str, object]]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            yield file.relative_to(root).as_posix(), content(file)


def content(file: Path) -> object:
    """A JSON file's content, or shape, dtype, mean and norm of each tensor of a safetensors file."""
    if file.suffix == ".json":
        return without_digests(json.loads(file.read_text(encoding="utf-8")))
    return {
        key: [list(value.shape), str(value.dtype), float(value.double().mean()), float(value.double().norm())]
        for key, value in checkpoints.load(file).items()
    }


def without_digests(found: object) -> object:
    """The content without hashes of weights, which differ with the last bits."""
    if isinstance(found, dict):
        return {key: without_digests(value) for key, value in found.items() if key != "sha256"}
    return [without_digests(value) for value in found] if isinstance(found, list) else found


def differences(found: object, golden: object, place: str = "") -> Iterator[str]:
    if isinstance(golden, dict) and isinstance(found, dict):
        for key in sorted(set(golden) | set(found)):
            if key not in golden or key not in found:
                yield f"{place}/{key}: only in one"
            else:
                yield from differences(found[key], golden[key], f"{place}/{key}")
    elif isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        for position, (one, other) in enumerate(zip(found, golden, strict=True)):
            yield from differences(one, other, f"{place}/{position}")
    elif isinstance(golden, float) and isinstance(found, float):
        if abs(found - golden) > TOLERANCE * max(1.0, abs(golden)):
            yield f"{place}: {found} instead of {golden}"
    elif found != golden:
        yield f"{place}: {found!r} instead of {golden!r}"


@pytest.mark.parametrize("stage", VERSIONS)
def test_stage_writes_what_it_wrote_or_has_a_new_code_version(stages_now, stage) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[stage]
    found = json.loads(json.dumps(stages_now[stage]))
    assert found["code_version"] == golden["code_version"], (
        "print the golden values anew: python -m tests.stages.test_golden"
    )
    assert not list(differences(found["files"], golden["files"])), "raise the stage's code_version in otmf/settings"


@pytest.fixture(scope="module")
def stages_now(tmp_path_factory) -> dict[str, dict]:
    return run(tmp_path_factory.mktemp("golden"))


def test_a_changed_number_or_name_is_noticed() -> None:
    """The comparison itself can fail."""
    golden = {"a": [1.0, {"b": "x"}]}
    assert not list(differences({"a": [1.0005, {"b": "x"}]}, golden))
    assert list(differences({"a": [1.1, {"b": "x"}]}, golden)) == ["/a/0: 1.1 instead of 1.0"]
    assert list(differences({"a": [1.0, {"c": "x"}]}, golden)) == ["/a/1/b: only in one", "/a/1/c: only in one"]


if __name__ == "__main__":
    import contextlib
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        written = run(Path(name))
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
