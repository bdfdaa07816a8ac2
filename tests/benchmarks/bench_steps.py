"""What each step of a line of merges costs where, as in the chain, it is a process of its own.

    python -m tests.benchmarks.bench_steps STUDY LINE [--orders N] [--rows NAME [NAME ...]]

STUDY and LINE as for `otmf bench`. For each row of the study that merges for aligned heads, and each of its first N orders, the tasks are merged
one after another; a step's process reads what the last one wrote, nothing is kept from other runs, and the rows take turns at each step. Seconds are
of the processor and of the clock, from the beginning of the merge to its end; memory is of the process at its peak, and above what it held when the
merge began, with the base, the task vector and the state of the steps before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from otmf.evaluation import protocol
from stages.context import current_line
from tests.benchmarks import machine

MEASURES = ("processor s", "clock s", "peak MiB", "above MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("line", type=Path)
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=[])
    given = parser.parse_args()
    line = current_line.read(given.line)
    runs = protocol.runs(
        protocol.check(current_line.load_yaml(given.study)), [line.step(name).task for name in line.order]
    )
    wanted = [run for run in runs if not run.part and not run.joint and (not given.rows or run.method in given.rows)]
    orders = list(dict.fromkeys(run.order for run in wanted))[: given.orders]
    wanted = [run for run in wanted if run.order in orders]
    found: dict[str, list[list[dict[str, float]]]] = {run.method: [] for run in wanted}
    for order in orders:
        for name, steps in _measured([run for run in wanted if run.order == order], given.line).items():
            found[name].append(steps)
    words = (
        f"{given.study} {given.line.name} --orders {len(orders)}{' --rows ' * bool(given.rows)}{' '.join(given.rows)}"
    )
    print(
        machine.heading("What each step of a line of merges costs", f"python -m tests.benchmarks.bench_steps {words}")
    )
    print(machine.table(*growth(found)))
    print(machine.table(*each(found)))


def _measured(runs: Sequence[protocol.Run], line: Path) -> dict[str, list[dict[str, float]]]:
    """Every step of runs over one order, side by side in time."""
    found: dict[str, list[dict[str, float]]] = {run.method: [] for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        for step in range(1, len(runs[0].tasks) + 1):
            for run in runs:
                own = Path(folder) / run.method
                own.mkdir(exist_ok=True)
                asked = {"line": str(line.resolve()), "merge": run.merge, "task": run.tasks[step - 1], "step": step, "folder": str(own)}  # fmt: skip
                command = [sys.executable, "-m", "tests.benchmarks.one_step"]
                answer = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
                found[run.method].append(json.loads(answer.stdout.splitlines()[-1]))
                print(
                    f"{run.method}, order {run.order}, step {step}: {found[run.method][-1]}",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def growth(found: dict[str, list[list[dict[str, float]]]]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: of all steps but the first, the mean, and by how many per cent the second half costs more than the first."""
    rows = []
    for name, orders in found.items():
        cells = []
        for measure in MEASURES:
            values = [[step[measure] for step in steps[1:]] for steps in orders]
            grown = [_grown(found) for found in values]
            cells += [spread([statistics.mean(found) for found in values], ".2f"), spread(grown, "+.1f")]
        rows.append([name, len(orders), *cells])
    return ["row", "orders", *(f"{measure}{more}" for measure in MEASURES for more in ("", ", second half %"))], rows


def each(found: dict[str, list[list[dict[str, float]]]]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: each step, mean over orders."""
    steps = len(next(iter(found.values()))[0])
    rows = [
        [f"{name}, {measure}", *(f"{statistics.mean(order[step][measure] for order in orders):.2f}" for step in range(steps))]
        for name, orders in found.items()
        for measure in MEASURES
    ]  # fmt: skip
    return ["row", *(str(step + 1) for step in range(steps))], rows


def spread(values: Sequence[float], form: str) -> str:
    """Mean and deviation."""
    return (
        f"{statistics.mean(values):{form}} ± {statistics.stdev(values) if len(values) > 1 else 0.0:{form.lstrip('+')}}"
    )


def _grown(values: Sequence[float]) -> float:
    half = len(values) // 2
    return 100 * (statistics.mean(values[-half:]) / statistics.mean(values[:half]) - 1)


if __name__ == "__main__":
    main()
