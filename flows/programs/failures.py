"""What may go wrong without a mistake in our code: said in one sentence, not shown as a traceback."""

from __future__ import annotations

from flows.programs import process
from otmf import settings
from otmf.data import cards


class WorkspaceError(RuntimeError):
    """A folder that cannot be worked on. The message says what was expected, received and what to do."""


EXPECTED = (
    cards.CardError,
    settings.SettingsError,
    WorkspaceError,
    process.ProcessError,
    ValueError,
    OSError,
)
