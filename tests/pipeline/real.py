"""The chain on real images: a line, its base and its cards, made from a folder of npz files. No code of its own.

    python -m tests.pipeline.real DATA_FOLDER LINE_FOLDER [--tasks N] [--epochs N] [--threads N] [--orders N] [--trained-orders N]
        [--only-experts] [--unlike] [--twenty]

DATA_FOLDER holds mnist.npz, eurosat.npz, ... and pretrain_tiny_imagenet.npz; LINE_FOLDER is made, outside any
repository, as the data may not be copied into one. With --only-experts the tasks are merged by running sums, which is quick, and nothing is
compared: a line for `otmf bench`. --unlike adds an eighth task that fits none of the others: cifar10 with its pixels scrambled, fine-tuned
ten times as fast. The gate refuses it, and it is promoted all the same. --twenty divides the classes of six of the sets, so that there are
twenty tasks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests import makers

TASKS = ("mnist", "eurosat", "gtsrb", "fashion_mnist", "sign_digits", "omniglot_alphabets", "cifar10")
PARTS = {
    "mnist": 2,
    "eurosat": 2,
    "gtsrb": 8,
    "fashion_mnist": 2,
    "omniglot_alphabets": 3,
    "cifar10": 2,
}  # of their classes; twenty tasks in all
MIRRORED = ("pretrain_tiny_imagenet", "eurosat", "fashion_mnist", "cifar10")
HELD_BACK = 0.34
BACKBONE = Path(__file__).resolve().parents[2] / "data/backbones/vit_small_32.json"


def prepare(
    data: Path,
    folder: Path,
    *,
    tasks: tuple[str, ...] = TASKS,
    epochs: int = 25,
    threads: int = 1,
    merge: dict[str, str] | None = None,
    divided: dict[str, int] | None = None,
) -> tuple[Path, list[Path]]:
    """Writes parameters, base card and task cards into a folder; returns the base card and the task cards.

    With `divided`, the classes of a set are divided among so many tasks. The base is pretrained, with labels, on
    pretrain_tiny_imagenet and on the third of each task's train images that its split holds back; those images serve nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sets = {
        own: (name, path)
        for name in tasks
        for own, path in _divided(name, data / f"{name}.npz", folder, (divided or {}).get(name, 1))
    }
    parts = [{"name": "tiny", "source": "npz", "path": str(data / "pretrain_tiny_imagenet.npz"), "mirror": True}]
    parts += [
        {"name": f"{own}_held", "source": "npz", "path": str(path), "share": "held_back", "mirror": name in MIRRORED}
        for own, (name, path) in sets.items()
    ]  # fmt: skip
    makers.write_yaml(folder / "pretrained.yaml", {"source": "train", "held_back": HELD_BACK, "parts": parts})
    varied = {"shift": 1.6, "zoom": 0.1, "turn": 0.14, "jitter": 0.2}
    content = {
        "line": "vision7",
        "device": "cpu",
        "threads": threads,
        "pretrained": {"epochs": epochs, "label_smoothing": 0.1, "scale": 16, "warmup": 0.03, "shift": 3.2, "zoom": 0.25,
                       "turn": 0.26, "jitter": 0.4},
        "defaults": {
            "split": {"held_back": HELD_BACK, "unlabelled": 0.165},
            "head": {"images_per_class": 1, "scale": 20},
            "finetune": {"epochs": 6, "learning_rate": 0.0005, "batch_size": 64, **varied},
            "merge": merge or {},
        },
        "tasks": {},
        "steps": {},
    }  # fmt: skip
    makers.write_yaml(folder / "params.yaml", content)
    cards = []
    for own, (name, path) in sets.items():
        finetune = {"finetune": {"mirror": True}} if name in MIRRORED else {}
        makers.write_yaml(folder / f"{own}.yaml", {"name": own, "source": "npz", "path": str(path), **finetune})
        cards.append(folder / f"{own}.yaml")
    return folder / "pretrained.yaml", cards


