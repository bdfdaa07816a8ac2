"""Taking a waiting submission out of the order: it is not onboarded, unless somebody submits it again."""

from __future__ import annotations

from flows.line import workspace
from flows.unattended import inbox
from flows.versions import history
from otmf.runtime import layout


def withdraw(line: layout.Layout, asked: str, *, by: str | None, reason: str, wait: float = 0) -> str:
    """Puts a submission aside as refused, with who withdrew it and why; returns its name.

    Args:
        line: whose inbox.
        asked: the submission's name, or its task's if one submission of that task waits.
        by, reason: who decides, and why.
        wait: seconds to wait for a submission that is being onboarded.

    Raises:
        WorkspaceError: if no such submission waits, or it is being onboarded.
    """
    reason = history.reason(reason)
    name = _name(line, asked)
    if (inbox.inbox(line) / name).is_dir():
        inbox.accept(line, name)
    try:
        with workspace.locked(line, patience=wait, name=inbox.turn(name)):
            if inbox.place(line, name) is None:
                raise workspace.WorkspaceError(
                    f"expected a submission that waits; received {name}, which was dealt with meanwhile; see `otmf status`"
                )
            inbox.put_aside(line, name, "refused", f"withdrawn by {by or history.actor()}: {reason}")
    except workspace.HeldError as error:
        raise workspace.WorkspaceError(
            f"expected a submission that waits for its turn; received {name}, which is being fine-tuned or merged; wait for it (--wait SECONDS), "
            "or stop the worker"
        ) from error
    return name


def _name(line: layout.Layout, asked: str) -> str:
    folder = inbox.inbox(line)
    lying = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = sorted({name for name, _ in inbox.waiting(line)} | {name for name in lying if inbox.is_name(name)})
    of_task = [name for name in names if name.rpartition("-")[0] == asked]
    if asked in names or len(of_task) == 1:
        return asked if asked in names else of_task[0]
    raise workspace.WorkspaceError(
        f"expected a submission that waits ({', '.join(of_task or names) or 'none does'}); received {asked[:150]!r}; name one of them"
    )
