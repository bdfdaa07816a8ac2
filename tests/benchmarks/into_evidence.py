"""Puts the tables that `otmf bench` wrote into a page of evidence, in the place of the section of that name or at its end.

    python -m tests.benchmarks.into_evidence RESULTS PAGE TITLE --study FILE

RESULTS is the folder of results, FILE the study as it lies in the repository. Headings go one level deeper; nothing else of the page changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def placed(page: str, title: str, study: str, tables: str) -> str:
    """The page with a section `title` that holds the tables of a study."""
    deeper = "\n".join(f"#{line}" if line.startswith("#") else line for line in tables.strip().splitlines())
    section = f"## {title}\n\n`{study}`\n\n{deeper}\n"
    head, mark, rest = page.partition(f"## {title}\n")
    if not mark:
        return f"{page.rstrip()}\n\n{section}"
    _, following, after = rest.partition("\n## ")
    return f"{head}{section}{following}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("title")
    parser.add_argument("--study", required=True)
    given = parser.parse_args()
    tables = (given.results / "tables.md").read_text(encoding="utf-8")
    page = placed(given.page.read_text(encoding="utf-8"), given.title, given.study, tables)
    given.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
