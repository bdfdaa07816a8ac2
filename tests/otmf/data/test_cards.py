"""Cards: what is accepted, and one clear sentence for each mistake."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from otmf.data import cards
from otmf.settings import limits

GOOD = "name: birds\nsource: npz\npath: birds.npz\n"


def read(tmp_path, text: str | bytes) -> cards.Card:
    path = tmp_path / "card.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return cards.read(path)


def test_card_is_read_and_written_back(tmp_path) -> None:
    card = read(tmp_path, GOOD + "classes: [a, b]\nlicence: CC0\ncheckpoint: {path: expert.safetensors}\n")
    (tmp_path / "again.yaml").write_text(cards.dump(card), encoding="utf-8")
    assert cards.read(tmp_path / "again.yaml") == card


@pytest.mark.parametrize("name", ["../x", "a b", "$(x)", "x" * 300, "X", "1a", "", "a/b", "pretrained", "a\n"])
def test_name_that_is_not_a_slug_is_refused(tmp_path, name) -> None:
    import json

    with pytest.raises(cards.CardError, match=r"name: expected a name .* received .*; rename it"):
        read(tmp_path, f"name: {json.dumps(name)}\nsource: npz\npath: x.npz\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [", "expected YAML in .*; received text that does not parse"),
        (b"\xff\xfe\x00", "expected YAML in .*; received text that does not parse"),
        ("- a\n- b\n", "expected a mapping of keys in .*; received a list"),
        ("", "expected a mapping of keys in .*; received nothing"),
        (
            GOOD + "colour: red\n",
            "colour: expected a known key; received an unknown one; remove it or correct its spelling",
        ),
        ("source: npz\npath: x\n", "name: expected a value; received none; add it"),
        (GOOD + "classes: [a, b, a]\n", r"expected distinct classes; received \['a'\] more than once"),
        (GOOD + "classes: [a]\n", "expected at least 2 classes; received 1"),
        (GOOD + "prompts: [no place]\n", "expected prompts with one {} for the class name"),
        ("name: a\nsource: folder\npath: x\n", "expected `classes`, one name per folder of images; received none"),
        ("name: a\nsource: url\npath: x\n", "source: .*npz.*received 'url'; correct it"),
        ("name: a\nname: b\nsource: npz\npath: x\n", "expected YAML in .* duplicate key"),
        ("!!python/object/apply:os.system ['true']", "expected YAML in .*; received text that does not parse"),
    ],
)
def test_mistake_gets_one_sentence(tmp_path, text, message) -> None:
    with pytest.raises(cards.CardError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_reported_together(tmp_path) -> None:
    with pytest.raises(cards.CardError) as caught:
        read(tmp_path, "name: A B\nsource: url\nshape: round\n")
    assert all(f"{key}:" in str(caught.value) for key in ("name", "source", "path", "shape"))


def test_card_that_is_absent_or_huge_is_refused(tmp_path) -> None:
    with pytest.raises(cards.CardError, match="expected a card .a YAML file.; received .*, which is not a file"):
        cards.read(tmp_path / "none.yaml")
    with pytest.raises(
        cards.CardError,
        match="expected at most 262144 bytes in the card .*; received 2000002; bring less, or raise limits.card_bytes",
    ):
        read(tmp_path, "# " + "x" * 2_000_000)


def test_base_card_needs_what_its_source_needs(tmp_path) -> None:
    path = tmp_path / "base.yaml"
    for source, needed in (("train", "parts"), ("checkpoint", "path"), ("tag", "tag")):
        path.write_text(f"source: {source}\n", encoding="utf-8")
        with pytest.raises(
            cards.CardError, match=f"expected `{needed}` for a base with source {source}; received none"
        ):
            cards.read_base(path)


def test_card_that_grows_when_it_is_shown_is_refused_at_once(tmp_path) -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
    with pytest.raises(cards.CardError, match="whose aliases repeat it many times over") as caught:
        read(tmp_path, f"name: [1]\na0: &a0 [lol]\n{levels}\nsource: *a9\npath: x\n")
    assert len(str(caught.value)) < 5000
    with pytest.raises(cards.CardError, match="expected YAML"):
        read(tmp_path, "[" * 20_000)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "data/cards").glob("*.yaml")), ids=lambda path: path.stem
)
def test_cards_that_ship_say_what_they_are_and_under_which_licence(path) -> None:
    if path.stem == "pretrained":
        assert all(part.licence for part in cards.read_base(path).parts)
        return
    card = cards.read(path)
    assert all((card.title, card.description, card.owner, card.licence))


def test_aliases_below_free_settings_do_not_grow(tmp_path) -> None:
    levels = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
    with pytest.raises(cards.CardError, match="whose aliases repeat it many times over"):
        read(tmp_path, f"name: a\nsource: npz\npath: x\nfinetune:\n  a0: &a0 [lol]\n{levels}\n")


def test_paths_of_an_absolute_card_hold_anywhere(tmp_path) -> None:
    content = "name: a\nsource: npz\npath: x.npz\ncheckpoint: {path: sub/expert, missing: [a*]}\n"
    card = cards.absolute(read(tmp_path, content), tmp_path)
    assert (card.path, card.checkpoint.path, card.checkpoint.head) == (
        str(tmp_path / "x.npz"),
        str(tmp_path / "sub/expert"),
        None,
    )
    assert card.checkpoint.missing == ("a*",)
    assert cards.absolute(read(tmp_path, "name: a\nsource: embedded\npath: dice\n"), tmp_path).path == "dice"


@pytest.mark.parametrize(
    "value",
    [
        "!!bool maybe",
        "!!int ''",
        '"\\UFFFFFFFF"',
        "!!timestamp 2001-99-99",
        "!!int 1:2:3",
        "!!float x",
        "!!binary x",
        "{<<: 3}",
        "\x00",
        "!!set [a]",
    ],
)
def test_whatever_a_reader_of_yaml_raises_is_one_sentence(tmp_path, value) -> None:
    with pytest.raises(cards.CardError, match="expected YAML in .*; received text that does not parse") as caught:
        read(tmp_path, f"{GOOD}description: {value}\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['classes: ["a", "\\0"]', 'classes: ["a", "\\ud800"]', '"\\0": 1', 'path: "x\\0y"'])
def test_text_that_no_file_can_hold_is_one_sentence(tmp_path, text) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(f"name: a\nsource: npz\n{text}\n")
    with pytest.raises(
        cards.CardError, match=r"expected text that can be written to a file in .*; received .*; remove it"
    ) as raised:
        cards.read(path)
    str(raised.value).encode("utf-8")


@pytest.mark.parametrize("number", ["9" * 250_000, "0x" + "f" * 250_000, "1" * 500 + ".5", "1e" + "9" * 500])
def test_number_of_many_digits_is_refused_before_it_is_read(tmp_path, number) -> None:
    begun = time.monotonic()
    with pytest.raises(
        cards.CardError, match=r"expected at most 400 digits of one number .* raise limits\.card_digits"
    ):
        read(tmp_path, f"{GOOD}description: {number}\n")
    assert time.monotonic() - begun < 1


def test_many_classes_are_read_in_time_that_grows_with_their_number(tmp_path) -> None:
    begun = time.monotonic()
    found = read(tmp_path, f"{GOOD}classes: [{', '.join(f'c{number}' for number in range(20_000))}]\n")
    assert len(found.classes) == 20_000
    assert time.monotonic() - begun < 10, "4 s for twice as many as this when each name was compared with each other"


def test_bounds_of_a_line_are_in_force_while_they_are_applied(tmp_path) -> None:
    with (
        limits.applied(limits.Limits(card_bytes=10)),
        pytest.raises(cards.CardError, match="expected at most 10 bytes"),
    ):
        read(tmp_path, GOOD)
    assert read(tmp_path, GOOD).name == "birds"
