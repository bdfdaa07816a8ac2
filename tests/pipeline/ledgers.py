"""A signed line with two tasks, and damage to its files. No code of its own."""

from __future__ import annotations

from pathlib import Path

from tests import makers


def signed(otmf, folder: Path) -> Path:
    """A signed line with two tasks."""
    root = makers.line(folder / "small")
    said = otmf("keys", "new", "--reason", "from the start", "--by", "ada", "--line", root).stdout
    assert "give auditors its public half" in said
    for number, name in enumerate(("first", "second"), start=1):
        otmf("onboard", makers.card(folder / "cards", name, seed=number), "--line", root)
    return root


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(bytes(content))
