"""Tables of a comparison: figures known beforehand, tests that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.bench import tables

MATRICES = {  # R[t,i] of two orders of two tasks
    "42": (("one", "two"), [[0.9], [0.7, 0.8]]),
    "43": (("two", "one"), [[0.8], [0.8, 0.9]]),
}


def rows(name: str, shift: float = 0.0, **values) -> list[dict]:
    return [
        {"method": name, "heads": "frozen", "order": order, "seed": 0, "step": step, "task": task, "accuracy": line[place] - shift,
         "sees": "nothing", "joint": False, "new_inputs": 0, "old_inputs": 0, "seconds": 2.0 * step, "peak_mib": 100.0, "added_mib": 10.0,
         "state_mib": 1.0, "mask_share": None, "dissimilarity": None, "device": "cpu", "dtype": "float32", "threads": 1, "release": "r", "commit": "c"} | values
        for order, (tasks, matrix) in MATRICES.items()
        for step, line in enumerate(matrix, start=1)
        for place, task in enumerate(tasks[:step])
    ]  # fmt: skip


REFERENCES = pd.DataFrame({"task": ["one", "two"], "base": [0.5, 0.3], "finetuned": [0.9, 0.8]})


def titled(tasks: list[str], *, orders: int, line: str = "l") -> dict:
    return {
        "line": line,
        "tasks": tasks,
        "scored": "test",
        "orders": orders,
        "seeds": 1,
        "new": 0,
        "old": 0,
        "labels": False,
    }


def summary(*found: list[dict]) -> dict:
    return tables.summarised(pd.DataFrame([row for one in found for row in one]), REFERENCES)


def test_figures_are_those_of_the_matrices() -> None:
    found = summary(rows("a"))["methods"][0]
    assert found["acc"] == pytest.approx((0.8, 0.0707107), abs=1e-6)  # 0.75 and 0.85
    assert found["bwt"] == pytest.approx((-0.1, 0.1414214), abs=1e-6)  # -0.2 and 0
    assert found["learned"] == pytest.approx((0.85, 0.0))
    assert found["normalised"][0] == pytest.approx(((0.7 / 0.9 + 1) / 2 + 1) / 2)
    assert found["after"][1] == pytest.approx((0.85, 0.0707107), abs=1e-6)
    assert found["dropped"] == {1: pytest.approx((-0.1, 0.1414214), abs=1e-6)}
    assert {task: value[0] for task, value in found["since"].items()} == pytest.approx({"one": -0.2, "two": 0.0})
    assert found["costs"][2] == {"seconds": (4.0, 0.0), "added_mib": (10.0, 0.0), "state_mib": (1.0, 0.0)}
    assert found["final"]["one"][0] == pytest.approx(0.8)
    assert found["seconds"] == (4.0, 0.0)  # later steps than the first


def test_trend_of_a_cost_is_of_the_second_half_of_later_steps_against_the_first() -> None:
    """Steps 2 to 5 of two runs: 2, 2, 3, 3 seconds and 4, 4, 4, 4; the first step does not count."""
    seconds = {"42": [9, 2, 2, 3, 3], "43": [1, 4, 4, 4, 4]}
    found = [
        row | {"order": order, "step": step, "task": "one", "seconds": float(value), "state_mib": 0.0}
        for row in rows("a")[:1]
        for order, values in seconds.items()
        for step, value in enumerate(values, start=1)
    ]
    trend = tables.summarised(pd.DataFrame(found), REFERENCES[:1])["methods"][0]["trend"]
    assert trend["seconds"] == pytest.approx((0.25, 0.3535534), abs=1e-6)
    assert trend["added_mib"] == (0.0, 0.0)
    assert trend["state_mib"] is None  # nothing is kept
    untold = pd.DataFrame([row | {"added_mib": None} for row in found])  # where the platform does not say it
    assert tables.summarised(untold, REFERENCES[:1])["methods"][0]["trend"]["added_mib"] is None


def test_joint_merge_has_no_backward_transfer_and_is_not_the_reference() -> None:
    last = [row for row in rows("upper", -0.05, joint=True) if row["step"] == 2]
    found = summary(rows("a"), last)
    assert found["methods"][1]["bwt"] is None
    assert found["best"] == "a"
    assert found["tests"] == []


def test_methods_are_tested_against_the_best_on_the_same_orders() -> None:
    found = summary(rows("a", 0.1), rows("b"))
    assert found["best"] == "b"
    test = found["tests"][0]
    assert (test["label"], test["pairs"], test["p"]) == (
        "a",
        2,
        0.5,
    )  # of the four ways to flip two signs two are as large
    assert test["difference"] == pytest.approx((-0.1, 0.0), abs=1e-9)


def test_ten_differences_of_one_sign_have_the_least_p_there_is() -> None:
    assert tables.p_value(np.linspace(0.1, 1.0, 10)) == pytest.approx(2 / 2**10)
    assert tables.p_value(np.zeros(10)) == 1.0
    assert tables.p_value(np.array([1.0, -1.0, 2.0, -2.0])) > 0.9


def test_holms_correction_is_his() -> None:
    assert tables.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_corrected_values_keep_the_order_and_are_no_smaller(values) -> None:
    found = tables.holm(values)
    assert all(0 <= before <= after <= 1 for before, after in zip(values, found, strict=True))
    ranked = [after for _, after in sorted(zip(values, found, strict=True))]
    assert ranked == sorted(ranked)


def test_pages_have_every_method_and_no_broken_table(tmp_path) -> None:
    title = titled(["one", "two"], orders=2, line="l<b>")
    tables.write(tmp_path, pd.DataFrame(rows("a", 0.1) + rows("b")), REFERENCES, title=title)
    page = (tmp_path / "tables.html").read_text(encoding="utf-8")
    assert "l&lt;b&gt;" in page
    assert page.count("<svg") == 3
    text = (tmp_path / "tables.md").read_text(encoding="utf-8").splitlines()
    assert "| b | -20.0 | +0.0 |" in text
    assert any(line.startswith("| b | nothing | 2 | 80.0 ± 7.1 | -10.0 ± 14.1 |") for line in text)
    width = 0
    for line in text:
        if not line.startswith("|"):
            width = 0
            continue
        assert width in (0, line.count("|")), line
        width = line.count("|")


def test_task_that_always_comes_last_has_no_change_since_its_step(tmp_path) -> None:
    only = [row | {"peak_mib": None} for row in rows("a") if row["order"] == "42"]
    title = titled(["one", "two"], orders=1)
    tables.write(tmp_path, pd.DataFrame(only + [row | {"method": "b"} for row in only]), REFERENCES, title=title)
    assert "| a | -20.0 | - |" in (tmp_path / "tables.md").read_text(encoding="utf-8")


def test_one_task_has_no_backward_transfer(tmp_path) -> None:
    only = [row for row in rows("a") if row["step"] == 1 and row["task"] == "one"]
    found = tables.summarised(pd.DataFrame(only), REFERENCES[:1])
    assert found["methods"][0]["bwt"] is None
    title = titled(["one"], orders=1)
    tables.write(tmp_path, pd.DataFrame(only), REFERENCES[:1], title=title)
    assert "| a | nothing | 1 | 90.0 |  |  |" in (tmp_path / "tables.md").read_text(encoding="utf-8")


def test_what_heads_read_is_told_beside_what_merges_saw() -> None:
    aligned = rows("a", heads="aligned", new_inputs=8, head_inputs=16)
    tuned = rows("a", heads="all", old_inputs=4, head_inputs=40)
    assert [row["sees"] for row in summary(rows("a", head_inputs=0), aligned, tuned)["methods"]] == [
        "nothing",
        "8 new; heads 16 new",
        "4 old; heads 40 labelled",
    ]


def test_rows_that_do_not_say_what_heads_read_stand_beside_those_that_do() -> None:
    earlier, now = rows("a"), rows("b", heads="aligned", head_inputs=16)
    assert [row["sees"] for row in summary(earlier, now)["methods"]] == ["nothing", "nothing; heads 16 new"]


def test_forgetting_is_told_only_where_every_step_was_scored() -> None:
    four = pd.DataFrame([
        {**rows("a")[0], "order": "42", "step": step, "task": task, "accuracy": value}
        for step, task, value in [(1, "x", 0.5), (2, "x", 0.9), (2, "one", 0.8), (3, "x", 0.6), (3, "one", 0.7), (3, "two", 0.8)]
    ])  # fmt: skip
    references = pd.DataFrame({"task": ["x", "one", "two"], "base": [0.5] * 3, "finetuned": [0.9] * 3})
    told = tables.summarised(four, references)
    assert told["forgets"]
    assert told["methods"][0]["forgetting"][0] == pytest.approx(
        (0.3 + 0.1) / 2
    )  # the best of any step before, not that of its own
    missing = four[~((four["step"] == 2) & (four["task"] == "x"))]
    told = tables.summarised(missing, references)
    assert not told["forgets"]
    assert told["methods"][0]["bwt"][0] == pytest.approx((0.1 - 0.1) / 2)


def test_least_p_is_that_of_differences_of_one_sign() -> None:
    assert tables.p_value(np.ones(5)) == pytest.approx(tables.least_corrected([5]))
    assert tables.least_corrected([10] * 27) == pytest.approx(27 * 2 / 1024)
    assert tables.least_corrected([2, 2]) == 1.0
    assert tables.least_corrected([]) is None
