"""Tables of a comparison in a page of evidence: their own section anew, or a new one, and nothing else changed."""

from __future__ import annotations

from tests.benchmarks import into_evidence

PAGE = "# Page\n\nSaid by hand.\n\n## First\n\nold\n\n### Deeper\n\nold too\n\n## Second\n\nstays\n"


def test_section_of_that_name_is_replaced_and_headings_go_deeper() -> None:
    found = into_evidence.placed(PAGE, "First", "first.yaml", "new\n\n## Loss\n\n| a |\n")
    assert (
        found
        == "# Page\n\nSaid by hand.\n\n## First\n\n`first.yaml`\n\nnew\n\n### Loss\n\n| a |\n\n## Second\n\nstays\n"
    )
    assert into_evidence.placed(found, "First", "first.yaml", "new\n\n## Loss\n\n| a |\n") == found


def test_last_section_and_one_that_is_new() -> None:
    assert into_evidence.placed(PAGE, "Second", "s.yaml", "new\n").endswith("old too\n\n## Second\n\n`s.yaml`\n\nnew\n")
    assert into_evidence.placed(PAGE, "Third", "t.yaml", "new\n") == f"{PAGE}\n## Third\n\n`t.yaml`\n\nnew\n"