def _divided(name: str, source: Path, folder: Path, count: int) -> list[tuple[str, Path]]:
    """Names and files of the tasks a set is divided into: every `count`-th class each, labels counted anew."""
    if count == 1:
        return [(name, source)]
    found = []
    with np.load(source, allow_pickle=False) as arrays:
        whole = dict(arrays)
    for number in range(count):
        own = f"{name}_{number + 1}"
        part = {"classes": whole["classes"][number::count]}
        for half in ("train", "test"):
            chosen = whole[f"{half}_y"] % count == number
            part |= {f"{half}_x": whole[f"{half}_x"][chosen], f"{half}_y": whole[f"{half}_y"][chosen] // count}
        np.savez_compressed(folder / f"{own}.npz", **part)
        found.append((own, folder / f"{own}.npz"))
    return found


def unlike(data: Path, folder: Path) -> Path:
    """Writes the data and the card of a task that fits no other; returns the card. One permutation of the pixels for all images."""
    with np.load(data / "cifar10.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    for part in ("train_x", "test_x"):
        count, height, width, channels = found[part].shape
        order = np.random.default_rng(0).permutation(height * width)
        found[part] = found[part].reshape(count, -1, channels)[:, order].reshape(found[part].shape)
    np.savez_compressed(folder / "scrambled.npz", **found)
    content = {"name": "scrambled", "source": "npz", "path": "scrambled.npz", "finetune": {"learning_rate": 0.005}}
    makers.write_yaml(folder / "scrambled.yaml", content)
    return folder / "scrambled.yaml"


def arguments(
    description: str, *, tasks: int, epochs: int, orders: int = 3, trained_orders: int = 3
) -> argparse.ArgumentParser:
    """The command line of a script that makes a line of real data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("line", type=Path)
    parser.add_argument("--tasks", type=int, default=tasks)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--orders", type=int, default=orders)
    parser.add_argument("--trained-orders", type=int, default=trained_orders)
    parser.add_argument("--only-experts", action="store_true")
    return parser


def program(name: str) -> str:
    """Where a command of this environment is."""
    return str(Path(sys.executable).parent / name)


def quick(given: argparse.Namespace) -> dict[str, str]:
    """How a line merges whose experts alone are wanted."""
    return {"method": "wudi"} if given.only_experts else {}


def run(given: argparse.Namespace, base: Path, cards: list[Path], *options: str) -> None:
    """Makes a line, onboards its cards, compares the methods and writes the report."""
    otmf = program("otmf")
    line, begun = given.line, time.perf_counter()
    init = ["init", str(line), "--base", str(base), "--params", str(base.parent / "params.yaml"), *options]
    commands = [init, *(["onboard", str(card), "--line", str(line)] for card in cards)]
    orders = ["--orders", str(given.orders), "--trained-orders", str(given.trained_orders)]
    commands += [
        *([] if given.only_experts else [["compare", *orders, "--line", str(line)]]),
        *([name, "--line", str(line)] for name in ("report", "status")),
    ]
    for command in commands:
        subprocess.run([otmf, *command], check=True)
    print(f"{len(cards)} tasks in {time.perf_counter() - begun:.0f} s")


def main() -> None:
    parser = arguments(__doc__, tasks=len(TASKS), epochs=25)
    parser.add_argument("--unlike", action="store_true")
    parser.add_argument("--twenty", action="store_true")
    given = parser.parse_args()
    materials = given.line.parent / f"{given.line.name}_cards"
    base, cards = prepare(
        given.data.resolve(),
        materials,
        tasks=TASKS[: given.tasks],
        epochs=given.epochs,
        threads=given.threads,
        merge=quick(given),
        divided=PARTS if given.twenty else None,
    )
    run(given, base, cards, "--backbone", str(BACKBONE))
    if given.unlike:
        card = unlike(given.data.resolve(), materials)
        for words in (["onboard", str(card)], ["promote", card.stem, "--reason", "merged to see what it costs"]):
            subprocess.run([program("otmf"), *words, "--line", str(given.line)], check=words[0] == "promote")


if __name__ == "__main__":
    main()
