"""Settings: the whole of params.yaml is checked, all mistakes together, the order of merging included."""

from __future__ import annotations

import copy
import re

import pytest

from otmf import settings
from otmf.settings import merge_methods

GOOD = {
    "line": "small",
    "tasks": {"a": {}, "b": {}, "c": {}},
    "steps": {
        "s01": {"task": "a", "previous": "s00"},
        "s02": {"task": "b", "previous": "s01"},
        "s03": {"task": "c", "previous": "s02"},
    },
}


def changed(**changes) -> dict:
    """GOOD with values replaced at dotted places (`__` for a dot)."""
    content = copy.deepcopy(GOOD)
    for place, value in changes.items():
        *path, last = place.split("__")
        section = content
        for key in path:
            section = section.setdefault(key, {})
        section[last] = value
    return content


def test_good_parameters_pass_and_give_the_chain() -> None:
    assert settings.chain(settings.check(GOOD).steps) == ["s01", "s02", "s03"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(colour="red"), "colour: expected a known key; received an unknown one"),
        (changed(steps__s01__merge__alpha=1.5), r"steps.s01.merge.alpha: .*expected a number up to 1; received 1.5"),
        (changed(steps__s01__merge__alpha=-0.1), "steps.s01.merge.alpha: .*expected a number from 0 on"),
        (changed(steps__s01__merge__alpha=float("nan")), "steps.s01.merge.alpha: .*finite"),
        (changed(steps__s01__merge__epsilon=0), "steps.s01.merge.epsilon: .*expected a number above 0; received 0"),
        (
            changed(steps__s02__previous="s07"),
            "steps.s02.previous: expected s00 or another step; received 's07', which is unknown",
        ),
        (
            changed(steps__s03__previous="s01"),
            "steps.s03.previous: expected a step that nothing follows; received 's01'",
        ),
        (changed(steps__s01__previous="s03"), "expected a chain that ends at s00; received a cycle"),
        (changed(steps__s02__previous="s02"), "received a cycle"),
        (
            changed(steps__s03__task="a"),
            "steps.s03.task: expected a task not merged before; received 'a', which s01 merges already",
        ),
        (changed(steps__s03__task="z"), r"steps.s03.task: expected one of the tasks \(a, b, c\); received 'z'"),
        (changed(steps__s05={"task": "c", "previous": "s03"}), "expected s04 as the name of step 4; received 's05'"),
        (changed(tasks__A={}), "tasks: expected a name .* received 'A'"),
        (changed(defaults__merge={"alfa": 1}), "defaults.merge: alfa: expected a known key"),
        (changed(defaults__preset="best"), "defaults.preset: .*'default', 'paper' or 'transport'"),
        ([1, 2], "expected a mapping of sections; received list"),
    ],
)
def test_mistake_gets_one_sentence(content, message) -> None:
    with pytest.raises(settings.SettingsError, match=message) as caught:
        settings.check(content)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_reported_together() -> None:
    content = changed(colour="red", steps__s01__merge__alpha=2, steps__s02__previous="s09")
    with pytest.raises(settings.SettingsError) as caught:
        settings.check(content)
    assert all(place in str(caught.value) for place in ("colour", "steps.s01.merge.alpha", "steps.s02.previous"))


def test_preset_paper_is_the_published_method() -> None:
    paper = settings.merge("paper", {})
    assert (paper.combination, paper.alpha, paper.steps, paper.learning_rate, paper.batch_size) == (
        "convex",
        0.8,
        100,
        0.01,
        16,
    )
    assert (paper.alternate, paper.pre_images, paper.objective) == (True, "previous_task", "sinkhorn_divergence")


def test_single_values_replace_those_of_a_preset() -> None:
    assert settings.merge("paper", {"steps": 7}).steps == 7


