"""Decisions while work is under way: a rollback at every stage of an onboarding, a promotion that overtakes one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.changes import decisions
from flows.line import workspace
from flows.programs import git, process
from flows.versions import history as version_history
from otmf.provenance import ledger
from otmf.runtime import layout
from tests import light, makers

pytestmark = pytest.mark.pipeline
STAGES = ("finetune@three", "extract@three", "merge-step@s03", "head-tune@s03", "evaluate@s03")


@pytest.fixture(scope="module")
def made(otmf, tmp_path_factory) -> layout.Layout:
    """A light line with two tasks, and one that the gate refused."""
    folder = tmp_path_factory.mktemp("lines")
    line = light.line(folder / "small")
    for seed, name in enumerate(("one", "two"), start=1):
        otmf("onboard", makers.card(folder / "cards", name, seed=seed), "--line", line.root)
    otmf("onboard", makers.card(folder / "cards", light.REFUSED, seed=9), "--line", line.root, code=1)
    return line


@pytest.fixture
def two(made, tmp_path) -> layout.Layout:
    """A copy of it."""
    shutil.copytree(made.root, tmp_path / "line/small", symlinks=True)
    return layout.Layout(tmp_path / "line/small")


def started(otmf, line: layout.Layout, card: Path, tmp_path: Path, **environment: str) -> subprocess.Popen:
    """An onboarding under way whose light stages each wait until a file of that name is there."""
    extra = {"OTMF_TEST_GATES": str(tmp_path / "gates"), **otmf.environment, **environment}
    (tmp_path / "gates").mkdir()
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "otmf"), "onboard", str(card), "--line", str(line.root)],
        env={**process.environment(), **extra}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def reached(tmp_path: Path, stage: str) -> None:
    """Waits until the onboarding is at a stage."""
    end = time.monotonic() + 120
    while not (tmp_path / "gates" / f"{stage}.at").exists():
        assert time.monotonic() < end, sorted((tmp_path / "gates").iterdir())
        time.sleep(0.05)


def passed(tmp_path: Path, stage: str) -> None:
    """Lets the onboarding go on from a stage."""
    (tmp_path / "gates" / stage).touch()


def test_rollback_at_every_stage_of_an_onboarding_is_done_at_once_and_both_land(two, otmf, tmp_path) -> None:
    begun = started(otmf, two, makers.card(tmp_path / "cards", "three", seed=3), tmp_path)
    decided = []
    for number, stage in enumerate(STAGES):
        reached(tmp_path, stage)
        entry = decisions.roll_back(two, f"v{1 + number % 2}", by="ada", reason=f"at {stage}", log=print)
        decided.append((entry.action, entry.version))
        assert begun.poll() is None, "the onboarding goes on"
        passed(tmp_path, stage)
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode == 0, said
    history = [(entry.action, entry.version) for entry in version_history.decisions(two.root)]
    assert history[-6:] == [*decided, ("accepted", 3)]
    assert git.run(two.root, "status", "--porcelain") == ""
    assert re.search(r"\d+ checks hold, 0 do not", otmf("verify", "--unsigned", "--line", two.root).stdout)


def test_promotion_during_an_onboarding_has_it_made_again_on_top(otmf, tmp_path) -> None:
    line = light.line(tmp_path / "small")
    otmf("onboard", makers.card(tmp_path / "cards", "one", seed=1), "--line", line.root)
    otmf("onboard", makers.card(tmp_path / "cards", light.REFUSED, seed=9), "--line", line.root, code=1)
    begun = started(otmf, line, makers.card(tmp_path / "cards", "three", seed=3), tmp_path)
    for stage in ("finetune@three", "extract@three"):
        passed(tmp_path, stage)
    reached(tmp_path, "merge-step@s02")
    decisions.promote(line, light.REFUSED, by="ada", reason="wanted", log=print)
    for step in ("s02", "s03"):
        for stage in ("merge-step", "head-tune", "evaluate"):
            passed(tmp_path, f"{stage}@{step}")
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode == 0, said
    assert "three onboarded as s03, version v3" in said
    assert "finetune@three: restored" in said or "finetune@three: unchanged" in said, "only what differs is made again"
    params = workspace.params(line)
    assert [params.steps[step].task for step in params.steps] == ["one", light.REFUSED, "three"]
    assert [record.statement.decision.action for record in ledger.read(line.root)] == [
        "accepted", "refused", "overridden", "accepted"
    ]  # fmt: skip
    assert re.search(r"\d+ checks hold, 0 do not", otmf("verify", "--unsigned", "--line", line.root).stdout)


def cached(line: layout.Layout, content: bytes) -> Path:
    """The only file of DVC's cache with a content."""
    (path,) = (
        path for path in (line.root / ".dvc/cache/files").rglob("*") if path.is_file() and path.read_bytes() == content
    )
    return path


