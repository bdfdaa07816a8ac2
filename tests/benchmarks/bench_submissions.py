"""Whether any of many mutated submissions is lost, stuck, or in the way of a sound one, on the way that arrivals take.

    python -m tests.benchmarks.bench_submissions [--line light|images|texts] [--number N] [--sound N] [--seed N] [--output PAGE]

A light line (tests/light.py) gets submissions of arrays, pictures and tables. A line of images and one of texts, with a small base each,
get checkpoints, pickles, adapters and folders with a tokeniser. Bytes are flipped, cut, repeated or taken from elsewhere. Keys and values
of cards are altered, with tags of YAML, odd numbers and escapes. Links, pipes and folders stand where files should. Every so often there
is a sound one. They are accepted as the flow `sweep` does, and dealt with as the flow `arrive` does. Sound ones are onboarded, on a light
line with light stages. So are the first of the mutated ones that pass every check, as what was altered did no harm; of the others of those
the onboarding itself is left out, which takes seconds each.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from flows.line import workspace
from flows.programs import warm
from flows.services import prefect_server
from flows.unattended import inbox
from otmf.runtime import layout
from tests import light, makers
from tests.benchmarks import machine

REAL = 20
VALUES = (
    "!!bool maybe", "!!int ''", '"\\UFFFFFFFF"', "!!float x", "!!timestamp 2001-99-99", "!!binary x", "{<<: 3}", "!!set [a]", "!!omap x",
    "!!python/object/apply:os.system ['true']", "9" * 5000, "0x" + "f" * 5000, "1e999", ".nan", "-.inf", "~", "[]", "{}", "[[[[]]]]", "''", "'\\0'",
    "../../etc/passwd", "/etc/passwd", "\x1b[2J", "[/x]", "&a [*a]", "*nowhere", "? x", "|-\n  a", "'%s%n'", "true", "1:2:3", "\u202e", "\ud7ff",
)  # fmt: skip
KEYS = (
    "name",
    "source",
    "path",
    "classes",
    "prompts",
    "finetune",
    "merge",
    "head",
    "checkpoint",
    "columns",
    "owner",
    "description",
    "licence",
    "colour",
)


def originals(folder: Path) -> list[Path]:
    """Sound submissions of each kind, to be mutated; each a folder with a card."""
    found = [makers.card(folder / "arrays", "arrays", seed=3).parent]
    for name, ending in (("png", "png"), ("jpg", "jpg"), ("tif", "tif"), ("webp", "webp")):
        place = folder / name
        for part, count in (("train", 6), ("test", 4)):
            pixels, labels = makers.pictures(count, seed=len(name) + count)
            for number, (one, label) in enumerate(zip(pixels, labels, strict=True)):
                path = place / "pictures" / part / makers.COLOURS[label] / f"{number}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(one).save(path)
        makers.write_yaml(
            place / f"{name}.yaml",
            {"name": name, "source": "folder", "path": "pictures", "classes": list(makers.COLOURS)},
        )
        found.append(place)
    for name in ("csv", "jsonl", "parquet"):
        found.append(makers.text_card(folder / name, name).parent)
    return found


def images_line(folder: Path) -> tuple[layout.Layout, list[Path]]:
    """A line of images with one task, and submissions that bring its expert in every form."""
    import torch
    from safetensors.torch import save_file

    from otmf import checkpoints

    line = layout.Layout(makers.line(folder / "small"))
    expert = _first(line, makers.card(folder / "cards", "first", seed=2))
    state = checkpoints.load(expert)
    other = {key: value * 1.001 if value.is_floating_point() else value for key, value in state.items()}
    found = []
    for name in ("tensors", "pickle", "adapter"):
        place = folder / "originals" / name
        card = makers.card(
            place, name, seed=len(name), checkpoint={"path": "adapter" if name == "adapter" else f"expert.{name}"}
        )
        if name == "tensors":
            checkpoints.save(other, place / "expert.safetensors")
        elif name == "pickle":
            torch.save(other, place / "expert.pt")
        else:
            (place / "adapter").mkdir()
            key = "transformer.resblocks.0.mlp.c_fc"
            wide, high = state[f"{key}.weight"].shape[1], state[f"{key}.weight"].shape[0]
            factors = {
                f"base_model.model.{key}.lora_A.weight": torch.ones(2, wide),
                f"base_model.model.{key}.lora_B.weight": torch.ones(high, 2),
            }
            save_file(factors, place / "adapter/adapter_model.safetensors")
            (place / "adapter/adapter_config.json").write_text(
                json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4})
            )
        text = card.read_text().replace("expert.tensors", "expert.safetensors").replace("expert.pickle", "expert.pt")
        card.write_text(text)
        found.append(place)
    return line, found


def texts_line(folder: Path) -> tuple[layout.Layout, list[Path]]:
    """A line of texts with one task, and submissions that bring an encoder with its tokeniser as Hugging Face saves it."""
    import torch
    from transformers import BertModel

    line = layout.Layout(makers.text_line(folder / "small"))
    _first(line, makers.text_card(folder / "cards", "first", seed=2))
    place = folder / "originals/folder"
    makers.text_card(place, "folder", seed=3, checkpoint={"path": "expert"})
    shutil.copytree(folder / "small_materials/tiny-bert", place / "expert")
    model = BertModel.from_pretrained(place / "expert")
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.001)
    model.save_pretrained(place / "expert")
    return line, [place]


def _first(line: layout.Layout, card: Path) -> Path:
    """Onboards a line's first task, which makes its base; the model that was fine-tuned."""
    from flows.unattended import arrival

    arrival.onboard(str(line.root), str(card))
    return line.finetuned(card.stem) / "model.safetensors"