def test_granularity_brings_the_rate_and_retention_of_its_masks_unless_they_are_set() -> None:
    def taken(*layers) -> tuple[str, float, float]:
        found = settings.merge("default", *layers)
        return found.granularity, found.learning_rate, found.retention

    low_rank = settings.merge("default")
    assert taken({}) == taken({"granularity": "low_rank"}) == ("low_rank", low_rank.learning_rate, low_rank.retention)
    assert taken({"granularity": "element"}) == ("element", 0.02, 0.1)
    frozen = settings.merge("default", {"granularity": "element"}, heads="frozen")
    assert (frozen.learning_rate, frozen.retention) == (0.02, 0.1)
    assert taken({"granularity": "element", "retention": 0.4}) == ("element", 0.02, 0.4)
    assert taken({"retention": 0.4}, {"granularity": "element"}) == ("element", 0.02, 0.4)
    assert (
        settings.merge("transport", {"granularity": "sparse"}).learning_rate
        == settings.merge("transport").learning_rate
    )
    assert settings.merge("default", {"granularity": "element"}, {"method": "wudi"}).method == "wudi"
    with pytest.raises(settings.SettingsError, match="granularity: "):
        settings.merge("default", {"granularity": ["element"]})


def test_default_is_drawn_back_more_firmly_where_it_sees_no_old_input_unless_it_is_set() -> None:
    def retention(preset="default", **layer) -> float:
        return settings.merge(preset, layer).retention

    assert retention() == retention(pre_images="memory") == retention(pre_images="previous_task") == 0.1
    assert retention(pre_images="none") == retention(pre_images="new_task") == retention(memory_size=0) == 0.3
    assert retention(pre_images="none", retention=0.2) == 0.2
    assert retention(pre_images="none", granularity="element") == 0.1
    assert retention("transport", pre_images="none") == 0.0
    assert settings.merge("default", {"granularity": "element"}).aligned_retention == 0.01
    for unusual in ([], {}, 0):
        with pytest.raises(settings.SettingsError, match="pre_images: "):
            retention(pre_images=unusual)


def test_default_follows_from_whether_the_new_head_will_be_aligned_unless_it_is_set() -> None:
    def taken(heads: str | None, preset: str = "default", **layer) -> tuple[float | None, float, float]:
        found = settings.merge(preset, layer, heads=heads)
        return found.head_ridge, found.retention, found.aligned_retention

    assert taken("aligned") == taken(None) == (0.1, 0.1, 0.03)
    assert taken("frozen")[:2] == taken("previous")[:2] == taken("all")[:2] == (None, 0.1)
    assert taken("frozen", retention=0.2)[:2] == (None, 0.2)
    assert taken("frozen", head_ridge=0.5)[0] == 0.5
    assert taken("frozen", "paper") == taken("aligned", "paper")
    assert settings.merge("default", {"method": "wudi"}, heads="frozen").method == "wudi"


def test_aligned_start_beside_heads_that_stay_frozen_is_refused() -> None:
    def content(heads: str) -> dict:
        merge = settings.merge("default", {"head_ridge": 0.3}).model_dump(mode="json")
        step = {"task": "a", "previous": "s00", "merge": merge, "head_tune": {"heads": heads}}
        return {"line": "l", "tasks": {"a": {}}, "steps": {"s01": step}}

    settings.check(content("aligned"))
    with pytest.raises(
        settings.SettingsError,
        match=r"steps\.s01: .*expected head_tune.heads other than frozen beside merge.head_ridge.*; received frozen; leave out head_ridge",
    ):
        settings.check(content("frozen"))
    defaults = {"merge": {"head_ridge": 0.3}, "head_tune": {"heads": "frozen"}}
    with pytest.raises(settings.SettingsError, match=r"defaults: expected head_tune\.heads other than frozen"):
        settings.check({"line": "l", "defaults": defaults})
    settings.check({"line": "l", "defaults": {"head_tune": {"heads": "frozen"}}})