def test_refused_attempt_whose_files_were_altered_is_found_and_not_promoted(two, otmf) -> None:
    assert "BAD" not in otmf("verify", "--unsigned", "--line", two.root).stdout
    head = cached(two, light.REFUSED.encode())
    head.chmod(0o644)
    head.write_bytes(b"other")
    said = otmf("verify", "--unsigned", "--line", two.root, code=1).stdout
    assert f"BAD rejected/{light.REFUSED}: data/models/heads/s03 in DVC's cache: expected sha256" in said
    said = otmf("promote", light.REFUSED, "--reason", "wanted", "--line", two.root, code=1).stderr
    assert re.search(r"expected data/models/\S+ with sha256 .* as it was refused; received", " ".join(said.split()))
    assert [entry.version for entry in version_history.decisions(two.root)] == [1, 2]
    head.unlink()
    said = otmf("promote", light.REFUSED, "--reason", "wanted", "--line", two.root, code=1).stderr
    assert "with sha256" in " ".join(said.split())


def test_output_of_a_run_that_nobody_recorded_is_named(two, otmf, tmp_path) -> None:
    """DVC restores what its run cache says that a run once made: whoever writes there says what a version holds."""
    otmf("retire", "two", "--reason", "x", "--line", two.root)
    content = b"EVIL"
    name = hashlib.md5(content).hexdigest()
    listing = json.dumps([{"md5": name, "relpath": "model.safetensors"}]).encode()
    for digest, ending, data in ((name, "", content), (hashlib.md5(listing).hexdigest(), ".dir", listing)):
        path = two.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for run in (path for path in (two.root / ".dvc/cache/runs").rglob("*") if path.is_file()):
        entry = YAML(typ="safe").load(run.read_text())
        if "finetune two" in entry["cmd"]:
            entry["outs"][0] |= {"md5": f"{hashlib.md5(listing).hexdigest()}.dir", "size": 4}
            run.chmod(0o644)
            makers.write_yaml(run, entry)
    otmf("onboard", makers.card(tmp_path / "cards", "two", seed=2), "--line", two.root)
    assert (two.finetuned("two") / "model.safetensors").read_bytes() == content
    said = otmf("verify", "--unsigned", "--line", two.root).stdout
    assert "which run made finetune@two, restored from DVC's run cache" in said


@pytest.mark.parametrize(
    ("path", "content"),
    [("steps/s02.json", "{}"), ("steps/s02.json", "null"), ("steps/s02.json", ""), ("gates/s02.json", "[{}]")],
)
def test_damaged_results_are_one_sentence_of_the_status(two, otmf, path, content) -> None:
    (two.root / "data/results" / path).write_text(content)
    said = otmf("status", "--line", two.root, code=1).stderr
    assert "expected results as `evaluate` and the gate write them in data/results of small; received others" in said
    assert "Traceback" not in said


def test_pipe_among_the_data_keeps_nobody_waiting(two, otmf) -> None:
    os.mkfifo(two.raw("one") / "pipe")
    assert (
        "BAD file data/raw/one/pipe: expected a file or a folder; received a pipe"
        in otmf("verify", "--unsigned", "--line", two.root, code=1).stdout
    )
    said = otmf("retrain", "--plan", "--line", two.root, code=1).stderr
    assert "received a pipe, a socket or a device at data/raw/one/pipe; delete it" in " ".join(said.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollback", "--reason", "x"],
        ["keys", "new", "--reason", "x"],
        ["onboard", "CARD", "--replace"],
        ["retrain", "one"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_two_at_once_are_done_one_after_the_other_or_one_is_refused(two, otmf, tmp_path, arguments) -> None:
    """With --wait both are done; a second onboarding of the same card finds nothing to do."""
    root = tmp_path / "small"
    shutil.copytree(two.root, root, symlinks=True)
    card = makers.card(tmp_path / "cards", "four", seed=4)
    words = [str(card) if word == "CARD" else word for word in arguments]
    command = [str(Path(sys.executable).parent / "otmf"), *words, "--wait", "120", "--line", str(root)]
    env = {**process.environment(), **otmf.environment}
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert "Traceback" not in "".join(said)
    assert git.run(root, "status", "--porcelain") == ""
    assert re.search(
        r"\d+ checks hold, 0 do not", otmf("verify", "--without-registry", "--unsigned", "--line", root).stdout
    )


def test_damaged_databases_are_a_sentence_and_what_is_open_is_noted(two, otmf, tmp_path) -> None:
    root = tmp_path / "small"
    shutil.copytree(two.root, root, symlinks=True)
    line = layout.Layout(root)
    whole = (line.tracking / "mlflow.db").read_bytes()
    (line.tracking / "mlflow.db").write_bytes(b"no database")
    done = otmf("rollback", "--reason", "x", "--line", root)
    assert "decided, but not yet in the tracking store: expected a tracking store at" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    said = otmf("status", "--line", root).stdout
    assert "the tracking store and its registry are not told everything yet" in said
    card = makers.card(tmp_path / "cards", "four", seed=4)
    refused = otmf("onboard", card, "--line", root, code=1)
    assert re.search("^otmf: expected a tracking store at .*", refused.stderr, re.MULTILINE)
    assert "Traceback" not in refused.stdout + refused.stderr
    (line.tracking / "mlflow.db").write_bytes(whole)
    assert "were told what they had not been told yet" in otmf("status", "--line", root).stdout
    (line.private / "prefect").mkdir(exist_ok=True)
    (line.private / "prefect/prefect.db").write_bytes(b"no database" * 1000)
    done = otmf("onboard", card, "--line", root, code=1, PREFECT_API_URL="")
    assert re.search("otmf: expected a Prefect server to start; received: .*; see .*server.log", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
