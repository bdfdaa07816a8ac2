"""A version in memory, and what decides which one that is: a notice that the `otmf` command keeps up to date."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from otmf import backbones, checkpoints, errors, heads, lineage
from stages import _encoder, _files, _params
from stages._run import say

EVERY = 0.5


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

    def predict(self, task: str, read: np.ndarray) -> list[dict[str, Any]]:
        """For each input, as the backbone reads it: the likeliest class, its probability, and those of all classes."""
        head, classes = self.heads[task]
        with self.computing:
            features = _encoder.teach(self.backbone, self.state, read, where=self.where)
        found = head.logits(features).softmax(dim=-1)
        return [
            {
                "class": classes[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": {name: float(value) for name, value in zip(classes, row, strict=True)},
            }
            for row in found
        ]


def load(notice: Notice) -> Loaded:
    """A version from the folder that a notice names.

    Raises:
        ValueError: if a file is not the one that were recorded.
    """
    line = _params.read(Path(notice.root))
    path, folder = line.merged(notice.step) / "model.safetensors", line.heads(notice.step)
    for name, wanted in (notice.files | {path.relative_to(line.root).as_posix(): notice.sha256}).items():
        received = lineage.digest(line.root / name)
        if received != wanted:
            raise ValueError(
                f"expected {name} of v{notice.version} with sha256 {wanted[:16]}; received {received[:16]}; see what `otmf verify` says"
            )
    where = _encoder.device(line)
    state = _encoder.to(checkpoints.load(path), where)
    found = {}
    for task in line.tasks_until(notice.step):
        head, _, classes = _files.load_head(folder / f"{task}.safetensors")
        found[task] = (head, classes)
    return Loaded(notice, _encoder.open_backbone(line), state, found, where)


class Serving:
    """The version that serves, and what stands in the way of the next one."""

    def __init__(self, notice: Path, log: Path) -> None:
        self.notice, self.log = notice, log
        self.loaded: Loaded | None = None
        self.trouble = "no version is loaded yet"
        self._refused: Notice | None = None
        self._writing = threading.Lock()

    def follow(self) -> None:
        """Loads what the notice names if that is another version; keeps the one that serves if it cannot."""
        try:
            wanted = Notice.model_validate_json(self.notice.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.trouble = errors.sentence(error)
            return
        if self.loaded is not None and wanted == self.loaded.notice:
            self.trouble, self._refused = "", None
            return
        if wanted == self._refused:
            return
        try:
            found = load(wanted)
        except (OSError, ValueError, KeyError) as error:
            self.trouble, self._refused = errors.sentence(error), wanted
            say(f"otmf: v{wanted.version} does not serve: {self.trouble}")
            return
        self.loaded, self.trouble, self._refused = found, "", None
        say(f"v{wanted.version} ({wanted.step}) serves {', '.join(found.heads)}")

    def keep_following(self) -> None:
        while True:
            self.follow()
            time.sleep(EVERY)

    def note(self, entry: dict[str, Any]) -> None:
        """Keeps what an answer came from, in a file per day."""
        path = self.log / f"{entry['at'][:10]}.jsonl"
        with self._writing:
            self.log.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
