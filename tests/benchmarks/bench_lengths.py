"""What it gains to compute texts of like length together: seconds of one batch forward and backward, parted and padded to its longest.

    python -m tests.benchmarks.bench_lengths [--texts N] [--repeat R]

An encoder of MiniLM's size with random weights and its embeddings fixed, one thread. Half of a batch are short texts (10 to 20 tokens, as
questions and titles are), half are of 10 to 48; or all are of the first kind, as those of one task often are. Both ways take turns on
the same batches; the ratio is of each pair.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig

from otmf import backbones
from otmf.backbones import length_groups, text
from tests import makers
from tests.benchmarks import machine

MINILM = {
    "vocab_size": 200,  # of the tokeniser that tests make
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
SHORT, LONG = 20, 48
NEVER = 10**9  # tokens: no batch spares as many


def batch(backbone: text.Text, count: int, *, mixed: bool, generator: torch.Generator) -> Tensor:
    """Tokens (count, LONG) of random texts."""
    most = torch.where(torch.arange(count) % 2 == 1, LONG if mixed else SHORT, SHORT)
    ends = (10 + (most - 9) * torch.rand(count, generator=generator)).long()
    tokens = torch.randint(5, 200, (count, LONG), generator=generator)
    return tokens.masked_fill(torch.arange(LONG) >= ends[:, None], backbone.pad)


def seconds(backbone: text.Text, state: dict[str, Tensor], inputs: Tensor, worth: int) -> float:
    length_groups.WORTH = worth
    begun = time.perf_counter()
    loss = backbone.features(state, inputs).square().mean()
    torch.autograd.grad(loss, [value for value in state.values() if value.requires_grad], allow_unused=True)
    return time.perf_counter() - begun


def compared(backbone: text.Text, count: int, *, mixed: bool, repeat: int, worth: int) -> list[object]:
    """A row: median seconds of both ways, and the ratio of each pair."""
    state = {
        key: value.requires_grad_("embeddings" not in key) for key, value in backbone.initial_state(seed=0).items()
    }
    generator = torch.Generator().manual_seed(count)
    pairs = []
    for _ in range(repeat + 1):
        inputs = batch(backbone, count, mixed=mixed, generator=generator)
        pairs.append([seconds(backbone, state, inputs, least) for least in (NEVER, worth)])
    padded, parted = zip(*pairs[1:], strict=True)  # the first is a warm-up
    ratios = sorted(whole / part for whole, part in pairs[1:])
    kind = "10 to 20 tokens and of 10 to 48" if mixed else "10 to 20 tokens"
    middle = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    return [kind, count, f"{statistics.median(padded):.3f}", f"{statistics.median(parted):.3f}", middle]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    worth = length_groups.WORTH
    with tempfile.TemporaryDirectory() as name:
        makers.tokeniser(Path(name))
        config = {"transformers": BertConfig(**MINILM).to_dict(), "tokenizer": "tokenizer.json", "length": LONG}
        backbone = backbones.build({**config, "pooling": "mean"}, Path(name))
        rows = [
            compared(backbone, count, mixed=mixed, repeat=given.repeat, worth=worth)
            for mixed in (True, False)
            for count in given.texts
        ]
    command = f"python -m tests.benchmarks.bench_lengths --texts {' '.join(map(str, given.texts))} --repeat {given.repeat}"  # fmt: skip
    print(machine.heading("Texts of like length together", command))
    columns = ["texts of", "batch", "padded, s", "parted, s", "padded / parted, median [least, greatest]"]
    print(machine.table(columns, rows))


if __name__ == "__main__":
    main()
