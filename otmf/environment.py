"""What every process that is started here finds in its environment, and what it must not find."""

from __future__ import annotations

QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}
# Python files that lie in a line's folder are not imported: somebody else may have put them there.
SAFE = {"PYTHONSAFEPATH": "1"}
# Set inside a git hook; they would lead our git elsewhere.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
# Names the socket of a warm interpreter, for those who start DVC and stages.
WARM = "OTMF_WARM"
