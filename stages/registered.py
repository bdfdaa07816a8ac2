"""A version as MLflow loads it from the registry: its weights come from DVC, as the reference names them, and are checked.

    mlflow.pyfunc.load_model("models:/LINE@champion").predict(pandas.DataFrame({"image": [bytes], "task": ["photos"]}))

OTMF_LINE names a clone of the line to take them from in place of the repository that the reference names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otmf.provenance import digests
from otmf.provenance.model_reference import Reference
from otmf.runtime import layout
from otmf.runtime.environment import QUIET, SAFE, of_the_user
from stages.serving import version

LINE = "OTMF_LINE"
AT_ONCE, PATIENCE = 4, 3600.0


class Registered:
    """A version of a line's model."""

    def __init__(self, loaded: version.Loaded) -> None:
        self.loaded = loaded

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classes and probabilities.

        Args:
            data: columns `image`, the content of an image file, or `text`, whichever the encoder reads, and `task`.
            params: none are known.

        Returns:
            Columns `class`, `probability`, `probabilities` (class -> probability) and `version`, rows as given.

        Raises:
            ValueError: if a task is unknown, or a content is not what the encoder reads.
        """
        if data.empty:
            raise ValueError("expected at least one row; received none; send some")
        if params:
            raise ValueError(f"expected no parameters; received {', '.join(map(str, params))[:100]}; leave them out")
        unknown = sorted(set(data["task"]) - set(self.loaded.heads))
        if unknown:
            raise ValueError(
                f"expected a task of v{self.loaded.notice.version} ({', '.join(self.loaded.heads)}); received "
                f"{unknown[0][:60]!r}; choose one of them"
            )
        column = self.loaded.backbone.reads[:-1]
        contents = [one.encode() if isinstance(one, str) else one for one in data[column]]
        read = self.loaded.backbone.decode(contents)
        found: list[dict[str, Any]] = [{}] * len(data)
        for task in dict.fromkeys(data["task"]):
            chosen = np.flatnonzero(data["task"].to_numpy() == task)
            for position, result in zip(chosen, self.loaded.predict(task, read[chosen]), strict=True):
                found[position] = {**result, "version": self.loaded.notice.version}
        return pd.DataFrame(found, index=data.index)


def _load_pyfunc(path: str) -> Registered:
    """What MLflow calls to load the model: the version that a reference names.

    Raises:
        ValueError: if the reference does not hold up, or its files are not to be had or are others.
    """
    reference = Reference.model_validate_json(Path(path).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="otmf-version-") as name:
        root = Path(name)
        fetch(reference, os.environ.get(LINE) or reference.repository, root)
        notice = version.Notice(
            root=name, version=reference.version, step=reference.step,
            sha256=reference.files[reference.encoder],
            files=reference.files,
            record=reference.record, record_sha256=reference.record_sha256,
        )  # fmt: skip
        return Registered(version.load(notice))


def fetch(reference: Reference, repository: str, root: Path) -> None:
    """Brings the files of a reference from a repository into a folder, and checks them.

    Raises:
        ValueError: if one is not to be had, or is another.
    """
    heads = layout.Layout(Path()).heads(reference.step).as_posix()
    paths = list(dict.fromkeys(heads if name.startswith(f"{heads}/") else name for name in reference.files))
    with ThreadPoolExecutor(AT_ONCE) as started:
        fetched = dict(
            zip(paths, started.map(lambda path: _get(repository, reference.commit, path, root), paths), strict=True)
        )
    for path, trouble in fetched.items():
        if trouble:
            raise ValueError(
                f"expected {path} of v{reference.version} from {repository}; received: {trouble}; set {LINE} to a clone of the line that has it"
            )
    received = {path.relative_to(root).as_posix(): digests.digest(path) for path in root.rglob("*") if path.is_file()}
    for path in sorted(reference.files | received):
        wanted, there = reference.files.get(path, "none"), received.get(path, "none")
        if wanted != there:
            raise ValueError(
                f"expected {path} of v{reference.version} with sha256 {wanted[:16]}; received {there[:16]}; see what `otmf verify` says"
            )


def _get(repository: str, commit: str, path: str, root: Path) -> str:
    """Brings a file or folder of a commit, from git or from DVC; empty, or what went wrong."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "dvc",
        "get",
        "--quiet",
        "--rev",
        commit,
        "--out",
        str(root / path),
        "--",
        repository,
        path,
    ]
    own = of_the_user(os.environ) | QUIET | SAFE | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=own, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"nothing within {PATIENCE / 60:.0f} minutes"
    return " ".join(done.stderr.split())[-200:] or "nothing" if done.returncode else ""
