"""What is printed is text: neither markup nor commands to the terminal, wherever it stands."""

from __future__ import annotations

import io

import pytest
from rich.console import Group
from rich.table import Table

from flows.cli import console
from flows.programs import plain_text
from flows.rendering import templates

FOREIGN = [
    "[/OPS-12]",
    "[red]x[/red]",
    "[link=http://x]y[/link]",
    ":warning:",
    "\x1b[2J",
    "\x9b2J",
    "a\rb",
    "\u202eabc",
    "\x07",
    "\udc80",
]


def printed(what: object) -> str:
    stream = io.StringIO()
    console.Plain(file=stream, width=120).print(what)
    return stream.getvalue()


@pytest.mark.parametrize("text", FOREIGN)
def test_text_is_printed_as_it_is_wherever_it_stands(text) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    for what in (text, Group(text, text), table, console.bad(text, text)):
        shown = printed(what)
        assert plain_text.plain(text) in shown
        assert all(one.isprintable() or one == "\n" for one in shown)


def test_lines_and_tabulators_stay_in_texts_of_several_lines() -> None:
    assert plain_text.plain_lines("a\tb\nc\x1b") == "a\tb\nc\\x1b"
    assert plain_text.plain("a\nb") == "a\\nb"


def test_pages_write_commands_out_and_leave_what_is_meant_as_html() -> None:
    from markupsafe import Markup

    environment = templates.environment()
    shown = environment.from_string("{{ given }}|{{ given | plain }}|{{ meant }}|{{ 3 }}").render(
        given="\x1b[2J\u202e<b>", meant=Markup("<svg>\n</svg>")
    )
    assert shown == "\\x1b[2J\\u202e&lt;b&gt;|\\\\x1b\\[2J\\\\u202e\\&lt;b\\&gt;|<svg>\n</svg>|3"
