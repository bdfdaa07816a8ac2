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
    if len(sys.argv) < 3:
        sys.exit("usage: python classify.py TASK IMAGE...")
    here, task = pathlib.Path(__file__).resolve().parent, sys.argv[1]
    labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
    if task not in labels:
        sys.exit(f"expected a task of this model ({', '.join(labels)}); received {task}; choose one of them")
    model, prepared = open_clip.create_model_from_pretrained(f"local-dir:{here}")
    model.eval()
    head = load_file(here / "heads" / f"{task}.safetensors")
    for name in sys.argv[2:]:
        try:
            picture = prepared(Image.open(name))
        except OSError as error:
            sys.exit(f"expected an image; received {name} ({error}); check the path")
        with torch.no_grad():
            features = model.encode_image(picture[None])
            features = torch.nn.functional.normalize(features, dim=-1)
            found = (features @ head["weight"].T + head["bias"]).softmax(dim=-1)[0]
        print(f"{pathlib.Path(name).name}\t{labels[task][int(found.argmax())]}\t{float(found.max()):.3f}")


if __name__ == "__main__":
    main()
