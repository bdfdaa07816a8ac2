"""A fine-tuned encoder from elsewhere, in one of its many forms, as a file that a card can name."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.line import workspace
from flows.programs import process
from otmf.runtime import layout
from otmf.runtime.environment import WARM


def bring(
    line: layout.Layout,
    source: Path,
    target: Path,
    *,
    missing: Sequence[str] = (),
    ignored: Sequence[str] = (),
) -> list[str]:
    """Writes the encoder found at `source`, a file or folder, to a new safetensors file, under the names of the line's base.

    Nothing in it is run; the line stays as it is. Returns sentences about what was found.

    Args:
        line: whose encoder it is to be.
        source, target: paths.
        missing, ignored: patterns, as in a card's `checkpoint`.

    Raises:
        WorkspaceError: if the line has no base yet, or the target exists or is no safetensors file.
        ProcessError: if it is no checkpoint of that encoder, or cannot be read or written.
    """
    if not line.pretrained.is_dir():
        raise workspace.WorkspaceError(
            f"expected a line whose base is there to compare with; received {line.root}, which has none yet; onboard a first task"
        )
    if target.suffix != ".safetensors" or target.exists():
        raise workspace.WorkspaceError(
            f"expected a new file that ends in .safetensors to write to; received {target}; choose another name"
        )
    if not source.exists():
        raise workspace.WorkspaceError(
            f"expected a file or folder of weights; received {source}, which does not exist; check the path"
        )
    patterns = json.dumps({"missing": list(missing), "ignored": list(ignored)})
    return process.pump(
        [sys.executable, "-m", "stages", "imported", str(source.resolve()), str(target.resolve()), patterns],
        folder=line.root, log=lambda _: None, extra={WARM: ""},
    )  # fmt: skip
