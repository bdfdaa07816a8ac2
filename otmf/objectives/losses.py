"""What the merged model's features should have in common with a teacher's: transport between the clouds, pairs, kernels, predictions.

Every objective is a scalar that is differentiable in the student's features. Which of them reads pairs (row i of both clouds is the same
input) and which reads predictions under a head is all that tells them apart for a merge; the batch is the same for all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from otmf import heads
from otmf.objectives import transport

Objective = Callable[[Tensor, Tensor, "Predictors"], Tensor]
ON_PREDICTIONS = frozenset(("logits", "kl", "entropy"))


@dataclass(frozen=True)
class Predictors:
    """The heads under which rows of a batch are scored.

    Attributes:
        heads: one for each task; the student is read through it.
        place: shape (n,), which of them each row has; None where all rows have the first.
        units: of each task, how far its fine-tuning moved centred logits; what `logits` counts in. None: 1 for all.
        teachers: of each task, the head under which targets are read; None: the student's.
    """

    heads: Sequence[heads.Head] = ()
    place: Tensor | None = None
    units: Sequence[float] | None = None
    teachers: Sequence[heads.Head] | None = None

    def __getitem__(self, rows: Tensor) -> Predictors:
        if self.place is None:
            return self
        found = replace(self, place=self.place[rows])
        vars(found)["_class_vectors"] = self._class_vectors  # of the same heads: taken once for all batches
        return found

    @functools.cached_property
    def _class_vectors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of each task, what student and teacher are read through."""
        teachers = self.teachers or self.heads
        own = [_class_vectors(head, teacher) for head, teacher in zip(self.heads, teachers, strict=True)]
        return own, [_class_vectors(teacher, teacher) for teacher in teachers]

    def centred(self, student: Tensor, targets: Tensor) -> Tensor:
        """The mean over rows of the squared distance of centred logits, each in the unit of its task.

        Raises:
            ValueError: if there is no head.
        """
        self._require_heads()
        of_students, of_teachers = self._class_vectors
        units = self.units or [1.0] * len(self.heads)
        if self.place is None:
            apart = _read(of_students[0], student) - _read(of_teachers[0], targets)
            return apart.square().sum(dim=-1).mean() / units[0]
        tasks, rows = self.place.unique(return_inverse=True)
        numbers = tasks.tolist()
        apart = _read_each([of_students[number] for number in numbers], rows, student)
        apart = apart - _read_each([of_teachers[number] for number in numbers], rows, targets)
        return (apart.square().sum(dim=-1) / student.new_tensor([units[number] for number in numbers])[rows]).mean()

    def mean(self, loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, targets: Tensor) -> Tensor:
        """The mean over rows of a loss on (n, classes) logits of student and teacher, each row under its own head.

        Raises:
            ValueError: if there is no head.
        """

        def own_head(number: int, own: Tensor, given: Tensor) -> Tensor:
            teacher = (self.teachers or self.heads)[number]
            return loss(self.heads[number].logits(own), teacher.logits(given))

        return self._mean(own_head, student, targets)

    def _mean(self, loss: Callable[[int, Tensor, Tensor], Tensor], student: Tensor, targets: Tensor) -> Tensor:
        self._require_heads()
        if self.place is None:
            return loss(0, student, targets)
        parts = []
        for number in self.place.unique().tolist():
            rows = self.place == number
            own = student[rows]
            parts.append(loss(number, own, targets[rows]) * (len(own) / len(student)))
        return torch.stack(parts).sum()

    def _require_heads(self) -> None:
        if not self.heads:
            raise ValueError(
                "expected the heads of the inputs for an objective on predictions; received none; choose an objective on features"
            )


def centred(head: heads.Head, features: Tensor) -> Tensor:
    """What a head tells classes apart by: logits (n, classes) of features (n, d) less their mean, without bias, at unit scale.

    The scale is the mean length of the head's class vectors, so that heads of other temperatures count alike.
    """
    return _read(_class_vectors(head, head), features)


def _class_vectors(head: heads.Head, like: heads.Head) -> Tensor:
    """Less their mean, in units of the mean length of those of another head; shape (classes, d)."""
    length = like.weight.norm(dim=1).mean().clamp_min(torch.finfo(like.weight.dtype).tiny)
    return (head.weight - head.weight.mean(dim=0)) / length


