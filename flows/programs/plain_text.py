"""Text of people, files and other tools, made safe to print: what a terminal would take for a command, or hide, is written out."""

from __future__ import annotations


def plain(text: object) -> str:
    """A text on one line, with what a terminal would take for a command, or hide, written out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(text))


def plain_lines(text: object) -> str:
    """The same of a text of several lines: ends of lines and tabulators stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in str(text))