@pytest.mark.parametrize(("key", "least"), [("steps", 0), ("memory_size", 0), ("rank", 1), ("batch_size", 2)])
def test_counts_are_within_what_a_machine_counts_to(key, least) -> None:
    assert getattr(settings.merge("default", {key: least}), key) == least
    for wrong in (least - 1, 10**30):
        with pytest.raises(settings.SettingsError, match=rf"^{key}: .*received {wrong}"):
            settings.merge("default", {key: wrong})


@pytest.mark.parametrize("method", ["x", ["otmf"], 3, None])
def test_unknown_method_gets_one_sentence_wherever_it_stands(method) -> None:
    with pytest.raises(
        settings.SettingsError, match="^method: expected one of otmf, .*; received .*; choose one of them"
    ):
        settings.merge("default", {"method": method})
    step = {"task": "a", "previous": "s00", "merge": {"method": method}}
    with pytest.raises(
        settings.SettingsError, match=r"steps\.s01\.merge: .*expected `method` as one of otmf, .*; choose one"
    ) as caught:
        settings.check({"line": "l", "tasks": {"a": {}}, "steps": {"s01": step}})
    assert "Input tag" not in str(caught.value)


def test_values_for_another_method_do_not_hinder_a_card_that_names_one() -> None:
    found = settings.merge("paper", {"steps": 7, "left_out": ["ln_*"]}, {"method": "opcm", "threshold": 0.4})
    assert (found.method, found.threshold, found.left_out) == ("opcm", 0.4, ("ln_*",))
    assert settings.merge("paper", {"steps": 7}, {"alpha": 0.6}).steps == 7
    with pytest.raises(settings.SettingsError, match="alpha: expected a known key"):
        settings.merge("default", {}, {"method": "opcm", "alpha": 0.4})


def test_step_that_an_earlier_release_wrote_reads_on() -> None:
    """Up to code version 4 every step had the settings of all methods; those that its own has no use for decided nothing."""
    there = {"method", "seed", "left_out"} | (merge_methods.SHARED_ONCE - {"coefficient", "ridge"})
    former = {
        key: value for key, value in settings.merge("transport", {}).model_dump(mode="json").items() if key in there
    }
    former |= {"coefficient": 0.3, "ridge": 0.01, "code_version": 4}
    content = {"line": "l", "tasks": {"a": {}}, "steps": {"s01": {"task": "a", "previous": "s00", "merge": former}}}
    assert settings.check(content).steps["s01"].merge == settings.merge("transport", {}).model_copy(
        update={"code_version": 4}
    )
    content["steps"]["s01"]["merge"] = former | {"method": "wudi", "ridge": 0.5}
    assert settings.check(content).steps["s01"].merge.ridge == 0.5
    for wrong, said in (
        ({"code_version": 5}, "expected settings of method otmf alone|expected a known key"),
        ({"colour": 1}, "expected a known key"),
    ):
        content["steps"]["s01"]["merge"] = former | wrong
        with pytest.raises(settings.SettingsError, match=said):
            settings.check(content)


def test_many_settings_of_another_method_are_one_sentence() -> None:
    merge = settings.merge("default", {}).model_dump(mode="json") | {"method": "wudi"}
    content = {"line": "l", "tasks": {"a": {}}, "steps": {"s01": {"task": "a", "previous": "s00", "merge": merge}}}
    with pytest.raises(settings.SettingsError) as caught:
        settings.check(content)
    assert str(caught.value).count("expected") == 1
    assert re.search(
        r"merge: expected settings of method wudi alone; received \w+, \w+, \w+ and \d+ more, which other methods have",
        str(caught.value),
    )


@pytest.mark.parametrize("value", [True, "0.5"])
@pytest.mark.parametrize("rule", ["least_of_finetuned", "largest_drop", "largest_average_drop"])
def test_what_is_no_number_is_no_bound_of_the_gate(rule, value) -> None:
    with pytest.raises(ValueError, match=f"expected a number; received {value!r}"):
        settings.Gate.model_validate({rule: value})
