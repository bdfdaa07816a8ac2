"""Classes of images, by an exported folder and open_clip alone: python classify.py TASK IMAGE..."""

from __future__ import annotations

import json
import pathlib
import sys

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file


def main() -> None:
    here, task = pathlib.Path(__file__).resolve().parent, sys.argv[1]
    labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
    if task not in labels:
        sys.exit(f"expected a task of this model ({', '.join(labels)}); received {task}; choose one of them")
    pixels = json.loads((here / "open_clip_config.json").read_text(encoding="utf-8"))["preprocess_cfg"]
    model = open_clip.create_model(f"local-dir:{here}").eval()
    head = load_file(here / "heads" / f"{task}.safetensors")
    for name in sys.argv[2:]:
        with torch.no_grad():
            features = model.encode_image(prepared(pathlib.Path(name), pixels)[None])
            features = torch.nn.functional.normalize(features, dim=-1)
            found = (features @ head["weight"].T + head["bias"]).softmax(dim=-1)[0]
        print(f"{pathlib.Path(name).name}\t{labels[task][int(found.argmax())]}\t{float(found.max()):.3f}")


def prepared(path: pathlib.Path, pixels: dict) -> torch.Tensor:
    """The middle square of a picture at the model's size, normalised."""
    picture = Image.open(path).convert("RGB")
    side, size = min(picture.size), pixels["size"]
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    resized = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    values = (
        torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255
    )
    return (values - torch.tensor(pixels["mean"])[:, None, None]) / torch.tensor(pixels["std"])[:, None, None]


if __name__ == "__main__":
    main()
