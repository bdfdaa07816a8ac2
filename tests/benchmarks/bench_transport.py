"""What distances between two clouds cost, and what they say, as batch and dimension grow.

    python -m tests.benchmarks.bench_transport [--points N ...] [--dimensions N ...] [--repeat N]

Both clouds are drawn from normal distributions of covariance I / d whose means are at distance 1: the squared 2-Wasserstein distance of the
distributions is 1, whatever d. A distance is computed with its gradient, on one thread, for each draw anew.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from otmf.objectives import losses, transport
from stages.bench import measurement
from tests.benchmarks import machine

BATCH = 64
EPSILON = 0.05
Distance = Callable[[Tensor, Tensor], Tensor]


def in_batches(distance: Distance) -> Distance:
    """The mean over mini-batches of BATCH points of each cloud."""

    def mean(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([distance(*pair) for pair in zip(x.split(BATCH), y.split(BATCH), strict=True)]).mean()

    return mean


def distances() -> dict[str, Distance]:
    """Name -> distance of two clouds of one size."""
    entropic = functools.partial(transport.sinkhorn_divergence, epsilon=EPSILON)
    return {
        "exact cost": transport.exact_cost,
        "transport cost": functools.partial(transport.transport_cost, epsilon=EPSILON),
        "Sinkhorn divergence": entropic,
        f"Sinkhorn divergence, mini-batches of {BATCH}": in_batches(entropic),
        "sliced cost": functools.partial(transport.sliced_cost, generator=torch.Generator().manual_seed(0)),
        "MMD": losses.mmd,
    }


def clouds(points: int, dimension: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two clouds (points, dimension), the first differentiable."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(points, dimension, generator=generator) / dimension**0.5 for _ in range(2))
    return x.requires_grad_(), y + dimension**-0.5


def row(name: str, points: int, dimension: int, repeat: int) -> list[object]:
    """One line of the table."""
    distance = distances()[name]
    distance(*clouds(8, 4, seed=0)).backward()  # what a library takes once is of no distance
    costs, values, added = [], [], []
    for seed in range(repeat + 1):
        x, y = clouds(points, dimension, seed)
        with measurement.measured(x.device) as cost:
            value = distance(x, y)
            value.backward()
        added.append(cost.added_mib)
        if seed:  # the first one warms up
            costs.append(cost)
            values.append(value.item())
    milliseconds = [1000 * cost.seconds for cost in costs]
    return [name, points, dimension, f"{statistics.median(milliseconds):.1f} [{min(milliseconds):.1f}, {max(milliseconds):.1f}]",
            f"{max(added):.1f}", f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(name, n, d, given.repeat) for name in distances() for d in given.dimensions for n in given.points]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as one:  # memory of each is its own
        rows = one.starmap(row, cells, chunksize=1)
    command = (f"python -m tests.benchmarks.bench_transport --points {' '.join(map(str, given.points))} --dimensions "
               f"{' '.join(map(str, given.dimensions))} --repeat {given.repeat}")  # fmt: skip
    print(machine.heading("Distances between clouds: cost and value", command))
    print(machine.table(["distance", "points", "dimension", "ms", "MiB", "value"], rows))
    print(
        f"Medians of {given.repeat} draws, in brackets least and greatest; MiB: the most above what was held; value: mean and deviation over the "
        f"draws, where the distributions are 1 apart (for MMD that is another unit). Epsilon {EPSILON} of the mean cost."
    )


if __name__ == "__main__":
    main()
