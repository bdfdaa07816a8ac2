"""What every stage has around it: threads, one clear sentence on failure, time and memory, tracking, whole outputs."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otmf.runtime import errors

FAILURE = "otmf: "
# What `python -m stages NAME` runs. The names of stages stand in each line's dvc.yaml and dvc.lock.
MODULES = {
    **{name: f"stages.{name}" for name in ("pretrained", "finetune", "extract", "merge_step", "head_tune", "evaluate")},
    "compare": "stages.bench.compare",
    "bench": "stages.bench.run",
    "predict": "stages.jobs.predict",
    "export": "stages.jobs.export",
    "imported": "stages.jobs.import_checkpoint",
    "packaged": "stages.jobs.fetch_torchvision",
    "unsent": "stages.jobs.send_tracking",
    "serve": "stages.serving.serve",
}


@dataclass
class Facts:
    """What a stage says about its run, for tracking: never an input of a later stage.

    Attributes:
        parameters: name -> value.
        metrics: name -> number.
        curves: metric name -> list of (step, value).
        inputs, outputs: paths whose content identifies the run.
        document: name -> JSON-able content, kept as an artifact.
    """

    inputs: list[Path]
    outputs: list[Path]
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """One progress line, written at once: other processes write to the same place."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stage(name: str, arguments: list[str]) -> int:
    """Runs stage `name` in the current folder; returns the exit code.

    Mistakes a person can mend (ValueError, OSError, KeyError) end in one sentence on stderr; anything else also shows
    its traceback, as it is our own. The code is 1 where what the stage was given is wrong, 75 where its surroundings are,
    and 130 after an interrupt.
    """
    try:
        _run(name, arguments)
        return 0
    except KeyboardInterrupt:
        print(f"{FAILURE}{name}: interrupted; nothing of it was kept; run it again", file=sys.stderr, flush=True)
        return 130
    except (ValueError, OSError, KeyError) as error:
        if os.environ.get("OTMF_DEBUG"):
            traceback.print_exc()
        print(f"{FAILURE}{errors.sentence(error)}", file=sys.stderr, flush=True)
        return errors.TEMPORARY if isinstance(error, OSError) else 1
    except Exception as error:
        traceback.print_exc()
        print(
            f"{FAILURE}{name}: expected no error of this kind; received {type(error).__name__}: {errors.sentence(error)[:300]}; "
            "please report it with the lines above",
            file=sys.stderr,
            flush=True,
        )
        return errors.TEMPORARY


@contextlib.contextmanager
def imports_frozen() -> Iterator[None]:
    """Keeps the garbage collector from walking what is loaded already: about half a second at a time for torch and MLflow."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run(name: str, arguments: list[str]) -> None:
    import torch

    from stages.context import current_line, tracking

    line = current_line.read(Path.cwd())
    torch.set_num_threads(line.params_checked.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # a tenth of the time of small encoders, no byte of the result
    )
    module = importlib.import_module(MODULES[name])
    if not getattr(module, "TRACKED", True):
        module.main(line, *arguments)
        return
    store = tracking.connect(line)
    with imports_frozen():
        begun = time.perf_counter()
        facts = module.main(line, *arguments)
        seconds = time.perf_counter() - begun
    facts.metrics["seconds"] = seconds
    facts.metrics["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tracking.log(store, line, name, arguments, facts)
    say(f"{name} {' '.join(arguments)}: done in {seconds:.1f} s")