def light_line(folder: Path) -> tuple[layout.Layout, list[Path]]:
    """A light line, and submissions of data of every kind."""
    return light.line(folder / "small"), originals(folder / "originals")


LINES = {"light": light_line, "images": images_line, "texts": texts_line}


def mutated(rng: random.Random, original: Path, others: list[Path], target: Path) -> str:
    """Copies a submission with something altered; says how."""
    shutil.copytree(original, target)
    files = [path for path in sorted(target.rglob("*")) if path.is_file()]
    card = next(path for path in files if path.suffix == ".yaml")
    kind = rng.choice(
        (
            "value",
            "value",
            "value",
            "key",
            "card bytes",
            "bytes",
            "bytes",
            "bytes",
            "cut",
            "repeat",
            "swap",
            "odd",
            "gone",
            "huge",
        )
    )
    victim = rng.choice(files)
    brought = [path for path in files if path.suffix in (".safetensors", ".pt", ".json")]
    if brought and rng.random() < 0.7:
        victim = rng.choice(brought)
    if kind == "value":
        _line(card, rng, lambda _: f"{rng.choice(KEYS)}: {rng.choice(VALUES)}")
    elif kind == "key":
        card.write_text(
            card.read_text(encoding="utf-8").replace(rng.choice(KEYS), rng.choice((*KEYS, "x" * 300, "\U0001f600"))),
            encoding="utf-8",
        )
    elif kind in ("card bytes", "bytes"):
        path = card if kind == "card bytes" else victim
        content = bytearray(path.read_bytes() or b"\0")
        for _ in range(rng.choice((1, 1, 4, 64))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
    elif kind == "cut":
        content = victim.read_bytes()
        victim.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == "repeat":
        victim.write_bytes(victim.read_bytes() * rng.choice((2, 3, 50)))
    elif kind == "swap":
        victim.write_bytes(rng.choice([path for path in rng.choice(others).rglob("*") if path.is_file()]).read_bytes())
    elif kind == "odd":
        path = target / rng.choice(("reason.txt", "trace.txt", "card.yaml", "more.yml", "pipe", "a" * 200, "train"))
        path.unlink(missing_ok=True)
        rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/etc/passwd"), path.touch))()
    elif kind == "gone":
        victim.unlink()
    else:
        card.write_text(
            card.read_text(encoding="utf-8") + "description: '" + "x" * rng.choice((300_000, 2_000_000)) + "'\n",
            encoding="utf-8",
        )
    return kind


def _line(card: Path, rng: random.Random, made: Callable[[str], str]) -> None:
    lines = card.read_text(encoding="utf-8").splitlines()
    lines[rng.randrange(len(lines))] = made("")
    card.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--line", choices=LINES, default="light")
    asked.add_argument("--number", type=int, default=10_000)
    asked.add_argument("--sound", type=int, default=10)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--output", type=Path)
    given = asked.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="otmf-submissions-") as name,
        warm.interpreter(),
        prefect_server.own(Path(name) / "prefect") as url,
    ):
        os.environ |= {"PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        page = measured(Path(name), given.line, given.number, given.sound, random.Random(given.seed))
    page = (
        machine.heading(
            "Mutated submissions on the way that arrivals take",
            f"python -m tests.benchmarks.bench_submissions --line {given.line} --number {given.number}",
        )
        + page
    )
    print(page)
    if given.output:
        given.output.write_text(page, encoding="utf-8")


def measured(folder: Path, kind: str, number: int, sound: int, rng: random.Random) -> str:
    from prefect import flow

    from flows.unattended import arrival

    line, sources = LINES[kind](folder)
    sound_card = makers.text_card if kind == "texts" else makers.card
    kinds, begun = collections.Counter(), time.monotonic()
    inbox.FIRST_PAUSE = timedelta(0)  # what is tried again is tried at once
    inbox.SETTLED = -1.0
    seconds: list[float] = []
    onboard, passed = arrival.onboard, itertools.count()

    def lightly(root: str, card: str, *arguments: object) -> object:
        if "/accepted/m" in card and next(passed) >= REAL:
            return SimpleNamespace(step="checked")
        return onboard(root, card, *arguments)

    arrival.onboard = lightly

    @flow(name="submissions")
    def deal() -> None:
        for place in range(number):
            put = inbox.inbox(line) / f"m{place:05d}"
            put.parent.mkdir(exist_ok=True)
            kinds[mutated(rng, rng.choice(sources), sources, put)] += 1
            if place % max(1, number // sound) == number // sound // 2:
                sound_card(inbox.inbox(line) / f"z{place:05d}", f"sound_{place}", seed=place)
            if place % 50 == 49 or place == number - 1:
                _round(line, arrival, seconds)

    deal()
    return "\n" + table(line, kinds, number, seconds, time.monotonic() - begun)


def _round(line: layout.Layout, arrival, seconds: list[float]) -> None:
    """A look at the inbox, and a run of the arrival for each that it accepted, until none waits."""
    for name in inbox.settled(line):
        arrival._accepted(line, name)
    for _ in range(inbox.TRIES + 1):
        for name, _place in inbox.waiting(line):
            began = time.monotonic()
            with contextlib.suppress(*arrival.failures.EXPECTED):
                arrival._deal(line, name)
            seconds.append(time.monotonic() - began)


def table(line: layout.Layout, kinds: collections.Counter, number: int, seconds: list[float], total: float) -> str:
    """What came of them, as Markdown; ends with exit code 1 if anything is not as it has to be."""
    outcomes = {
        path.name: inbox.outcome(line, path.name)
        for kind in ("arrived", "refused")
        for path in (line.private / kind).iterdir()
    }
    arrived = [name for name, found in outcomes.items() if found is not None and found[0] == "arrived"]
    refused = [name for name, found in outcomes.items() if found is not None and found[0] == "refused"]
    sound = [name for name in outcomes if name.startswith("z")]
    missing = [name for name in (f"m{place:05d}" for place in range(number)) if name not in outcomes]
    left = [path.name for path in inbox.inbox(line).iterdir()]
    traces = [name for name in refused if (line.private / "refused" / name / inbox.TRACE).is_file()
              and not (line.private / "refused" / name / inbox.TRACE).is_symlink()
              and "Traceback" in (line.private / "refused" / name / inbox.TRACE).read_text(errors="replace")]  # fmt: skip
    tasks = set(workspace.params(line).tasks)
    rows = [
        ("mutated submissions", number),
        ("of them refused with a sentence", len([name for name in refused if name.startswith("m")])),
        (
            f"of them sound all the same: what was altered did no harm (the first {REAL} onboarded)",
            len([name for name in arrived if name.startswith("m")]),
        ),
        (
            "sound submissions among them, and onboarded",
            f"{len(sound)}, {len([name for name in sound if name in arrived])}",
        ),
        ("lost", len([name for name in missing if name not in left])),
        ("stuck: waiting, or in the inbox", f"{len(inbox.waiting(line))}, {len(left)}"),
        ("that failed in a way that nobody foresaw", len(traces)),
        ("seconds for one: median, longest", f"{sorted(seconds)[len(seconds) // 2]:.3f}, {max(seconds):.1f}"),
        ("minutes", f"{total / 60:.0f}"),
        ("tasks of the line", len(tasks)),
    ]
    said = "| | |\n| --- | --: |\n" + "".join(f"| {what} | {figure} |\n" for what, figure in rows)
    said += "\nAlterations: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) + ".\n"
    for name in traces[:20]:
        said += f"\n- {name}: {(line.private / 'refused' / name / inbox.REASON).read_text().strip()[:300]}"
    if left:
        said += f"\nLeft in the inbox: {json.dumps(left[:10])}\n"
    return said


if __name__ == "__main__":
    main()
