"""One clear sentence for a person, from any error."""

from __future__ import annotations

import re

TEMPORARY = 75  # exit code of a stage that its surroundings failed, not what it was given; as in sysexits.h


def sentence(error: BaseException) -> str:
    """What was expected, what was received and what to do, on one line.

    Errors of the operating system (no space, no permission) get a sentence of their own; other messages are folded
    into one line as they are.
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the line is as it was"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        target = f" ({error.filename})" if error.filename else ""
        return (
            f"expected to read and write the line's files; received: {error.strerror}{target}; free disk space or mend the "
            "permissions, then run it again"
        )
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def without_secrets(text: str) -> str:
    """A text with the user and password of every address in it left out."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def no_tracking_store(where: str, error: BaseException) -> str:
    """The sentence for a tracking store that fails, whatever the failure was."""
    reason = without_secrets(" ".join(str(error).split()))[:160]
    if "database schema" in reason:
        return (
            f"expected a tracking store of this MLflow's version at {without_secrets(where)}; received another ({reason}); use the MLflow that "
            "made it, or take a backup and call mlflow db upgrade"
        )
    return (
        f"expected a tracking store at {without_secrets(where)}; received no answer ({reason}); start it, or unset MLFLOW_TRACKING_URI to "
        "use the line's own file"
    )
