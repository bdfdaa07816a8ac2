"""How much predictions change with the weights, in few numbers: what is kept of a task's inputs so that later merges can do without them.

Symbols: z centred logits (`objectives.centred`), v a change of the weights, V its part of one linear weight (out, in).
The mean of |z(theta + v) - z(theta)|^2 over inputs is close to Q(v) = sum over linear weights of tr(B V A V^T), plus the
sum of d v^2 over all other tensors: the Gauss-Newton matrix, block by block, each a Kronecker product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import linear_maps

NONE = 1e-30  # what stands on the diagonal of a factor that is zero
TILE = 1024  # greatest side of a factor: wider weights are taken in parts, between which nothing is assumed


@dataclass(frozen=True)
class Curvature:
    """The factors of Q.

    Attributes:
        inner: linear weight -> A, in parts along its inputs, shapes (in_p, in_p).
        outer: linear weight -> B, in parts along its outputs, shapes (out_p, out_p); traces sum to 1.
        diagonal: other tensor -> d, of its shape; of a table of embeddings (rows, 1).
    """

    inner: dict[str, tuple[Tensor, ...]]
    outer: dict[str, tuple[Tensor, ...]]
    diagonal: dict[str, Tensor]

    def slope(self, key: str, change: Tensor) -> Tensor:
        """The gradient of Q with respect to one tensor of v, in its shape: 2 B V A, or 2 d v; zero for a tensor it does not know."""
        if key in self.inner:
            rows = by_rows(linear_maps.oriented(key, change), self.outer[key])
            half = torch.cat([B @ part for B, part in zip(self.outer[key], rows, strict=True)])
            columns = by_columns(half, self.inner[key])
            found = torch.cat([part @ A for A, part in zip(self.inner[key], columns, strict=True)], dim=1)
            return linear_maps.oriented(key, found).mul(2)
        if key in self.diagonal:
            return self.diagonal[key] * change * 2
        return torch.zeros_like(change)

    def of(self, change: Mapping[str, Tensor]) -> float:
        """Q of a change."""
        return sum(float((self.slope(key, value) * value).sum()) for key, value in change.items()) / 2

    def scaled(self, factor: float) -> Curvature:
        """The curvature of Q times a factor."""
        inner = {key: tuple(A * factor for A in parts) for key, parts in self.inner.items()}
        return Curvature(inner, self.outer, {key: d * factor for key, d in self.diagonal.items()})

    def plus(self, other: Curvature) -> Curvature:
        """The sum of two, with one B for both: their mean, each weighed by the trace of its A. Neither grows. A tensor that one of
        them does not know is as the other has it."""
        inner, outer = {**self.inner, **other.inner}, {**self.outer, **other.outer}
        for key in self.inner.keys() & other.inner.keys():
            mine, theirs = (sum(float(A.trace()) for A in found.inner[key]) for found in (self, other))
            share = mine / (mine + theirs) if mine + theirs > 0 else 0.5
            inner[key] = tuple(map(torch.add, self.inner[key], other.inner[key]))
            outer[key] = tuple(torch.lerp(B, A, share) for A, B in zip(self.outer[key], other.outer[key], strict=True))
        both = self.diagonal.keys() & other.diagonal.keys()
        diagonal = {key: self.diagonal[key] + other.diagonal[key] for key in both}
        return Curvature(inner, outer, {**self.diagonal, **other.diagonal, **diagonal})

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors for a checkpoint."""
        found = {f"diagonal.{key}": value for key, value in self.diagonal.items()}
        for name, factors in (("inner", self.inner), ("outer", self.outer)):
            found |= {f"{name}.{part}.{key}": value for key, parts in factors.items() for part, value in enumerate(parts)}  # fmt: skip
        return found


def from_tensors(tensors: Mapping[str, Tensor]) -> Curvature:
    """The curvature in what `Curvature.tensors` gave."""
    kinds: dict[str, dict[str, dict[int, Tensor]]] = {"inner": {}, "outer": {}}
    diagonal = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "diagonal":
            diagonal[rest] = value
        elif kind in kinds:
            part, _, key = rest.partition(".")
            kinds[kind].setdefault(key, {})[int(part)] = value
    inner, outer = (
        {key: tuple(parts[n] for n in sorted(parts)) for key, parts in kinds[kind].items()} for kind in kinds
    )
    return Curvature(inner, outer, diagonal)


