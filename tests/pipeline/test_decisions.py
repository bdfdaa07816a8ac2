"""Decisions while work is under way: a rollback at every stage of an onboarding, a promotion that overtakes one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import git, process, promotion, versions, workspace
from otmf import layout, ledger
from tests import light, makers

pytestmark = pytest.mark.pipeline
STAGES = ("finetune@three", "extract@three", "merge-step@s03", "head-tune@s03", "evaluate@s03")


@pytest.fixture(scope="module")
def two(otmf, tmp_path_factory) -> layout.Layout:
    """A light line with two tasks, and one that the gate refused."""
    folder = tmp_path_factory.mktemp("lines")
    line = light.line(folder / "small")
    for seed, name in enumerate(("one", "two"), start=1):
        otmf("onboard", makers.card(folder / "cards", name, seed=seed), "--line", line.root)
    otmf("onboard", makers.card(folder / "cards", light.REFUSED, seed=9), "--line", line.root, code=1)
    return line


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
        entry = promotion.roll_back(two, f"v{1 + number % 2}", by="ada", reason=f"at {stage}", log=print)
        decided.append((entry.action, entry.version))
        assert begun.poll() is None, "the onboarding goes on"
        passed(tmp_path, stage)
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode == 0, said
    history = [(entry.action, entry.version) for entry in versions.history(two.root)]
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
    promotion.promote(line, light.REFUSED, by="ada", reason="wanted", log=print)
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