def _read(vectors: Tensor, features: Tensor) -> Tensor:
    """Logits (n, classes) of features (n, d) under class vectors (classes, d)."""
    return functional.linear(functional.normalize(features, dim=-1), vectors.to(features.dtype))


def _read_each(vectors: Sequence[Tensor], rows: Tensor, features: Tensor) -> Tensor:
    """The same, each row under its own class vectors, with zeros where others have more classes: as quick for many tasks as for two."""
    padded = torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True).to(features.dtype)
    return torch.einsum("nd,ncd->nc", functional.normalize(features, dim=-1), padded[rows])


def mmd(student: Tensor, targets: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two clouds (n, d) and (m, d), biased estimate, zero if they are equal.

    Gaussian kernel exp(-|x - y|^2 / s) with s the mean squared distance between the clouds, held constant: no unit to set.

    Source: Gretton et al. (2012), JMLR 13, 723-773, equation 5.
    """
    across = transport.squared_distances(student, targets)
    width = across.detach().mean().clamp_min(torch.finfo(across.dtype).tiny)
    own, other = transport.squared_distances(student, student), transport.squared_distances(targets, targets)
    return sum(sign * torch.exp(-found / width).mean() for sign, found in ((1, own), (1, other), (-2, across)))


def mse(student: Tensor, targets: Tensor) -> Tensor:
    """The mean squared difference of pairs, (n, d) each."""
    return functional.mse_loss(student, targets)


def l1(student: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute difference of pairs, (n, d) each."""
    return functional.l1_loss(student, targets)


def kl(student: Tensor, targets: Tensor) -> Tensor:
    """The mean divergence KL(teacher | student) of predictions from logits (n, classes) each, in nats.

    Source: Hinton et al. (2015), arXiv:1503.02531, at temperature 1.
    """
    given = functional.log_softmax(targets, dim=-1)
    return functional.kl_div(functional.log_softmax(student, dim=-1), given, reduction="batchmean", log_target=True)


def entropy(student: Tensor, targets: Tensor | None = None) -> Tensor:
    """The mean entropy of the student's predictions from logits (n, classes), in nats; the teacher is not read.

    Source: Yang et al. (2024), arXiv:2310.02575.
    """
    logs = functional.log_softmax(student, dim=-1)
    return -(logs.exp() * logs).sum(dim=-1).mean()


ON_FEATURES: dict[str, Callable[..., Tensor]] = {
    "sinkhorn_divergence": transport.sinkhorn_divergence,
    "transport_cost": transport.transport_cost,
    "regularised_cost": transport.regularised_cost,
    "exact_cost": transport.exact_cost,
    "sliced_cost": transport.sliced_cost,
    "mmd": mmd,
    "mse": mse,
    "l1": l1,
}
_WITH_EPSILON = frozenset(("sinkhorn_divergence", "transport_cost", "regularised_cost"))


def chosen(name: str, *, epsilon: float, reach: float | None, seed: int) -> Objective:
    """The objective of that name: (student (n, d), targets (n, d), predictors) -> scalar.

    Args:
        name: one of `settings.Otmf.objective`.
        epsilon: of entropic transport, in units of the mean cost.
        reach: of `sinkhorn_divergence`, in units of the mean cost; None: balanced.
        seed: of the directions of `sliced_cost`, other ones at each call.
    """
    if name == "logits":
        return lambda student, targets, predictors: predictors.centred(student, targets)
    if name == "kl":
        return lambda student, targets, predictors: predictors.mean(kl, student, targets)
    if name == "entropy":
        return lambda student, targets, predictors: predictors.mean(entropy, student, targets)
    if reach is not None:
        loss = functools.partial(transport.unbalanced_divergence, epsilon=epsilon, reach=reach)
    elif name in _WITH_EPSILON:
        loss = functools.partial(ON_FEATURES[name], epsilon=epsilon)
    elif name == "sliced_cost":
        loss = functools.partial(ON_FEATURES[name], generator=torch.Generator().manual_seed(seed))
    else:
        loss = ON_FEATURES[name]
    return lambda student, targets, predictors: loss(student, targets)
