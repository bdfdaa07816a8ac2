"""`otmf export`: an encoder and its heads as files that open_clip, safetensors and ONNX runtimes load without otmf."""

from __future__ import annotations

from pathlib import Path

import torch

from otmf import backbones, checkpoints
from stages import _encoder, _files, _params
from stages._run import say

TRACKED = False
WEIGHTS, CONFIG, LABELS, ONNX = "open_clip_model.safetensors", "open_clip_config.json", "labels.json", "encoder.onnx"


def main(line: _params.Line, target: str, kind: str) -> None:
    """Writes into a folder that exists; `kind` is `onnx` for an ONNX file beside the rest, `plain` without."""
    folder, step = Path(target), line.order[-1]
    backbone = _encoder.open_backbone(line)
    state = checkpoints.load(line.merged(step) / "model.safetensors")
    model, pixels, weights = backbones.whole_model(backbone, state)
    checkpoints.save(weights, folder / WEIGHTS)
    _files.write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": pixels})
    labels = {}
    for task in line.tasks_until(step):
        head, _, classes = _files.load_head(line.heads(step) / f"{task}.safetensors")
        checkpoints.save({"weight": head.weight, "bias": head.bias}, folder / "heads" / f"{task}.safetensors")
        labels[task] = list(classes)
    _files.write_json(folder / LABELS, labels)
    if kind == "onnx":
        _onnx(backbone, state, folder / ONNX)
    say(f"export: {step}, {len(labels)} heads")


def _onnx(backbone: backbones.Backbone, state: dict[str, torch.Tensor], path: Path) -> None:
    """The encoder alone: `images` (n, 3, size, size), normalised, to `features` (n, d), not normalised."""
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ValueError(
            "expected the packages onnx and onnxscript; received an environment without; install otmf[onnx]"
        ) from error
    example = torch.zeros(2, 3, backbone.image_size, backbone.image_size)
    torch.onnx.export(
        backbones.module(backbone, state), (example,), str(path), input_names=["images"], output_names=["features"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},), external_data=False, verbose=False,
    )  # fmt: skip
