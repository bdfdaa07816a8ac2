"""Classes of texts, by an exported folder and transformers alone: python classify.py TASK FILE_OR_TEXT..."""

from __future__ import annotations

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModel


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python classify.py TASK FILE_OR_TEXT...; a file is one text in UTF-8")
    here, task = pathlib.Path(__file__).resolve().parent, sys.argv[1]
    labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
    if task not in labels:
        sys.exit(f"expected a task of this model ({', '.join(labels)}); received {task}; choose one of them")
    reading = json.loads((here / "reading.json").read_text(encoding="utf-8"))
    model, tokeniser = AutoModel.from_pretrained(here).float().eval(), Tokenizer.from_file(str(here / "tokenizer.json"))
    tokeniser.no_padding()
    tokeniser.enable_truncation(reading["length"])
    head = load_file(here / "heads" / f"{task}.safetensors")
    for given in sys.argv[2:]:
        text = pathlib.Path(given).read_text(encoding="utf-8") if is_file(given) else given
        with torch.no_grad():
            features = encoded(model, torch.tensor([tokeniser.encode(text).ids]), reading)
            features = torch.nn.functional.normalize(features, dim=-1)
            found = (features @ head["weight"].T + head["bias"]).softmax(dim=-1)[0]
        print(f"{given[:60]}\t{labels[task][int(found.argmax())]}\t{float(found.max()):.3f}")


def is_file(name: str) -> bool:
    """Whether there is a file of that name; a text too long to be one is none."""
    try:
        return pathlib.Path(name).is_file()
    except (OSError, ValueError):
        return False


def encoded(model: torch.nn.Module, ids: torch.Tensor, reading: dict) -> torch.Tensor:
    """Features (1, d) of one text's tokens."""
    if model.config.is_encoder_decoder:
        first = torch.full((1, 1), reading["start"])
        return model(input_ids=ids, decoder_input_ids=first).last_hidden_state[:, 0]
    hidden = model(input_ids=ids).last_hidden_state
    return hidden[:, 0] if reading["pooling"] == "first" else hidden.mean(dim=1)


if __name__ == "__main__":
    main()
