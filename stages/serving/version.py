"""A version in memory, and what decides which one that is: a notice that the `otmf` command keeps up to date."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from otmf import backbones, checkpoints, heads
from otmf.provenance import digests
from otmf.runtime import errors
from stages.context import current_line, encoder, shared_files
from stages.context.run import say
from stages.serving.prediction_log import PredictionLog

EVERY = 0.5
AGAIN, LONGEST = (
    30,
    600,
)  # seconds until a version that could not be loaded is tried again: at first, and twice as long each time
TOGETHER = 16  # inputs computed before others get their turn, and the clock is looked at


class Notice(BaseModel):
    """Which version is to serve: where it lies, and what its record says of it; `files`: path -> sha256 of all it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    version: int
    step: str
    sha256: str
    files: dict[str, str]
    record: str
    record_sha256: str


@dataclass(frozen=True)
class Loaded:
    """A version in memory. One request computes at a time, on all cores: the backbone holds the weights while it does."""

    notice: Notice
    backbone: backbones.Backbone
    state: Mapping[str, torch.Tensor]
    heads: Mapping[str, tuple[heads.Head, tuple[str, ...]]]
    where: torch.device
    computing: threading.Lock = field(default_factory=threading.Lock)

    def decode(self, contents: Sequence[bytes], until: float = math.inf) -> np.ndarray:
        """Inputs from the contents of files, one after the other.

        Raises:
            CardError: for the first that does not decode.
            TimeoutError: if the monotonic clock passes `until`.
        """
        rows = []
        for number, content in enumerate(contents, start=1):
            _require_time(until)
            rows.append(self.backbone.decode([content], [f"{self.backbone.reads[:-1]} {number}"]))
        return np.concatenate(rows)

    def predict(self, task: str, read: np.ndarray, until: float = math.inf) -> list[dict[str, Any]]:
        """For each input, as the backbone reads it: the likeliest class, its probability, and those of all classes.

        Raises:
            TimeoutError: if the monotonic clock passes `until`.
        """
        head, classes = self.heads[task]
        parts = []
        for start in range(0, len(read), TOGETHER):
            with self.computing:
                _require_time(until)
                parts.append(encoder.teach(self.backbone, self.state, read[start : start + TOGETHER], where=self.where))
        found = head.logits(torch.cat(parts)).softmax(dim=-1)
        return [
            {
                "class": classes[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": {name: float(value) for name, value in zip(classes, row, strict=True)},
            }
            for row in found
        ]


def _require_time(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError


def load(notice: Notice) -> Loaded:
    """A version from the folder that a notice names.

    Raises:
        ValueError: if a file is not the one that were recorded.
    """
    line = current_line.read(Path(notice.root))
    path, folder = line.merged(notice.step) / "model.safetensors", line.heads(notice.step)
    for name, wanted in (notice.files | {path.relative_to(line.root).as_posix(): notice.sha256}).items():
        received = digests.digest(line.root / name)
        if received != wanted:
            raise ValueError(
                f"expected {name} of v{notice.version} with sha256 {wanted[:16]}; received {received[:16]}; see what `otmf verify` says"
            )
    where = encoder.device(line)
    state = encoder.to(checkpoints.load(path), where)
    found = {}
    for task in line.tasks_until(notice.step):
        head, _, classes = shared_files.load_head(folder / f"{task}.safetensors")
        found[task] = (head, classes)
    return Loaded(notice, encoder.open_backbone(line), state, found, where)


class Serving:
    """The version that serves, and what stands in the way of the next one.

    Attributes:
        loaded: the version; None before the first is loaded.
        trouble: why the version that the notice names does not serve; empty where it does.
        log: of what was predicted.
    """

    def __init__(self, notice: Path, log: PredictionLog) -> None:
        self.notice, self.log = notice, log
        self.loaded: Loaded | None = None
        self.trouble = "expected a version to serve; received none yet, it is being loaded; ask again in a moment"
        self._refused: Notice | None = None
        self._again, self._pause = 0.0, AGAIN

    def follow(self) -> None:
        """Loads what the notice names if that is another version; keeps the one that serves if it cannot."""
        try:
            wanted = Notice.model_validate_json(self.notice.read_text(encoding="utf-8"))
        except OSError as error:
            self.trouble = errors.sentence(error)
            return
        except ValueError:
            self.trouble = f"expected the version to serve in {self.notice.name}; received another document; start otmf serve again"
            return
        if self.loaded is not None and wanted == self.loaded.notice:
            self.trouble, self._refused = "", None
            return
        if wanted == self._refused and time.monotonic() < self._again:
            return
        try:
            found = load(wanted)
        except (OSError, ValueError, KeyError) as error:
            self._refuse(wanted, errors.sentence(error))
            return
        except Exception:  # too little memory, say: the version that serves goes on, and so does this thread
            said = f"expected v{wanted.version} to load; received a failure; it is in the server's log"
            if (said, wanted) != (self.trouble, self._refused):
                with contextlib.suppress(OSError):
                    traceback.print_exc()
            self._refuse(wanted, said)
            return
        self.loaded, self.trouble, self._refused = found, "", None
        _tell(f"v{wanted.version} ({wanted.step}) serves {', '.join(found.heads)}")

    def _refuse(self, wanted: Notice, trouble: str) -> None:
        said = (self.trouble, self._refused)
        self._pause = min(2 * self._pause, LONGEST) if wanted == self._refused else AGAIN
        self.trouble, self._refused, self._again = trouble, wanted, time.monotonic() + self._pause
        if said != (trouble, wanted):
            _tell(f"otmf: v{wanted.version} does not serve: {trouble}")

    def keep_following(self) -> None:
        while True:
            self.follow()
            self.log.look_again()
            time.sleep(EVERY)


def _tell(text: str) -> None:
    """A line on the server's own log, unless that cannot be written either."""
    with contextlib.suppress(OSError):
        say(text)
