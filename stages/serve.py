"""`otmf serve`: classes and probabilities of images over HTTP, from the version that a notice names.

The notice is a JSON file that the `otmf` command keeps up to date with the line's champion. A new version is loaded beside the
one that serves and takes its place in one assignment: requests under way end with the one they began with. Every answer has an
id, kept with the version and the hashes of the images, for `otmf trace`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otmf import backbones, checkpoints, errors, heads, images, lineage
from stages import _encoder, _files, _params
from stages._run import say

TRACKED = False
EVERY = 0.5
MIB = 2**20


class Notice(BaseModel):
    """Which version is to serve: where it lies, and what its record says of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    version: int
    step: str
    sha256: str
    record: str
    record_sha256: str


class Asked(BaseModel):
    """A request: a task of the line, and image files in base64."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(max_length=100)
    images: list[str] = Field(min_length=1)


@dataclass(frozen=True)
class Loaded:
    """A version in memory. One request computes at a time, on all cores: the backbone holds the weights while it does."""

    notice: Notice
    backbone: backbones.Backbone
    state: Mapping[str, torch.Tensor]
    heads: Mapping[str, tuple[heads.Head, tuple[str, ...]]]
    where: torch.device
    computing: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, task: str, pixels: np.ndarray) -> list[dict[str, Any]]:
        """For each picture of (n, size, size, 3): the likeliest class, its probability, and those of all classes."""
        head, classes = self.heads[task]
        with self.computing:
            features = _encoder.teach(self.backbone, self.state, pixels, where=self.where)
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
        ValueError: if the encoder's file is not the one that was recorded.
    """
    line = _params.read(Path(notice.root))
    path = line.merged(notice.step) / "model.safetensors"
    received = lineage.digest(path)
    if received != notice.sha256:
        raise ValueError(
            f"expected the encoder of v{notice.version} with sha256 {notice.sha256[:16]}; received {received[:16]}; see what `otmf verify` says"
        )
    where = _encoder.device(line)
    state = _encoder.to(checkpoints.load(path), where)
    found = {}
    for task in line.tasks_until(notice.step):
        head, _, classes = _files.load_head(line.heads(notice.step) / f"{task}.safetensors")
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
        if (self.loaded is not None and wanted == self.loaded.notice) or wanted == self._refused:
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


def application(serving: Serving, *, largest: int, most: int) -> FastAPI:
    """The HTTP interface.

    Args:
        serving: the version that serves.
        largest: bytes of a request's body.
        most: images of a request.
    """
    app = FastAPI(title="otmf", docs_url=None, redoc_url=None)

    app.add_middleware(_Bounded, largest=largest)

    @app.exception_handler(HTTPException)
    async def said(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        loaded = serving.loaded
        if loaded is None:
            response.status_code = 503
            return {"status": "not ready", "trouble": serving.trouble}
        response.headers["x-otmf-version"] = f"v{loaded.notice.version}"
        return {
            "status": "ready",
            "version": loaded.notice.version,
            "tasks": {name: len(classes) for name, (_, classes) in loaded.heads.items()},
            "trouble": serving.trouble,
        }

    @app.post("/predict")
    async def predict(asked: Asked, response: Response) -> dict[str, Any]:
        if len(asked.images) > most:
            raise HTTPException(
                413, f"expected at most {most} images; received {len(asked.images)}; send several requests"
            )
        try:
            contents = [base64.b64decode(text, validate=True) for text in asked.images]
        except (binascii.Error, ValueError) as error:
            raise HTTPException(
                400, f"expected images in base64; received {errors.sentence(error)}; encode the files as they are"
            ) from error
        return await run_in_threadpool(answer, asked.task, contents, response)

    @app.post("/predict/{task}")
    async def predict_one(task: str, request: Request, response: Response) -> dict[str, Any]:
        return await run_in_threadpool(answer, task, [await request.body()], response)

    def answer(task: str, contents: list[bytes], response: Response) -> dict[str, Any]:
        loaded = serving.loaded
        if loaded is None:
            raise HTTPException(503, serving.trouble)
        if task not in loaded.heads:
            raise HTTPException(
                404,
                f"expected a task of v{loaded.notice.version} ({', '.join(loaded.heads)}); received {task[:60]!r}; choose one of them",
            )
        try:
            size = loaded.backbone.image_size
            pixels = np.stack(
                [images.decode_picture(one, f"image {number}", size) for number, one in enumerate(contents, start=1)]
            )
        except ValueError as error:
            raise HTTPException(400, errors.sentence(error)) from error
        results = loaded.predict(task, pixels)
        entry = {
            "prediction_id": f"v{loaded.notice.version}-{uuid4().hex}",
            "version": loaded.notice.version,
            "step": loaded.notice.step,
            "sha256": loaded.notice.sha256,
            "record": loaded.notice.record,
            "record_sha256": loaded.notice.record_sha256,
            "task": task,
        }
        serving.note({
            **entry, "at": datetime.now(UTC).isoformat(), "images": [hashlib.sha256(one).hexdigest() for one in contents],
            "results": [{"class": one["class"], "probability": one["probability"]} for one in results],
        })  # fmt: skip
        response.headers["x-otmf-version"] = f"v{loaded.notice.version}"
        return {**entry, "results": results}

    return app


class _Bounded:
    """Refuses bodies beyond a size, whether they say so beforehand or not."""

    def __init__(self, app: ASGIApp, *, largest: int) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0").decode("latin-1")
        if not told.isdigit() or int(told) > self.largest:
            await _refusal(413, self._said(told[:20]))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.largest:
                raise HTTPException(413, self._said("more"))
            return message

        await self.app(scope, counted, send)

    def _said(self, received: str) -> str:
        return f"expected a body of at most {self.largest} bytes; received {received}; send fewer or smaller images"


def _refusal(status: int, said: str) -> Response:
    return JSONResponse({"detail": said}, status_code=status)


def main(line: _params.Line, notice: str, log: str, host: str, port: str, largest_mib: str, most: str) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    serving = Serving(Path(notice), Path(log))
    serving.follow()
    threading.Thread(target=serving.keep_following, daemon=True).start()
    app = application(serving, largest=int(float(largest_mib) * MIB), most=int(most))
    uvicorn.run(app, host=host, port=int(port), log_level="warning", timeout_graceful_shutdown=10)
