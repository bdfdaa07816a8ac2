"""Configurations of a comparison: the runs they ask for, and what is refused before any of them."""

from __future__ import annotations

import random

import pytest

from otmf import methods, settings
from otmf.evaluation import protocol, protocol_rows

TASKS = ["one", "two", "three"]


def asked(**values) -> list[protocol.Run]:
    content = {"line": "l", "methods": {"wudi": None}, **values}
    return protocol.runs(protocol.check(content), TASKS)


def test_orders_are_the_published_shuffles_and_seeds_42_to_51_unless_set() -> None:
    tasks = tuple("abcdefgh")
    found = protocol.runs(protocol.check({"methods": {"wudi": None}}), tasks)
    assert [run.order for run in found] == [str(seed) for seed in range(42, 52)]
    for run in found:
        wanted = list(tasks)
        random.Random(int(run.order)).shuffle(wanted)
        assert run.tasks == tuple(wanted)


def test_every_method_runs_over_every_order_and_seed() -> None:
    found = asked(
        orders=[42, ["three", "one", "two"]], seeds=[0, 7], methods={"wudi": None, "gentle": {"method": "opcm"}}
    )
    assert [run.name for run in found] == [
        f"{name}.{order}.{seed}" for name in ("wudi", "gentle") for order in ("42", "given2") for seed in (0, 7)
    ]
    assert found[-1].tasks == ("three", "one", "two")
    assert found[-1].merge["seed"] == 7


def test_order_that_an_earlier_one_repeats_is_no_further_evidence() -> None:
    found = protocol.runs(protocol.check({"methods": {"wudi": None}}), ("one", "two"))
    assert sorted(run.tasks for run in found) == [("one", "two"), ("two", "one")]
    assert len(protocol.runs(protocol.check({"methods": {"wudi": None}}), ("one",))) == 1


@pytest.mark.parametrize("values", [{"data": {"new": True}}, {"seeds": ["1"]}, {"data": {"old": "5"}}])
def test_what_would_pass_for_a_whole_number_is_refused(values) -> None:
    with pytest.raises(settings.SettingsError, match="expected a whole number; received"):
        asked(**values)


def test_many_seeds_and_many_mistakes_are_told_soon_and_in_few_words() -> None:
    assert len(protocol.check({"methods": {"wudi": None}, "seeds": list(range(60_000))}).seeds) == 60_000
    with pytest.raises(settings.SettingsError) as caught:
        protocol.check({"methods": {"wudi": None}, "tasks": [[]] * 5_000})
    assert len(str(caught.value)) < 4_000


def test_method_sees_as_much_as_the_rule_allows_where_it_does_not_say_how_much() -> None:
    run = asked(
        data={"new": 40, "old": 20}, methods={"a": {"preset": "default"}, "b": {"preset": "default", "memory_size": 5}}
    )
    assert [(found.merge["unlabelled_images"], found.merge["memory_size"]) for found in run[::10]] == [
        (40, 20),
        (40, 5),
    ]


def test_method_that_would_remember_remembers_nothing_where_the_rule_has_no_old_input() -> None:
    run = asked(data={"new": 40, "old": 0}, orders=[42], methods={"default": {"preset": "default"}, "said": {"preset": "default", "pre_images": "none"}})  # fmt: skip
    assert run[0].merge == run[1].merge
    assert run[0].merge["pre_images"] == "none"


def test_mistake_within_a_list_is_not_also_a_list_too_short() -> None:
    with pytest.raises(settings.SettingsError) as raised:
        asked(heads=["tuned"])
    assert "entries" not in str(raised.value)


def test_joint_merge_is_one_run_for_each_seed() -> None:
    found = asked(seeds=[0, 1], methods={"upper": {"method": "tsv_m", "joint": True}})
    assert [(run.joint, run.seed) for run in found] == [(True, 0), (True, 1)]
    both = asked(heads=["frozen", "aligned"], data={"new": 4}, methods={"upper": {"method": "tsv_m", "joint": True}})
    assert [[kind["heads"] for kind in run.heads] for run in both] == [["frozen"]]


def test_joint_forms_are_those_of_the_table() -> None:
    assert set(protocol_rows.JOINT) == {name for name, method in methods.METHODS.items() if method.joint}


def test_validation_is_held_out_from_what_merges_draw() -> None:
    assert {run.held_out for run in asked(score="validation", data={"new": 40})} == {40}
    assert {run.held_out for run in asked()} == {None}


def test_pairs_are_each_two_tasks_in_both_orders() -> None:
    found = asked(pairs=True)
    assert [(run.order, run.tasks) for run in found[:2]] == [
        ("one+two", ("one", "two")),
        ("one+three", ("one", "three")),
    ]
    assert {run.order for run in found} >= {"two+one", "three+two"}
    assert len({run.name for run in found}) == len(found) == 6


