"""What dissimilarity foretells: counted by hand on merges whose damage is known."""

from __future__ import annotations

import pandas as pd
import pytest

from flows.bench import dissimilarity, tables
from tests.flows.bench import test_tables

FINETUNED = {"a": 0.9, "b": 0.9, "c": 0.9}


def pair(first: str, second: str, *, dissimilarity: float | None, damage: float, method: str = "m") -> list[dict]:
    common = test_tables.rows(method)[0] | {"order": f"{first}+{second}", "dissimilarity": dissimilarity}
    return [
        common | {"step": 1, "task": first, "accuracy": 0.9, "dissimilarity": None},
        common | {"step": 2, "task": first, "accuracy": 0.9 - damage},
        common | {"step": 2, "task": second, "accuracy": 0.8},
    ]


def all_pairs(method: str = "m") -> list[dict]:
    ordered = [(first, second) for first in "abc" for second in "abc" if first != second]
    return [
        row
        for place, (first, second) in enumerate(ordered)
        for row in pair(first, second, dissimilarity=1.0 + place, damage=0.01 * place**2, method=method)
    ]


def test_damage_and_shortfall_are_those_of_the_matrices() -> None:
    found = dissimilarity.merges(pd.DataFrame(pair("a", "b", dissimilarity=0.4, damage=0.2)), FINETUNED)
    assert found.to_dict("records") == [
        {"order": "a+b", "seed": 0, "step": 2, "task": "b", "dissimilarity": 0.4, "damage": pytest.approx(0.2), "shortfall": pytest.approx(0.1)}
    ]  # fmt: skip


def test_what_rises_with_dissimilarity_has_rank_correlation_one() -> None:
    found = dissimilarity.foretold(dissimilarity.merges(pd.DataFrame(all_pairs()), FINETUNED))
    assert found["merges"] == 6
    assert found["damage"] == pytest.approx((1.0, 0.0), abs=1e-6)
    assert found["shortfall"] is None  # all the same: there is nothing to rank
    assert (found["least"], found["most"]) == pytest.approx((0.005, 0.205))


@pytest.mark.parametrize(
    "rows",
    [
        pair("a", "b", dissimilarity=None, damage=0.1),  # a method that sees nothing
        pair("a", "b", dissimilarity=0.4, damage=0.1)[1:],  # what was before is not known
    ],
)
def test_merges_of_which_it_is_not_known_are_left_out(rows) -> None:
    assert dissimilarity.merges(pd.DataFrame(rows), FINETUNED).empty


def test_few_merges_have_no_correlation() -> None:
    found = dissimilarity.merges(pd.DataFrame(pair("a", "b", dissimilarity=0.4, damage=0.2)), FINETUNED)
    assert dissimilarity.foretold(found) is None


def test_pages_have_pairs_from_alike_to_unlike(tmp_path) -> None:
    references = pd.DataFrame({"task": list("abc"), "base": [0.5] * 3, "finetuned": [0.9] * 3})
    title = {
        "line": "l",
        "tasks": list("abc"),
        "scored": "test",
        "orders": 6,
        "seeds": 1,
        "new": 4,
        "old": 0,
        "labels": False,
    }
    tables.write(tmp_path, pd.DataFrame(all_pairs() + all_pairs("n")), references, title=title)
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| a+") or line.startswith("| c+")]
    assert lines[0] == "| a+b | 1 | +0.0, +10.0 | +0.0, +10.0 |"
    assert lines[-1] == "| c+b | 6 | +25.0, +10.0 | +25.0, +10.0 |"
    assert "| m | 6 | +1.00 (0) | - | +0.5 | +20.5 |" in text
    page = (tmp_path / "tables.html").read_text(encoding="utf-8")
    assert 'id="pairs"' in page
    assert 'id="foretold"' in page
