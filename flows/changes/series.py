"""Several cards onboarded one after the other, by one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flows.services import prefect_server
from otmf.runtime import layout


def onboard(line: layout.Layout, cards: Sequence[Path], out: Console) -> None:
    """Onboards new tasks in the order given; stops at the first that fails."""
    with prefect_server.connected(line):
        from flows.changes.onboard import onboard as arrive  # Prefect reads its settings when it is imported

        for card in cards:
            out.rule(f"Task {card.stem} arrives")
            arrive(str(line.root), str(card))
