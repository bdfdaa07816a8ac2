"""The fused vector: masks on the merged vector so far and on the new task's, around where a merge starts. Source: arXiv:2511.19561.

Symbols: D merged vector so far (*pre*), tau task vector of the new task (*post*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from otmf import settings, task_vectors
from otmf.merging import masks


@dataclass(frozen=True)
class Start:
    """Where a merge begins: start = remainder + a D + b tau, with masks at one.

    Attributes:
        factors: (a, b).
        remainder: what masks do not change, zero for the tensors that it does not name.
    """

    factors: tuple[float, float]
    remainder: Mapping[str, Tensor] = field(default_factory=dict)

    def vector(self, merged_vector: Mapping[str, Tensor], task_vector: Mapping[str, Tensor]) -> task_vectors.Vector:
        """The start itself, of D and tau."""
        a, b = self.factors
        return {key: self.remainder.get(key, 0) + a * merged_vector[key] + b * tau for key, tau in task_vector.items()}


def weights(options: settings.Otmf) -> tuple[float, float]:
    """The factors of M_pre (.) D and M_post (.) tau: (alpha, 1 - alpha) if convex, (1, scale) if a sum."""
    return (options.alpha, 1 - options.alpha) if options.combination == "convex" else (1.0, options.scale)


def fuse(
    merged_vector: Mapping[str, Tensor],
    task_vector: Mapping[str, Tensor],
    pre: masks.Masks,
    post: masks.Masks,
    start: Start,
) -> task_vectors.Vector:
    """The fused vector remainder + a * M_pre (.) D + b * M_post (.) tau.

    Args:
        merged_vector: D, name -> tensor.
        task_vector: tau, over the same keys.
        pre, post: M_pre and M_post.
        start: a, b and the remainder.

    Source: arXiv:2511.19561, section 3, where a + b = 1 and nothing remains; the rest is this project's.
    """
    a, b = start.factors
    fused = {}
    for key, tau in task_vector.items():
        fused[key] = (pre[key].value() * merged_vector[key]).mul_(a).addcmul_(post[key].value(), tau, value=b)
        if key in start.remainder:
            fused[key].add_(start.remainder[key])
    return fused
