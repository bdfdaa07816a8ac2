"""The same card twice, a changed card, retraining and retiring, on a real line of three tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.changes import plan, retrain
from flows.dvc import commands
from flows.line import chain, workspace
from flows.programs import git
from otmf import settings
from otmf.provenance import digests
from otmf.runtime import layout
from tests import makers

pytestmark = pytest.mark.pipeline
LATER = ["merge-step@s02", "head-tune@s02", "evaluate@s02", "merge-step@s03", "head-tune@s03", "evaluate@s03"]


@pytest.fixture(scope="module")
def cards(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cards")
    return {name: makers.card(folder, name, seed=seed) for seed, name in enumerate(("one", "two", "three"), start=1)}


@pytest.fixture(scope="module")
def root(otmf, cards, tmp_path_factory) -> Path:
    root = makers.line(tmp_path_factory.mktemp("retrained") / "small")
    for card in cards.values():
        otmf("onboard", card, "--line", root, "--override", "these tasks are a second's work")
    return root


def ran(text: str) -> list[str]:
    return re.findall(r"Running stage '(.+)':", text)


def head(root: Path) -> str:
    return git.run(root, "rev-parse", "HEAD").strip()


def test_same_card_with_the_same_data_changes_nothing(otmf, root, cards) -> None:
    before = head(root)
    done = otmf("onboard", cards["two"], "--line", root, "--replace")
    assert "two is onboarded already as s02, with the same card and data: nothing to do" in done.stdout
    assert ran(done.stdout + done.stderr) == []
    assert head(root) == before


def test_nothing_stale_is_nothing_to_retrain(otmf, root) -> None:
    before = head(root)
    assert "Everything is up to date: nothing to run." in otmf("retrain", "--line", root).stdout
    assert head(root) == before


def test_plan_says_what_would_run_why_and_for_how_long_and_runs_nothing(otmf, root) -> None:
    before = head(root)
    said = otmf("retrain", "two", "--plan", "--line", root).stdout
    assert "8 stages would run" in said
    for stage in ["finetune@two", "extract@two", *LATER]:
        assert stage in said
    assert "finetune@three" not in said
    assert "asked for" in said
    assert "0 never ran here" in said
    assert head(root) == before


def test_all_asks_for_every_stage_again(root) -> None:
    line = workspace.open_line(root)
    wanted = retrain.wanted(line, [], everything=True)
    assert list(wanted) == [name for name, _ in chain.stages(line, workspace.params(line))]
    assert set(wanted.values()) == {"asked for"}


def test_renewed_steps_have_no_settings_of_an_earlier_release(root) -> None:
    line = workspace.open_line(root)
    before = line.params.read_bytes()
    document = workspace.read_params(line)
    document["steps"]["s01"]["merge"] |= {"code_version": 4, "coefficient": 0.3, "ridge": 0.01}
    workspace.write_params(line, document)
    retrain._renew(line, [], everything=True)
    assert workspace.params(line).steps["s01"].merge == settings.merge("default", document["steps"]["s02"]["merge"])
    line.params.write_bytes(before)


def test_changed_data_of_a_known_task_is_a_retraining_from_its_step_on(otmf, root, cards) -> None:
    card = makers.card(cards["two"].parent / "changed", "two", seed=22)
    done = otmf("onboard", card, "--line", root, "--replace", "--override", "new photographs")
    assert ran(done.stdout + done.stderr) == ["finetune@two", "extract@two", *LATER]
    assert git.run(root, "log", "-1", "--format=%s", "HEAD^").strip() == "Retrain two as s02"
    assert commands.stale(root) == []
    assert list(workspace.params(layout.Layout(root)).steps) == ["s01", "s02", "s03"]


def test_changed_parameter_is_retrained_and_reasons_are_dvcs(otmf, root) -> None:
    line = workspace.open_line(root)
    document = workspace.read_params(line)
    document["steps"]["s03"]["merge"]["scale"] = 0.9
    workspace.write_params(line, document)
    workspace.commit(root, "Merge the third task more gently")
    assert list(retrain.wanted(line, [], everything=False)) == LATER[3:]
    assert "steps.s03.merge modified" in plan.changed(line)["merge-step@s03"]
    done = otmf("retrain", "--changed", "--line", root, "--override", "a trial")
    assert ran(done.stdout + done.stderr) == LATER[3:]
    assert "3 stages ran" in done.stdout


def test_method_that_lacks_its_own_past_is_refused_before_anything_runs(otmf, root, cards, tmp_path) -> None:
    line, before = workspace.open_line(root), head(root)
    kept = line.params.read_bytes()
    document = workspace.read_params(line)
    document["steps"]["s03"]["merge"] = {"method": "wudi"}
    workspace.write_params(line, document)
    said = otmf("retrain", "--plan", "--line", root, code=1).stderr
    assert (
        "steps.s03.merge: expected method otmf as at s02, as wudi needs what its own earlier steps left; received wudi"
        in said
    )
    line.params.write_bytes(kept)
    card = makers.card(tmp_path, "four", seed=9, merge={"method": "fisher"})
    done = otmf("onboard", card, "--line", root, code=1)
    assert "card four: steps.s04.merge: expected method otmf as at s03, as fisher needs" in done.stderr
    assert ran(done.stdout + done.stderr) == []
    assert head(root) == before


def test_plan_says_what_has_to_be_committed_and_retraining_is_refused_at_once(otmf, root) -> None:
    line = workspace.open_line(root)
    kept = line.params.read_bytes()
    document = workspace.read_params(line)
    document["steps"]["s03"]["merge"]["scale"] = 0.8
    workspace.write_params(line, document)
    assert "Commit params.yaml with git first" in otmf("retrain", "--plan", "--line", root).stdout
    for command in (("retrain",), ("retire", "one", "--reason", "x")):
        done = otmf(*command, "--line", root, code=1)
        assert "expected a line without uncommitted changes; received params.yaml" in done.stderr
        assert "Beginning flow run" not in done.stdout + done.stderr
    line.params.write_bytes(kept)


def test_line_is_merged_by_another_method_where_every_step_says_so(otmf, tmp_path, cards) -> None:
    """As docs/cards.md says it."""
    root = makers.line(tmp_path / "other")
    for name in ("one", "two"):
        otmf("onboard", cards[name], "--line", root, "--override", "these tasks are a second's work")
    line = workspace.open_line(root)
    document = workspace.read_params(line)
    document["defaults"]["merge"] = {"method": "fisher"}
    for step in document["steps"].values():
        step["merge"] = {"method": "fisher"}
    workspace.write_params(line, document)
    workspace.commit(root, "Merge by Fisher information")
    done = otmf("retrain", "--line", root, "--override", "a trial")
    assert "finetune@" not in " ".join(ran(done.stdout + done.stderr))
    assert json.loads(line.trace("s02").read_text())["method"] == "fisher"
    otmf("onboard", cards["three"], "--line", root, "--override", "these tasks are a second's work")
    assert json.loads(line.trace("s03").read_text())["method"] == "fisher"


def test_named_task_is_trained_again_to_the_same_bytes(otmf, root) -> None:
    line = layout.Layout(root)
    before = digests.digest(line.merged("s03"))
    done = otmf("retrain", "three", "--line", root, "--override", "to see")
    assert ran(done.stdout + done.stderr) == ["finetune@three"]  # what follows finds the same inputs
    assert digests.digest(line.merged("s03")) == before


def test_unknown_task_is_refused_in_one_sentence(otmf, root) -> None:
    before = head(root)
    for command in (("retrain", "four"), ("retire", "four", "--reason", "x")):
        said = otmf(*command, "--line", root, code=1).stderr
        assert "expected a task of this line (one, two, three); received 'four'; choose one of them" in said
    assert "expected one of TASK, --changed and --all" in otmf("retrain", "one", "--all", "--line", root, code=1).stderr
    assert head(root) == before


def test_retired_task_is_gone_and_the_chain_is_as_if_it_had_never_been(otmf, root, cards, tmp_path) -> None:
    done = otmf("retire", "two", "--reason", "its licence ran out", "--line", root)
    assert ran(done.stdout + done.stderr) == ["merge-step@s02", "head-tune@s02", "evaluate@s02"]
    line = layout.Layout(root)
    params = workspace.params(line)
    assert [params.steps[step].task for step in settings.chain(params.steps)] == ["one", "three"]
    assert commands.stale(root) == []
    assert git.run(root, "status", "--porcelain") == ""
    said = otmf("verify", "--unsigned", "--line", root).stdout
    assert "ok  v2: data/models/finetuned/two in DVC's cache" in said, "the versions it was in are still whole"
    for path in (line.card("two"), line.raw("two"), line.evaluation("s03"), line.merged("s03"), line.finetuned("two")):
        assert not path.exists()
    assert "two" not in (root / "dvc.lock").read_text()
    assert set(json.loads(line.evaluation("s02").read_text())["references"]) == {"one", "three"}
    fresh = makers.line(tmp_path / "small")
    again = makers.card(tmp_path / "cards", "three", seed=3, merge={"scale": 0.9})
    for card in (cards["one"], again):
        otmf("onboard", card, "--line", fresh, "--override", "never two")
    assert digests.digest(layout.Layout(fresh).merged("s02")) == digests.digest(line.merged("s02"))


def test_only_task_is_not_retired(otmf, tmp_path, cards) -> None:
    root = makers.line(tmp_path / "small")
    otmf("onboard", cards["one"], "--line", root)
    said = otmf("retire", "one", "--reason", "x", "--line", root, code=1).stderr
    assert "expected a line with another task than one" in said
