"""Lineage: identity by content."""

from __future__ import annotations

import pytest

from otmf.provenance import digests


def test_digest_of_a_folder_depends_on_names_and_contents_alone(tmp_path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub/a").write_text("x", encoding="utf-8")
    assert digests.digest(tmp_path / "one") == digests.digest(tmp_path / "two")
    (tmp_path / "two/sub/a").rename(tmp_path / "two/sub/b")
    assert digests.digest(tmp_path / "one") != digests.digest(tmp_path / "two")
    with pytest.raises(FileNotFoundError, match="expected a file or folder to identify"):
        digests.digest(tmp_path / "none")
