"""Texts: from tables of every kind to the same rows, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from otmf.data import cards, datasets, gathering, splits, texts
from tests import makers

ROWS = [
    {"split": "train", "text": "a good film", "label": 1},
    {"split": "train", "text": 'dull, "bad"\nand long', "label": 0},
    {"split": "test", "text": "schön", "label": 1},
    {"split": "test", "text": "1", "label": 0},
]


def written(folder, kind: str, rows: list[dict]):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"reviews.{kind}"
    table = pd.DataFrame(rows)
    if kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def card(folder, kind: str = "jsonl", rows: list[dict] = ROWS, **keys):
    path = written(folder, kind, rows)
    content = {"name": "reviews", "source": kind, "path": path.name, "classes": ["bad", "good"], **keys}
    makers.write_yaml(folder / "reviews.yaml", content)
    return cards.read(folder / "reviews.yaml")


def gathered(tmp_path, *args, **keys) -> datasets.Task:
    gathering.gather(card(tmp_path / "given", *args, **keys), tmp_path / "given", tmp_path / "raw")
    return datasets.load(tmp_path / "raw")


@pytest.mark.parametrize("kind", cards.TABLES)
def test_tables_of_every_kind_give_the_same_task(tmp_path, kind) -> None:
    task = gathered(tmp_path, kind)
    datasets.check(task)
    assert task.train.texts == ("a good film", 'dull, "bad"\nand long')
    assert task.test.texts == ("schön", "1")
    assert task.train.labels.tolist() == [1, 0]
    assert task.classes == ("bad", "good")
    assert task.prompts == ("{}",)
    assert task.train.noun == "texts"


def test_other_line_ends_within_a_text_do_not_end_a_row(tmp_path) -> None:
    found = card(tmp_path / "given")
    rows = [{**ROWS[0], "text": "one\u2028two\x85three"}, *ROWS[1:]]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "given/reviews.jsonl").write_text(content, encoding="utf-8")
    gathering.gather(found, tmp_path / "given", tmp_path / "raw")
    assert datasets.load(tmp_path / "raw").train.texts[0] == "one\u2028two\x85three"


def test_folder_with_a_table_for_each_part(tmp_path) -> None:
    given = tmp_path / "given"
    for part, name in (("train", "train"), ("test", "validation")):
        written(given / "glue", "jsonl", [row for row in ROWS if row["split"] == part]).rename(
            given / f"glue/{name}.jsonl"
        )
    makers.write_yaml(given / "card.yaml", {"name": "reviews", "source": "jsonl", "path": "glue", "classes": ["bad", "good"],
                                            "columns": {"test": "validation"}})  # fmt: skip
    gathering.gather(cards.read(given / "card.yaml"), given, tmp_path / "raw")
    assert len(datasets.load(tmp_path / "raw").test) == 2


def test_columns_have_other_names_and_are_put_together(tmp_path) -> None:
    rows = [{"part": part, "one": f"{part} {number}", "two": "b", "answer": ("no", "yes")[number % 2]}
            for part in ("train", "dev", "unsure") for number in range(4)]  # fmt: skip
    columns = {
        "text": "first: {one} second: {two}",
        "label": "answer",
        "split": "part",
        "test": "dev",
        "left_out": ["unsure"],
    }
    task = gathered(tmp_path, "csv", rows, classes=None, columns=columns)
    assert task.test.texts[1] == "first: dev 1 second: b"
    assert task.classes == ("no", "yes")
    assert task.train.labels.tolist() == [0, 1, 0, 1]


def test_the_parts_of_a_split_are_apart_by_content(tmp_path) -> None:
    rows = [{"split": "train", "text": f"text {number % 30}", "label": number % 30 % 2} for number in range(60)]
    rows += [{"split": "test", "text": f"text {number}", "label": number % 2} for number in (0, 1, 90, 91)]
    found = splits.split(gathered(tmp_path, rows=rows), unlabelled=0.3, held_back=0.2)
    assert found.manifest["disjoint"]
    assert found.manifest["train_images_dropped_because_in_test"] == 4


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        ([{**ROWS[0], "label": "so-so"}, *ROWS], {}, "expected a class of reviews or its position .* received 'so-so'"),
        ([{**ROWS[0], "label": 0.5}, *ROWS], {}, "expected a class of reviews .* received '0.5'"),
        ([{**ROWS[0], "label": 10**30}, *ROWS], {}, "expected a class of reviews or its position"),
        ([{**ROWS[0], "label": 7}, *ROWS], {}, "expected train labels from 0 to 1, one for each class; received 7"),
        ([{**ROWS[0], "split": "dev"}, *ROWS], {}, "expected train or test in the column split; received 'dev'"),
        ([{**ROWS[0], "text": "  "}, *ROWS], {}, "expected a text with something in it; received text 1"),
        (ROWS[:2], {}, "expected texts in the test part; received none"),
        (
            ROWS,
            {"columns": {"text": "{review}"}},
            "expected a column 'review' in reviews.jsonl; received split, text, label",
        ),
        ([{**ROWS[0], "text": None}, *ROWS], {}, "expected a text in the column text of row 1; received none"),
        ([{"split": "train", "label": 1}, *ROWS], {}, "expected a text in the column text of row 1; received none"),
        ([{**ROWS[0], "text": ["a"]}, *ROWS], {}, "expected a text in the column text of row 1; received a list"),
        ([{**ROWS[0], "label": None}, *ROWS], {}, "expected a class of reviews .* row 1; received no label"),
        ([{**ROWS[0], "label": True}, *ROWS], {}, "expected a text in the column label of row 1; received a bool"),
        ([{**ROWS[0], "label": "\u0661"}, *ROWS], {}, "a label outside the 2 classes"),
        ([{**ROWS[0], "split": ["train"]}, *ROWS], {}, "expected train or test in the column split"),
        (ROWS, {"classes": None}, "expected `classes` in the card, or the names of at least two in the column label"),
    ],
)
def test_tables_that_cannot_make_a_task_get_one_sentence(tmp_path, rows, keys, message) -> None:
    with pytest.raises(cards.CardError, match=message) as caught:
        datasets.check(gathered(tmp_path, rows=rows, **keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_row_that_is_left_out_changes_no_label(tmp_path, kind) -> None:
    """A label that is absent once made all others numbers with a point, which were no longer names of classes."""
    rows = [*ROWS, {"split": "unused", "text": "q", "label": None}]
    task = gathered(tmp_path, kind, rows, classes=["1", "0"], columns={"left_out": ["unused"]})
    assert task.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("csv", "text,label,split\na, b,bad,train\n", "4 fields in row 1 under 3 names"),
        ("csv", 'text,label,split\n"a,bad,train\n', "unexpected end of data"),
        ("csv", "text,label,text,split\na,bad,b,train\n", "'text' named twice"),
        ("jsonl", '{"split": "train", "text": "a", "text": "b", "label": 1}\n', "'text' named twice"),
    ],
)
def test_tables_that_do_not_hold_together_are_refused(tmp_path, kind, content, reason) -> None:
    found = card(tmp_path / "given", kind)
    (tmp_path / f"given/reviews.{kind}").write_text(content)
    with pytest.raises(cards.CardError, match=f"received one that does not read .*{reason}"):
        gathering.gather(found, tmp_path / "given", tmp_path / "raw")


@pytest.mark.parametrize("kind", cards.TABLES)
def test_train_rows_of_a_checkpoint_need_no_label(tmp_path, kind) -> None:
    rows = [{**row, "label": None if row["split"] == "train" else row["label"]} for row in ROWS]
    found = card(tmp_path / "given", kind, rows, checkpoint={"path": "expert.safetensors"})
    _, train, test = texts.from_table(tmp_path / "given" / found.path, found)
    assert train.labels is None
    assert test.labels.tolist() == [1, 0]


def test_text_may_be_the_name_of_a_column(tmp_path) -> None:
    rows = [{"split": row["split"], "sentence": row["text"], "label": row["label"]} for row in ROWS]
    assert gathered(tmp_path, rows=rows, columns={"text": "sentence"}).train.texts[0] == "a good film"


@pytest.mark.parametrize("kind", cards.TABLES)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"[1, 2]\n", b'{"a": ' * 5000])
def test_files_that_are_no_tables_are_refused(tmp_path, kind, content) -> None:
    found = card(tmp_path / "given", kind)
    (tmp_path / f"given/reviews.{kind}").write_bytes(content)
    with pytest.raises(cards.CardError, match="expected a (table|column)"):
        gathering.gather(found, tmp_path / "given", tmp_path / "raw")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "{text.__class__}"}, "expected a column 'text.__class__'"),
        ({"text": "{text!r}"}, "expected a text with at least one plain name of a column"),
        ({"text": "{}"}, "expected a text with at least one plain name of a column"),
        ({"text": "{text"}, "expected names of columns in braces"),
        ({"train": "../train"}, "expected names of parts"),
    ],
)
def test_columns_name_columns_and_nothing_else(tmp_path, columns, message) -> None:
    with pytest.raises(cards.CardError, match=message):
        gathered(tmp_path, columns=columns)


def test_held_back_part_of_a_base_keeps_no_test_text(tmp_path) -> None:
    rows = [{"split": "train", "text": f"text {number}", "label": number % 2} for number in range(40)] + ROWS[2:]
    card(tmp_path / "given", rows=rows)
    part = {
        "name": "reviews",
        "source": "jsonl",
        "path": "reviews.jsonl",
        "classes": ["bad", "good"],
        "share": "held_back",
    }
    makers.write_yaml(tmp_path / "given/pretrained.yaml", {"source": "train", "parts": [part], "held_back": 0.5})
    gathering.gather_base(cards.read_base(tmp_path / "given/pretrained.yaml"), tmp_path / "given", tmp_path / "base")
    kept = datasets.load(tmp_path / "base/reviews")
    assert (len(kept.train), len(kept.test)) == (20, 0)
    assert isinstance(kept.train, texts.TextSet)
    assert np.bincount(kept.train.labels).tolist() == [10, 10]
