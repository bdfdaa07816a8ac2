"""What all commands share: where they print, how they name a line, how they fail."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from flows.programs.plain_text import plain, plain_lines
from otmf.runtime import errors


class Plain(Console):
    """Prints every string as the text that it is, wherever it comes from and wherever it stands: in a table, a title, a list."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain_lines(text), **{**options, "markup": False, "emoji": False})


out = Plain(width=None if sys.stdout.isatty() else 120)
err = Plain(stderr=True)
LineOption = Annotated[Path, typer.Option("--line", "-l", help="Folder of the line of models.", envvar="OTMF_LINE")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the line's history with your name.")]
ByOption = Annotated[str | None, typer.Option(help="Who decides; your user name otherwise.", envvar="OTMF_ACTOR")]

WaitOption = Annotated[float, typer.Option(help="Seconds to wait for a line that is in use.")]


@contextmanager
def clear_failures(interrupted: str = "the line is as it was") -> Iterator[None]:
    """Turns expected errors into one sentence on stderr and exit code 1; an interrupt into exit code 130.

    Args:
        interrupted: how things are after an interrupt.
    """
    from flows.line import workspace
    from flows.programs import process

    try:
        yield
    except KeyboardInterrupt:
        err.print(f"otmf: interrupted; {interrupted}")
        raise typer.Exit(130) from None
    except (process.ProcessError, workspace.WorkspaceError, ValueError, OSError) as error:
        if os.environ.get("OTMF_DEBUG"):
            raise
        err.print(f"otmf: {errors.sentence(error)}")
        raise typer.Exit(1) from None


def bad(word: str, said: str) -> Text:
    """A line about something that does not hold: a word in red, and one line of text."""
    return Text.assemble((plain(word), "red"), f" {plain(said)}")


def me(name: str = "otmf") -> str:
    """How this command, or another of the same environment, is typed here."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)