def test_aligned_heads_see_what_the_rule_allows_drawn_as_the_merge_draws_it() -> None:
    found = asked(
        heads=["frozen", "aligned"], data={"new": 40}, seeds=[3], methods={"wudi": {"head_tune": {"ridge": 0.5}}}
    )[0].heads
    assert [(one["heads"], one["unlabelled_images"], one["ridge"], one["seed"]) for one in found] == [
        ("frozen", 40, 0.5, 3),
        ("aligned", 40, 0.5, 3),
    ]


def test_row_whose_merge_depends_on_its_heads_is_parted_as_lines_with_those_heads_would_be() -> None:
    def told(**row) -> list[tuple[str, tuple[str, ...], float | None]]:
        heads = ["frozen", "aligned", "all"]
        found = asked(heads=heads, data={"new": 40, "old": 20, "labels": True}, orders=[42], methods={"x": row})
        return [
            (run.name, tuple(kind["heads"] for kind in run.heads), run.merge.get("head_ridge", "none")) for run in found
        ]

    chosen = settings.merge("default").head_ridge
    assert told(preset="default") == [
        ("x.42.0.frozen", ("frozen", "all"), None),
        ("x.42.0", ("aligned",), chosen),
    ]
    assert told(preset="default", heads=["previous", "aligned", "frozen"]) == [
        ("x.42.0.frozen", ("previous", "frozen"), None),
        ("x.42.0", ("aligned",), chosen),
    ]
    assert told(preset="default", heads=["aligned", "all"])[1] == ("x.42.0.all", ("all",), None)
    assert told(preset="default", heads=["all", "previous"]) == [("x.42.0", ("all", "previous"), None)]
    assert told(preset="default", heads=["frozen"]) == [("x.42.0", ("frozen",), None)]
    assert told(preset="default", heads=["aligned"]) == [("x.42.0", ("aligned",), chosen)]
    assert told(preset="paper") == [("x.42.0", ("frozen", "aligned", "all"), None)]
    assert told(method="wudi") == [("x.42.0", ("frozen", "aligned", "all"), "none")]


