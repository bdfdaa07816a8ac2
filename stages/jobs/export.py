"""`otmf export`: an encoder and its heads as files that open_clip, transformers and ONNX runtimes load without otmf."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from otmf import backbones, checkpoints
from otmf.checkpoints import precision
from otmf.formats import sharded
from stages.context import current_line, encoder, shared_files
from stages.context.run import say

TRACKED = False
LABELS, ONNX, ROUNDING, HUGGING_FACE = "labels.json", "encoder.onnx", "rounding.json", "hugging_face"


def main(line: current_line.Line, target: str, dtype: str, largest: str, *beside: str) -> None:
    """Writes into a folder that exists.

    Args:
        line: at the version.
        target: the folder.
        dtype: of the encoder's weights, a key of `precision.DTYPES`.
        largest: bytes of a file of weights for transformers, beyond which there are several.
        beside: what else is wanted: `onnx`, `hugging-face`.
    """
    folder, step = Path(target), line.order[-1]
    backbone = encoder.open_backbone(line)
    exact = checkpoints.load(line.merged(step) / "model.safetensors")
    state = exact
    if dtype != "float32":
        state, rounding = precision.rounded(exact, dtype, base=shared_files.load_pretrained(line))
        shared_files.write_json(folder / ROUNDING, asdict(rounding))
        say(
            f"rounded to {dtype}: off by {100 * rounding.relative:.2g} % of the encoder's norm, which is {100 * rounding.of_change:.2g} % of what "
            f"merging changed; most, {100 * rounding.largest:.2g} % of its own norm, in {rounding.tensor}"
        )
    _write(backbone.foreign(state), folder, int(largest))
    if "hugging-face" in beside:
        _write(backbone.hugging_face(state), folder / HUGGING_FACE, int(largest))
    labels = {}
    for task in line.tasks_until(step):
        head, _, classes = shared_files.load_head(line.heads(step) / f"{task}.safetensors")
        checkpoints.save({"weight": head.weight, "bias": head.bias}, folder / "heads" / f"{task}.safetensors")
        labels[task] = list(classes)
    shared_files.write_json(folder / LABELS, labels)
    if "onnx" in beside:
        _onnx(backbone, exact, folder / ONNX)
    say(f"export: {step}, {len(labels)} heads")


def _write(foreign: backbones.Foreign, folder: Path, largest: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, weights in foreign.weights.items():
        if name == sharded.WHOLE:
            sharded.write(weights, folder, most=largest)
        else:
            checkpoints.save(weights, folder / name)
    for name, content in foreign.documents.items():
        shared_files.write_json(folder / name, content)
    for name, path in foreign.copies.items():
        shutil.copyfile(path, folder / name)


def _onnx(backbone: backbones.Backbone, state: dict[str, torch.Tensor], path: Path) -> None:
    """The encoder alone: prepared `images` (n, 3, size, size) or `texts` (n, tokens) to `features` (n, d), not normalised."""
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ValueError(
            "expected the packages onnx and onnxscript; received an environment without; install otmf[onnx]"
        ) from error
    example = backbone.prepare(backbone.blank().repeat(2, axis=0))
    torch.onnx.export(
        backbone.module(state), (example,), str(path), input_names=[backbone.reads], output_names=["features"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},), external_data=False, verbose=False,
    )  # fmt: skip