def of_predictions(
    predictions: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    state: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    probes: int,
    batch_size: int,
    seed: int,
) -> Curvature:
    """The curvature of the mean change of predictions over inputs, at a state.

    With e drawn from N(0, I), the gradient G of the sum of e z over a batch has E[G^T G] and E[G G^T] as the two marginals of the
    Gauss-Newton matrix: A and, but for its trace, B.

    Args:
        predictions: (state, inputs) -> z (n, m), differentiable in the state.
        state: where.
        inputs: shape (n, ...).
        probes: draws of e for each input.
        batch_size: inputs that share a gradient; more are cheaper and average fewer products.
        seed: of e and of what is batched together.

    Source: Martens and Grosse (2015), arXiv:1503.05671; the marginals as in Gupta et al. (2018), arXiv:1802.09568.
    """
    leaves = {key: value.detach().clone().requires_grad_() for key, value in task_vectors.floats(state).items()}
    full, generator = {**state, **leaves}, torch.Generator().manual_seed(seed)
    inner: dict[str, tuple[Tensor, ...]] = {}
    outer: dict[str, tuple[Tensor, ...]] = {}
    diagonal: dict[str, tuple[Tensor, ...]] = {}
    for _ in range(probes):
        for chosen in torch.randperm(len(inputs), generator=generator).split(batch_size):
            found = predictions(full, inputs[chosen])
            drawn = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(found)
            gradients = torch.autograd.grad((found * drawn).sum(), list(leaves.values()), allow_unused=True)
            for key, gradient in zip(leaves, gradients, strict=True):
                if gradient is None:
                    continue
                if linear_maps.is_linear(key, gradient):
                    weight = linear_maps.oriented(key, gradient)
                    _add(inner, key, [part.T @ part for part in _parts(weight, dim=1)])
                    _add(outer, key, [part @ part.T for part in _parts(weight, dim=0)])
                    continue
                square = gradient.square()
                _add(diagonal, key, [square.mean(dim=1, keepdim=True) if square.ndim == 2 else square])
    count = probes * len(inputs)
    return Curvature(
        {key: tuple(A / count for A in parts) for key, parts in inner.items()},
        {key: _of_trace_one(parts) for key, parts in outer.items()},
        {key: d / count for key, (d,) in diagonal.items()},
    )


def merged(
    D: Mapping[str, Tensor],
    old: Curvature,
    tau: Mapping[str, Tensor],
    new: Curvature,
    *,
    count: int,
    damping: float,
) -> task_vectors.Vector:
    """The vector v that minimises Q_old(v - D) + Q_new(v - tau), block by block in closed form.

    Of a linear weight B_o (V - D) A_o + B_n (V - tau) A_n = 0, solved in coordinates in which all four factors are diagonal; of others the
    mean weighed by d. Tensors that no prediction depends on are averaged over the tasks. Damping holds linear weights at D where all curvature is low, and
    draws other tensors to the base there, which merges better than D does (docs/evidence/log.md).

    Args:
        D, old: the merged vector so far and the curvature of the tasks in it.
        tau, new: of the task that arrives.
        count: number of tasks with it.
        damping: added to each factor's diagonal, and to the sum of d, in units of its mean: more, the more tasks a factor is of.

    Source: the quadratic penalty of Ritter et al. (2018), arXiv:1805.07810, for both sides; solved at once instead of by descent.
    """
    vector = {}
    for key, value in tau.items():
        if key in new.inner and key in old.inner:
            vector[key] = _solved(key, D[key], value, old, new, damping).to(value.dtype)
        elif key in new.diagonal and key in old.diagonal:
            mine, theirs = old.diagonal[key], new.diagonal[key]
            total = mine + theirs
            slack = (damping * total.mean()).clamp_min(torch.finfo(total.dtype).tiny)
            vector[key] = (mine * D[key] + theirs * value) / (total + slack)
        else:
            vector[key] = D[key] + (value - D[key]) / count
    return vector


def _solved(key: str, D: Tensor, tau: Tensor, old: Curvature, new: Curvature, damping: float) -> Tensor:
    """D plus the part of tau - D that new curvature asks for against old."""
    change = linear_maps.oriented(key, tau - D).double()
    inner = [_both_diagonal(*pair, damping) for pair in zip(old.inner[key], new.inner[key], strict=True)]
    outer = [_both_diagonal(*pair, damping) for pair in zip(old.outer[key], new.outer[key], strict=True)]
    rows = []
    for part, (left, from_left, high) in zip(by_rows(change, old.outer[key]), outer, strict=True):
        tiles = []
        for tile, (right, from_right, wide) in zip(by_columns(part, old.inner[key]), inner, strict=True):
            own = from_left @ tile @ from_right.T
            ratio = high[:, None] * wide
            tiles.append(left @ (own * (ratio / (1 + ratio))) @ right.T)
        rows.append(torch.cat(tiles, dim=1))
    return D + linear_maps.oriented(key, torch.cat(rows))


def _both_diagonal(old: Tensor, new: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """(T, its inverse, m) with T^T old T = I and T^T new T = diag(m), after damping; shapes (k, k) twice and (k,)."""
    one = torch.eye(len(old), dtype=torch.float64, device=old.device)
    first, second = (found.double() + max(damping * float(found.diagonal().mean()), NONE) * one for found in (old, new))
    low = torch.linalg.cholesky(first)
    half = torch.linalg.solve_triangular(low, second, upper=False)
    values, basis = torch.linalg.eigh(torch.linalg.solve_triangular(low, half.T, upper=False))
    return torch.linalg.solve_triangular(low.T, basis, upper=True), basis.T @ low.T, values.clamp_min(0)


def _parts(weight: Tensor, *, dim: int) -> tuple[Tensor, ...]:
    return weight.tensor_split(-(-weight.shape[dim] // TILE), dim=dim)


def by_rows(weight: Tensor, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A weight (out, in) in the parts of its outer factors."""
    return weight.split([len(factor) for factor in factors], dim=0)


def by_columns(weight: Tensor, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A weight (out, in) in the parts of its inner factors."""
    return weight.split([len(factor) for factor in factors], dim=1)


def _add(sums: dict[str, tuple[Tensor, ...]], key: str, found: list[Tensor]) -> None:
    """Adds to what is kept under a name, in place; what is found first is kept itself."""
    if key not in sums:
        sums[key] = tuple(found)
        return
    for total, part in zip(sums[key], found, strict=True):
        total.add_(part)


def _of_trace_one(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    trace = sum(float(part.trace()) for part in parts)
    return tuple(part / trace for part in parts) if trace > 0 else parts
