"""The chain as a user runs it: real DVC, a real Prefect server, a real MLflow store."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.dvc import commands
from flows.line import clones
from flows.programs import git, process
from flows.services import tracking
from flows.studies import compare
from otmf import checkpoints, task_vectors
from otmf.provenance import digests
from otmf.runtime import layout
from tests import makers

pytestmark = pytest.mark.pipeline


def ran(done: subprocess.CompletedProcess) -> list[str]:
    return re.findall(r"Running stage '(.+)':", done.stdout + done.stderr)


def test_each_task_runs_exactly_its_own_stages(onboarded) -> None:
    _, (first, second) = onboarded
    assert ran(first) == [
        "pretrained",
        "finetune@first",
        "extract@first",
        "merge-step@s01",
        "head-tune@s01",
        "evaluate@s01",
    ]
    assert ran(second) == ["finetune@second", "extract@second", "merge-step@s02", "head-tune@s02", "evaluate@s02"]


def test_output_has_a_line_for_each_stage_and_each_mask_epoch(onboarded) -> None:
    _, (_, second) = onboarded
    text = second.stdout + second.stderr
    for epoch in range(1, 7):
        assert re.search(rf"merge-step s02: epoch {epoch}/6, pre \d\S*, post \d", text)
    assert re.search(
        r"second onboarded as s02, version v2: accuracy \S+ % on second, where its fine-tuned model has \S+ %; \S+ % on average over all tasks, "
        r"backward transfer \S+ points",
        " ".join(second.stdout.split()),
    )


def test_line_is_committed_clean_and_up_to_date(onboarded) -> None:
    root, _ = onboarded
    assert git.run(root, "status", "--porcelain") == ""
    assert commands.stale(root) == []
    subjects = git.run(root, "log", "--format=%s").splitlines()
    assert subjects[:4] == [
        "Record: v2 accepted by gate",
        "Onboard second as s02",
        "Record: v1 accepted by gate",
        "Onboard first as s01",
    ]
    assert not list((root / ".otmf/attempts").iterdir())


def test_attempt_gets_what_the_next_task_reads_and_no_older_model(onboarded) -> None:
    line = layout.Layout(onboarded[0])
    clone = clones.begin(line, "look", after="s02")
    try:
        assert git.run(clone.root, "status", "--porcelain") == ""
        there = [clone.pretrained, clone.merged("s02"), clone.heads("s02"), clone.raw("first"), clone.raw("second")]
        assert all(path.is_dir() for path in there)
        assert not any(
            path.exists() for path in (clone.merged("s01"), clone.finetuned("second"), clone.task_vector("first"))
        )
        for path in there:
            relative = path.relative_to(clone.root)
            assert digests.digest(path) == digests.digest(line.root / relative)
    finally:
        clones.drop(line, "look")


def test_running_everything_again_runs_no_stage(onboarded) -> None:
    root, _ = onboarded
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=root, check=True, capture_output=True, text=True)
    assert "Running stage" not in done.stdout
    assert "Data and pipelines are up to date." in done.stdout


def test_results_hold_what_the_definitions_say(onboarded) -> None:
    root, _ = onboarded
    line = layout.Layout(root)
    found = json.loads(line.evaluation("s02").read_text())
    rows = {(row["step"], row["task"]): row["accuracy"] for row in found["rows"]}
    assert set(rows) == {("s01", "first"), ("s02", "first"), ("s02", "second")}
    assert found["acc"] == pytest.approx((rows["s02", "first"] + rows["s02", "second"]) / 2)
    assert found["bwt"] == pytest.approx(rows["s02", "first"] - rows["s01", "first"])
    assert set(found["references"]) == {"first", "second"}


def test_merge_record_says_what_was_seen(onboarded) -> None:
    root, _ = onboarded
    saw = json.loads(layout.Layout(root).trace("s02").read_text())["saw"]
    assert saw == {"declared": "unlabelled", "labels": False, "test_images": 0, "pre_kind": "memory", "pre_images": 12,
                   "pre_steps": [1], "post_images": 12}  # fmt: skip


def test_first_step_is_the_task_vector_whole(onboarded) -> None:
    root, _ = onboarded
    line = layout.Layout(root)
    merged = checkpoints.load(line.merged("s01") / "model.safetensors")
    expert = checkpoints.load(line.finetuned("first") / "model.safetensors")
    assert task_vectors.norm(task_vectors.subtract(merged, expert)) < 1e-4


def test_outputs_are_made_again_to_the_same_bytes(onboarded, warm_interpreter, tmp_path) -> None:
    """Every stage, run anew without any cache, in a clone."""
    root, _ = onboarded
    copy = tmp_path / "copy"
    git.run(root, "clone", "--quiet", str(root), str(copy))
    for name in ("pretrained", "first", "second"):
        shutil.copytree(root / f"data/raw/{name}", copy / f"data/raw/{name}")
    process.run(
        [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache"], folder=copy, extra=warm_interpreter
    )
    for part in ("pretrained", "finetuned", "task_vectors", "merged", "masks", "heads"):
        assert digests.digest(copy / f"data/models/{part}") == digests.digest(root / f"data/models/{part}"), part
    assert git.run(copy, "diff", "--stat", "--", "data/results", "dvc.lock") == ""


def test_no_output_names_a_path_a_time_or_a_run(onboarded) -> None:
    root, _ = onboarded
    for path in sorted((root / "data/results").rglob("*.json")) + sorted((root / "data/models").rglob("*.json")):
        text = path.read_text()
        assert str(root) not in text
        assert not re.search(r"20\d\d-\d\d-\d\d|run_id|seconds", text), path


def test_tracking_holds_a_parent_and_a_child_run_per_stage(onboarded) -> None:
    root, _ = onboarded
    line = layout.Layout(root)
    client = MlflowClient(tracking_uri=tracking.uri(line))
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], max_results=100)
    parents = {run.data.tags["task"]: run for run in runs if run.data.tags.get("kind") == "onboard"}
    assert set(parents) == {"first", "second"}
    stages = [
        run.data.tags["stage"]
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parents["second"].info.run_id
    ]
    assert sorted(stages) == ["evaluate", "extract", "finetune", "head_tune", "merge_step"]
    merge = next(run for run in runs if run.data.tags.get("stage") == "merge_step" and run.data.tags["key"] == "s02")
    assert {"ot_cost_before/pre", "ot_cost_after/post", "seconds", "peak_memory_mib", "loss/pre", "loss/post"} <= set(
        merge.data.metrics
    )
    assert len(client.get_metric_history(merge.info.run_id, "loss/post")) == 6
    assert merge.data.params["alpha"] == "0.8"
    assert any(name.startswith("mask/post/") for name in merge.data.metrics)
    assert merge.data.tags["output.data.models.merged.s02"] == digests.digest(line.merged("s02"))
    assert merge.data.tags["git.commit"]
    evaluation = next(run for run in runs if run.data.tags.get("stage") == "evaluate" and run.data.tags["key"] == "s02")
    assert {"acc", "bwt", "accuracy/first", "accuracy/second"} <= set(evaluation.data.metrics)
    link = parents["second"].data.tags["restored.pretrained"]
    assert client.get_run(link).data.tags["stage"] == "pretrained"


def test_stages_restored_from_the_cache_add_no_run_and_lose_no_link(onboarded, otmf, tmp_path) -> None:
    """The line as it was before its last task, with the same cache: onboarding that task again trains nothing."""
    root, _ = onboarded
    again = tmp_path / "small"
    shutil.copytree(root, again, symlinks=True)
    git.run(again, "reset", "--quiet", "--hard", "model/v1")
    git.run(again, "tag", "--delete", "model/v2")
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(again)))
    experiment = client.get_experiment_by_name("small").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment], max_results=100)}
    done = otmf("onboard", root.parent / "cards/second.yaml", "--line", again)
    assert ran(done) == []
    new = [run for run in client.search_runs([experiment], max_results=100) if run.info.run_id not in before]
    assert [run.data.tags.get("kind") for run in new] == ["onboard"]
    links = {key: value for key, value in new[0].data.tags.items() if key.startswith("restored.")}
    assert len(links) == 6
    assert set(links.values()) <= before


def test_status_report_and_predict(onboarded, otmf, tmp_path) -> None:
    root, _ = onboarded
    text = otmf("status", "--line", root).stdout
    assert "Everything is up to date." in text
    assert "second" in text
    picture = tmp_path / "green.png"
    Image.fromarray(makers.pictures(3, seed=9)[0][1]).save(picture)
    lines = otmf("predict", "--task", "second", picture, picture, "--line", root).stdout.splitlines()
    assert len(lines) == 2
    name, label, probability = lines[0].split("\t")
    assert name == "green.png"
    assert label in makers.COLOURS
    assert 0 < float(probability) <= 1
    assert otmf("predict", "--task", "third", picture, "--line", root, code=1).stderr.startswith(
        "otmf: expected a task of this line (first, second); received 'third'"
    )
    (tmp_path / "bad.png").write_bytes(b"no")
    refused = otmf("predict", "--task", "first", tmp_path / "bad.png", "--line", root, code=1).stderr
    assert refused.startswith("otmf: expected an image that decodes; received ")


def test_methods_are_compared_and_the_line_stays_up_to_date(onboarded, otmf) -> None:
    root, _ = onboarded
    text = otmf("compare", "--line", root, "--orders", "2").stdout
    for method in ("running_average", "task_arithmetic", "wudi", "otmf_paper", "otmf_frozen_heads", "otmf_default"):
        assert method in text
    assert commands.stale(root) == []
    assert "compare" not in ran(otmf("compare", "--line", root, "--orders", "2"))
    otmf("compare", "--line", root, "--orders", "2", "--trained-orders", "1")
    orders = {row["method"]: row["orders"] for row in compare.summary(layout.Layout(root))}
    assert orders == dict.fromkeys(compare.METHODS, 2) | {"otmf_paper": 1, "otmf_frozen_heads": 1, "otmf_default": 1}


@pytest.mark.parametrize("method", ["running_average", "wudi"])
def test_every_method_runs_as_the_method_of_the_chain(otmf, tmp_path, method) -> None:
    root = makers.line(tmp_path / "small", merge={"method": method})
    for name, seed in (("first", 1), ("second", 2)):
        otmf("onboard", makers.card(tmp_path / "cards", name, seed=seed), "--line", root)
    record = json.loads(layout.Layout(root).trace("s02").read_text())
    assert record["method"] == method
    assert record["saw"]["declared"] == "nothing"
    assert record["saw"]["post_images"] == 0


def test_checkpoint_from_elsewhere_is_adopted_not_trained(onboarded, otmf, tmp_path) -> None:
    root, _ = onboarded
    line = layout.Layout(root)
    copy = tmp_path / "small"
    shutil.copytree(root, copy, symlinks=True)
    folder = tmp_path / "cards"
    folder.mkdir()
    expert = checkpoints.load(line.finetuned("second") / "model.safetensors")
    checkpoints.save({key: value * 1.001 if value.is_floating_point() else value for key, value in expert.items()},
                     folder / "expert.safetensors")  # fmt: skip
    card = makers.card(folder, "foreign", seed=5, checkpoint={"path": "expert.safetensors"})
    done = otmf("onboard", card, "--line", copy)
    assert "checkpoint adopted (safetensors), nothing trained" in done.stdout + done.stderr
    assert "finetune foreign: epoch" not in done.stdout + done.stderr
