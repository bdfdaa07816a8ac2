"""What every process that is started here finds in its environment, and what it must not find."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}
# Python files that lie in a line's folder are not imported: somebody else may have put them there.
SAFE = {"PYTHONSAFEPATH": "1"}
# A line's settings are its own: DVC reads none of the user's or of the machine's.
NOWHERE = str(Path(__file__).parent / "settings_of_nobody")
OWN = {"DVC_GLOBAL_CONFIG_DIR": NOWHERE, "DVC_SYSTEM_CONFIG_DIR": NOWHERE}
_OWN_NAMES = "DVC_"  # what else of DVC's stands in the environment is the user's too
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What of git's is the user's to say: who they are, how remotes are reached, where their settings lie. The rest, as it is set inside a
# hook or by a git that started us, would lead our git elsewhere.
_GIT_KEPT = re.compile(
    "GIT_((AUTHOR|COMMITTER)_.+|CONFIG_(COUNT|KEY_.+|VALUE_.+|GLOBAL|SYSTEM|NOSYSTEM)|SSH.*|SSL_.+|HTTP_.+|ASKPASS|TERMINAL_PROMPT"
    "|PROXY_.+|ALLOW_PROTOCOL|EXEC_PATH|TEST_.+)"  # git has the latter for tests of what it is used by
)
# Names the socket of a warm interpreter, for those who start DVC and stages.
WARM = "OTMF_WARM"


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What of an environment a process of ours finds in its own."""
    return {key: value for key, value in of_the_user(environ).items() if not key.startswith(_OWN_NAMES)}


def of_the_user(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what would lead git elsewhere."""
    return {
        key: value
        for key, value in environ.items()
        if not key.startswith("GIT_") or (value and _GIT_KEPT.fullmatch(key))
    }


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings by which no client asks a proxy for what is on this machine; whatever else was named to be so stays."""
    named = [one.strip() for key in ("no_proxy", "NO_PROXY") for one in environ.get(key, "").split(",")]
    value = ",".join(dict.fromkeys(one for one in (*named, *LOOPBACK) if one))
    return {"no_proxy": value, "NO_PROXY": value}


def settle() -> None:
    """Has this process's own clients do likewise."""
    os.environ.update(without_proxy(os.environ))
