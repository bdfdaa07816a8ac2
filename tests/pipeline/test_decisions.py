"""Decisions while work is under way: a rollback at every stage of an onboarding, a promotion that overtakes one."""

from __future__ import annotations

import re
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
