"""The gate in a real line: refused, accepted by a person, rolled back; what serves and what MLflow says of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.line import refused_attempts, workspace
from flows.programs import git
from flows.services import tracking
from flows.versions import history
from otmf.provenance import ledger
from otmf.runtime import layout
from tests import makers

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def root(otmf, tmp_path_factory) -> Path:
    """A line with one task, and a gate that no further merge gets through."""
    folder = tmp_path_factory.mktemp("gated")
    root = makers.line(folder / "small")
    otmf("onboard", makers.card(folder / "cards", "first"), "--line", root)
    line = workspace.open_line(root)
    document = workspace.read_params(line)
    document["gate"] = {"least_of_finetuned": 9.0}
    workspace.write_params(line, document)
    workspace.commit(root, "Ask for the impossible")
    return root


@pytest.fixture(scope="module")
def refused(otmf, root, tmp_path_factory) -> subprocess.CompletedProcess:
    before = git.run(root, "rev-parse", "HEAD").strip()
    card = makers.card(tmp_path_factory.mktemp("cards"), "second", seed=2)
    done = otmf("onboard", card, "--line", root, code=1)
    assert git.run(root, "diff", "--name-only", before, "HEAD").split() == ["data/lineage/000002.json"]
    return done


def aliases(root: Path) -> dict[str, str]:
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(root)))
    found = client.get_registered_model("small").aliases
    return {alias: client.get_model_version("small", number).tags["step"] for alias, number in found.items()}


def test_refusal_names_rule_figure_and_way_out(root, refused) -> None:
    said = refused.stderr.strip().splitlines()[-1]
    assert "expected at least 900.0 % of the accuracy of its own fine-tuned model on second; received" in said
    assert "the attempt is kept as branch rejected/second" in said
    assert "Traceback" not in refused.stdout + refused.stderr
    findings = json.loads(git.run(root, "show", "rejected/second:data/results/gates/s02.json"))
    assert {finding["rule"] for finding in findings} == {"least_of_finetuned", "largest_drop", "largest_average_drop"}
    assert list(workspace.params(layout.Layout(root)).tasks) == ["first"]
    assert git.run(root, "status", "--porcelain") == ""
    assert aliases(root) == {"champion": "s01"}


def test_status_shows_what_serves_and_what_was_refused(otmf, root, refused) -> None:
    said = otmf("status", "--line", root).stdout
    assert "Champion: v1 (s01, first; accepted by gate)" in said
    assert "Refused: second: expected at least 900.0 %" in said


def test_person_accepts_it_then_rolls_back_and_predictions_follow(otmf, root, refused, tmp_path) -> None:
    picture = tmp_path / "one.png"
    Image.fromarray(makers.pictures(1, seed=5)[0][0]).save(picture)
    said = otmf("promote", "second", "--reason", "needed by Monday", "--by", "ada", "--line", root).stdout
    assert "second accepted: v2 is the champion" in said
    assert aliases(root) == {"champion": "s02", "previous": "s01"}
    assert (root / "data/models/merged/s02/model.safetensors").exists()
    assert otmf("predict", "--task", "second", picture, "--line", root).stdout.startswith("one.png\t")
    otmf("rollback", "--reason", "wrong after all", "--line", root, OTMF_ACTOR="grace")
    assert aliases(root) == {"champion": "s01", "previous": "s02"}
    assert otmf("predict", "--task", "first", picture, "--line", root).stdout.startswith("one.png\t")
    gone = otmf("predict", "--task", "second", picture, "--line", root, code=1).stderr
    assert "expected a task of the version that serves (first); received 'second'" in gone
    entries = [record.statement.decision for record in ledger.read(root)]
    assert [(entry.action, entry.by, entry.version) for entry in entries] == [
        ("accepted", "gate", 1),
        ("refused", "gate", None),
        ("overridden", "ada", 2),
        ("rolled_back", "grace", 1),
    ]


def test_override_is_recorded_with_name_and_reason(otmf, root, refused, tmp_path) -> None:
    card = makers.card(tmp_path / "cards", "third", seed=3)
    done = otmf("onboard", card, "--line", root, "--override", "a trial", OTMF_ACTOR="ada")
    assert "third onboarded as" in done.stdout
    last = history.decisions(root)[-1]
    assert (last.action, last.by, last.reason) == ("overridden", "ada", "a trial")


@pytest.mark.parametrize("way", ["quarantine", "unbalanced"])
def test_task_too_unlike_the_others(otmf, root, tmp_path, way) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(root), str(copy)], check=True)
    line = workspace.open_line(copy)
    document = workspace.read_params(line)
    document["gate"] = {"least_of_finetuned": 0.0, "largest_drop": 1, "largest_average_drop": 1, "largest_dissimilarity": 1e-6,
                        "dissimilar": way}  # fmt: skip
    workspace.write_params(line, document)
    workspace.commit(copy, "Bound the dissimilarity")
    card = makers.card(tmp_path / "cards", "unlike", seed=7)
    if way == "quarantine":
        said = otmf("onboard", card, "--line", copy, code=1).stderr
        assert "expected features of unlike at most 1e-06 variances away from the merged model's; received" in said
        assert "the attempt is kept as branch quarantined/unlike; a person decides" in said
        assert "In quarantine: unlike" in otmf("status", "--line", copy).stdout
        otmf("promote", "unlike", "--reason", "it is wanted", "--line", copy)
    else:
        done = otmf("onboard", card, "--line", copy)
        step = list(workspace.params(line).steps)[-1]
        assert f"{step} is merged again with unbalanced transport, reach 0.5" in done.stdout + done.stderr
        assert workspace.params(line).steps[step].merge.reach == 0.5
    assert "unlike" in workspace.params(line).tasks
    assert refused_attempts.branches(line).get("unlike") is None