def test_what_a_run_is_decides_its_identity() -> None:
    first, inputs = asked()[0], {"data/x": "1"}
    assert first.identity(inputs) == asked()[0].identity(inputs)
    others = [
        asked(methods={"wudi": {"ridge": 0.5}})[0],
        asked()[1],
        asked(seeds=[3])[0],
        asked(after="own_and_last")[0],
        asked(score="validation")[0],
        asked(heads=["all"], data={"labels": True})[0],
    ]
    found = {run.identity(inputs) for run in others} | {first.identity({"data/x": "2"})}
    assert len(found) == 7
    assert first.identity(inputs) not in found


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"methods": {"wodi": None}}, "methods.wodi: method: expected one of otmf, .*; received 'wodi'"),
        ({"methods": {"x": {"preset": "best"}}}, "methods.x: preset: expected one of default, paper, transport; received 'best'"),
        ({"methods": {"wudi": {"alpha": 0.5}}}, "methods.wudi: alpha: expected a known key"),
        ({"methods": {}}, "methods: "),
        ({"methods": {"wudi": {"seed": 3}}}, "seed: expected none, as `seeds` has them"),
        ({"methods": {"opcm": {"joint": True}}}, "joint: expected true, and a method whose joint merge is another one"),
        ({"methods": {"wudi": {"heads": "all"}}}, "heads: expected a list"),
        ({"methods": {"wudi": {"heads": ["some"]}}}, "^methods.wudi: heads: (?!heads)"),
        ({"methods": {"wudi": {"heads": ["frozen", "frozen"]}}}, "methods.wudi: heads: expected each once; received 'frozen' twice"),
        ({"methods": {"wudi": {"heads": [["frozen"]]}}}, "heads: "),
        ({"methods": {"ties": {"joint": True, "heads": ["aligned"]}}}, r"heads: expected \[frozen\] beside joint"),
        ({"methods": {"x": {"preset": ["default"]}}}, "methods.x: preset: expected one of default"),
        ({"methods": {"wudi": {"code_version": 99}}}, "code_version: expected none"),
        ({"tasks": ["one", "four"]}, r"tasks: expected tasks of the line \(one, two, three\); received 'four'"),
        ({"tasks": ["one", "one"]}, "tasks: expected each once; received 'one' 2 times"),
        ({"tasks": []}, "tasks: expected at least one; received none"),
        ({"orders": [["one", "two"]]}, "orders: expected seeds or orders of the 3 tasks; received in place 1 one of 2 without three; name each"),
        ({"orders": [42, ["one", "two", "three", "x"], ["x"]]}, "received in place 2 one of 4 with x, and 1 more like it; name each"),
        ({"orders": [["one", "two", "three", "two"]]}, "received in place 1 one of 4 with a task twice; name each"),
        ({"orders": [["one", "two", "two"]]}, "orders: expected seeds or orders of the 3 tasks; received in place 1 one of 3 without three"),
        ({"orders": []}, "orders: "),
        ({"orders": [42, -1]}, "^orders: expected seeds, whole numbers from 0 to .*, or lists of tasks; received '-1'; correct it$"),
        ({"orders": [True]}, "^orders: expected seeds, .*; received 'True'; correct it$"),
        ({"line": "a\0b"}, "^line: expected the path of a folder; received one with a null byte"),
        ({"pairs": True, "tasks": ["one"]}, "pairs: expected at least two tasks; received 1"),
        ({"pairs": True, "orders": [42]}, "pairs: expected no orders beside them"),
        ({"pairs": True, "methods": {"ties": {"joint": True}}}, "joint: expected none beside pairs"),
        ({"orders": [42, 42]}, "orders: .*each once; received 42 twice"),
        ({"data": {"new": 0}, "methods": {"lot": None}}, "at most 0 inputs of the new task, as data.new says; received lot"),
        ({"methods": {"paper": {"preset": "paper"}}}, "at most 0 remembered inputs of old tasks, as data.old says where it is left out; received otmf"),
        ({"data": {"old": 0}, "methods": {"x": {"preset": "default", "memory_size": 9}}}, "as data.old says; received otmf, which sees 9; raise data.old, or set pre_images: none in the row"),
        ({"data": {"new": 0}, "heads": ["aligned"]}, "expected data.new above 0 beside aligned heads"),
        ({"orders": 42}, "orders: expected a list; received 42"),
        ({"methods": ["wudi"]}, "methods: expected a mapping; received"),
        ({"methods": {"My_Row": {"method": "wudi"}}}, "methods.My_Row: expected a name of at most .* rename it"),
        ({"taks": ["one"]}, "taks: expected a known key; received an unknown one; write tasks, or remove it"),
        ({"methods": {"opcm": {"treshold": 0.4}}}, "methods.opcm: treshold: .*; write threshold, or remove it"),
        (
            {"data": {"old": 9}, "methods": {"paper": {"preset": "paper", "memory_size": 10}}},
            "at most 9 remembered inputs of old tasks.*received otmf, which sees 10",
        ),
        ({"heads": ["previous"]}, "heads: expected frozen or aligned ones, as data.labels is false"),
        ({"methods": {"wudi": {"heads": ["aligned"], "head_tune": {"unlabelled_images": 900}}}}, "as data.new says; received 900"),
        ({"methods": {"wudi": {"head_tune": {"ridge": 0}}}}, "methods.wudi: head_tune: ridge: "),
        ({"methods": {"wudi": {"head_tune": ["ridge"]}}}, "head_tune: expected a mapping of settings of heads without"),
        ({"methods": {"wudi": {"head_tune": {"heads": "all"}}}}, "head_tune: expected a mapping of settings of heads without"),
        ({"colour": 1}, "colour: expected a known key"),
        ({"data": {"new": 1}}, "data.new: expected 0, or at least 2"),
        ({"methods": {"wudi": {"preset": "default"}}}, "preset: expected none beside method wudi, as presets are of otmf; received 'default'"),
        ({"methods": {"x": {"preset": "paper", "method": "wudi"}}}, "preset: expected none beside method wudi"),
        ({"methods": {"x": {"preset": ""}}}, "preset: expected one of default, paper, transport; received ''"),
        ({"methods": {"x": {"preset": 0}}}, "preset: expected one of "),
        ({"methods": {"default": {}}}, "expected one beside a row named default, which is a preset; received none; write {preset: default}"),
    ],
)  # fmt: skip
def test_mistake_gets_one_sentence_before_anything_runs(values, said) -> None:
    with pytest.raises(settings.SettingsError, match=said):
        asked(**values)


def test_all_mistakes_of_methods_tasks_and_orders_are_said_together() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        asked(tasks=["one", "four"], orders=[["one"]], methods={"wodi": None})
    assert all(part in str(caught.value) for part in ("tasks: ", "orders: ", "methods.wodi: "))


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_file_of_another_form_is_refused(content) -> None:
    with pytest.raises(settings.SettingsError, match="expected a mapping with `methods`; received"):
        protocol.check(content)
