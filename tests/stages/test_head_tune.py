"""Stage `head-tune` with aligned heads: the same heads as their definition gives, without a label, and what the record says."""

from __future__ import annotations

import pytest
import torch

import stages.head_tune
from otmf import checkpoints, heads, settings
from otmf.continual import memory
from stages.bench import line_bench
from stages.context import current_line, encoder, shared_files
from tests.stages import test_golden


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> current_line.Line:
    return test_golden.through_all_stages(
        tmp_path_factory.mktemp("aligned"),
        {"heads": "aligned", "unlabelled_images": 6, "ridge": 0.2, "ridge_of_old": 0.5},
    )


def test_each_head_is_aligned_with_its_expert(line) -> None:
    """The new task's on its own inputs; the old one's on what the merge remembers, from where the step before had left it."""
    backbone, where = encoder.open_backbone(line), torch.device("cpu")
    merged = checkpoints.load(line.merged("s02") / "model.safetensors")
    _, frozen, _ = shared_files.load_head(line.finetuned("second") / "head.safetensors")
    inputs = encoder.unlabelled(line, "second", settings.HeadTune(unlabelled_images=6))
    expert = checkpoints.load(line.finetuned("second") / "model.safetensors")
    wanted = frozen.logits(encoder.teach(backbone, expert, inputs, where=where))
    new = heads.aligned(frozen, encoder.teach(backbone, merged, inputs, where=where), wanted, ridge=0.2)
    found, kept_frozen, _ = shared_files.load_head(line.heads("s02") / "second.safetensors")
    torch.testing.assert_close(found.weight, new.weight)
    assert torch.equal(kept_frozen.weight, frozen.weight)

    before, frozen, _ = shared_files.load_head(line.heads("s01") / "first.safetensors")
    kept = memory.from_tensors(checkpoints.load(line.merged("s02") / "state.safetensors"))
    of_first = kept.steps == 1
    features = encoder.teach(backbone, merged, kept.inputs[of_first].numpy(), where=where)
    old = heads.aligned(before, features, frozen.logits(kept.targets[of_first]), ridge=0.5)
    found, _, _ = shared_files.load_head(line.heads("s02") / "first.safetensors")
    torch.testing.assert_close(found.weight, old.weight)
    assert not torch.equal(found.weight, before.weight)


def test_record_says_how_many_unlabelled_inputs_and_no_label(line) -> None:
    record = shared_files.read_json(line.heads("s02") / "heads.json")
    kept = memory.from_tensors(checkpoints.load(line.merged("s02") / "state.safetensors"))
    assert record["labelled_images"] == {}
    assert record["unlabelled_images"] == {"first": int((kept.steps == 1).sum()), "second": 6}


def test_bench_scores_the_same_heads(line) -> None:
    merge = line.params_checked.steps["s01"].merge
    rows = line_bench.Bench(line, ["first", "second"]).run(
        merge, [line.params_checked.steps["s01"].head_tune], ["first", "second"]
    )
    evaluated = shared_files.read_json(line.evaluation("s02"))["rows"]
    assert [(row["task"], row["accuracy"]) for row in rows] == [
        (row["task"], row["accuracy"]) for row in evaluated if row["step"] in ("s01", "s02")
    ]


@pytest.fixture
def second_without(line, monkeypatch) -> current_line.Line:
    """`second` as a checkpoint that came with test inputs alone."""
    task, split = line.load("second")
    bare = split.__class__(**{**vars(split), "unlabelled": split.unlabelled[:0]})
    load = type(line).load
    monkeypatch.setattr(type(line), "load", lambda self, name: (task, bare) if name == "second" else load(self, name))
    return line


def test_task_without_unlabelled_inputs_keeps_its_head(second_without) -> None:
    """Merged by a method that sees nothing."""
    stages.head_tune.main(second_without, "s02")
    found, frozen, _ = shared_files.load_head(second_without.heads("s02") / "second.safetensors")
    assert torch.equal(found.weight, frozen.weight)


def test_bench_scores_a_task_without_unlabelled_inputs_with_the_head_it_keeps(second_without) -> None:
    tuned = second_without.params_checked.steps["s01"].head_tune
    bench = line_bench.Bench(second_without, ["first", "second"])
    aligned, frozen = (
        {row["task"]: row["accuracy"] for row in bench.run(settings.merge("default", {"method": "task_arithmetic"}), [head_tune], ["first", "second"])
         if row["step"] == 2} for head_tune in (tuned, settings.HeadTune())
    )  # fmt: skip
    assert aligned["second"] == frozen["second"]
