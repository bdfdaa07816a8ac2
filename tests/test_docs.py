"""Cards shown in the documentation are cards."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from otmf.data import cards
from otmf.evaluation import protocol

ROOT = Path(__file__).resolve().parents[1]
SHOWN = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cards.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("shown", SHOWN)
def test_cards_of_the_documentation_are_read(tmp_path, shown) -> None:
    (tmp_path / "card.yaml").write_text(shown, encoding="utf-8")
    read = cards.read if "name:" in shown else cards.read_base
    read(tmp_path / "card.yaml")


def test_there_are_some() -> None:
    assert len(SHOWN) >= 6


def test_configurations_of_a_comparison_in_the_documentation_are_such() -> None:
    page = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    for text in shown:
        content = YAML(typ="safe").load(text)
        assert protocol.runs(protocol.check(content), content.get("tasks", ["one", "two"]))


def test_sections_of_the_evidence_on_methods_are_listed_before_them() -> None:
    page = (ROOT / "docs/evidence/methods.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    listed = re.findall(r"\[([^]]+)\]\(#([^)]+)\)", page.partition(f"## {sections[0]}")[0])
    assert [name for name, _ in listed] == sections
    assert [place for _, place in listed] == [
        re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-") for name in sections
    ]


def test_map_has_each_package_with_its_first_sentence() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `([a-z_/]+)` \| (.+) \|$", page, re.MULTILINE))
    packages = {path.parent for folder in ("otmf", "stages", "flows") for path in (ROOT / folder).glob("*/__init__.py")}
    told = {
        path.relative_to(ROOT).as_posix(): ast.get_docstring(
            ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
        )
        for path in packages
    }
    assert {name: sentence for name, sentence in shown.items() if name != "flows/pages"} == told
