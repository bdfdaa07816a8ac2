"""Classification heads: linear maps on L2-normalised features. Zero-shot, class prototypes, probes, tuning and alignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from otmf import settings


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
        weight: shape (classes, d); the scale of the logits is folded in.
        bias: shape (classes,).
    """

    weight: Tensor
    bias: Tensor

    def to(self, where: torch.device) -> Head:
        """The same head on a device."""
        return Head(self.weight.to(where), self.bias.to(where))

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, classes) of features (n, d): weight @ features / |features| + bias."""
        return functional.linear(functional.normalize(features, dim=-1), self.weight, self.bias)


def zero_shot(embeddings: Tensor, *, scale: float) -> Head:
    """The head whose class vectors are text embeddings of the class names.

    Args:
        embeddings: shape (classes, prompts, d); normalised, averaged over the prompts, normalised again.
        scale: factor of the cosine, CLIP's logit scale.

    Source: Radford et al. (2021), arXiv:2103.00020, section 3.1.
    """
    mean = functional.normalize(embeddings, dim=-1).mean(dim=1)
    return _from_directions(mean, scale)


def prototype(features: Tensor, labels: Tensor, *, classes: int, scale: float, centre: bool = False) -> Head:
    """The head whose class vectors are means of normalised features of a few labelled inputs.

    Args:
        features: shape (n, d), of the base.
        labels: shape (n,), from 0 to classes - 1, each class present.
        classes: number of classes.
        scale: factor of the cosine.
        centre: subtract the mean of the class vectors before they are normalised, so that what all classes share does
            not dominate the cosine.

    Raises:
        ValueError: if a class has no input.

    Source: Snell et al. (2017), arXiv:1703.05175, with cosine similarity.
    """
    _require_all_classes(labels, classes)
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, functional.normalize(features, dim=-1))
    means = sums / torch.bincount(labels, minlength=classes)[:, None]
    return _from_directions(means - means.mean(dim=0) if centre else means, scale)


def probe(
    features: Tensor, labels: Tensor, *, classes: int, seed: int, steps: int = 200, learning_rate: float = 0.05
) -> Head:
    """The linear head fitted to frozen features by cross-entropy, from zero weights; arguments as in `prototype`."""
    _require_all_classes(labels, classes)
    start = Head(features.new_zeros(classes, features.shape[1]), features.new_zeros(classes))
    options = settings.HeadTune(steps=steps, learning_rate=learning_rate, batch_size=min(256, len(labels)), seed=seed)
    return tune(start, features, labels, options=options)


def tune(head: Head, features: Tensor, labels: Tensor, *, options: settings.HeadTune) -> Head:
    """The head after `options.steps` Adam steps of cross-entropy on frozen features.

    Args:
        head: where to start.
        features: shape (n, d), of the merged model.
        labels: shape (n,).
        options: steps, learning_rate, batch_size and seed are read.
    """
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        chosen = torch.randint(len(labels), (options.batch_size,), generator=generator)
        loss = functional.cross_entropy(Head(weight, bias).logits(features[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Head(weight.detach(), bias.detach())


def aligned(head: Head, features: Tensor, logits: Tensor, *, ridge: float) -> Head:
    """The head whose logits of some inputs are nearest to given ones, by ridge regression around the head itself. No label is read.

    W + R^T X (X^T X + n ridge / d)^-1 with rows X of normalised features and residuals R; the bias stays. As the mean eigenvalue of X^T X is n / d,
    `ridge` is in units of it.

    Args:
        head: where to stay near.
        features: shape (n, d), of the merged model; without rows the head stays.
        logits: shape (n, classes), what the expert's features of the same inputs gave under its own head.
        ridge: how strongly the head stays; greater than 0.

    Raises:
        ValueError: if inputs or classes do not match, or a value is not finite.
    """
    if logits.shape != (len(features), len(head.weight)):
        raise ValueError(
            f"expected logits of {len(features)} inputs and {len(head.weight)} classes; received shape {tuple(logits.shape)}; give one row "
            "for each input"
        )
    if not len(features):
        return head
    rows = functional.normalize(features.double(), dim=-1)
    residuals = logits.double() - functional.linear(rows, head.weight.double(), head.bias.double())
    _require_finite(rows, residuals)
    count, size = rows.shape
    gram = rows.T @ rows + ridge * count / size * torch.eye(size, dtype=rows.dtype, device=rows.device)
    change = torch.linalg.solve(gram, rows.T @ residuals).T
    return Head(head.weight + change.to(head.weight), head.bias)


def degrees_of_freedom(features: Tensor, *, ridge: float) -> float:
    """How many numbers of each class vector `aligned` takes from inputs: the trace of X (X^T X + n ridge / d)^-1 X^T, between 0 and the lesser of n and d.

    Of so many in n inputs the aligned head fits what is particular to those inputs: on others its error is larger by about (1 - f / n)^-2.

    Args:
        features: shape (n, d).
        ridge: as in `aligned`.

    Raises:
        ValueError: if a value is not finite.

    Source: Golub, Heath and Wahba (1979), Technometrics 21(2), 215-223.
    """
    if not len(features):
        return 0.0
    rows = functional.normalize(features.double(), dim=-1)
    _require_finite(rows)
    count, size = rows.shape
    values = torch.linalg.eigvalsh(rows.T @ rows).clamp_min(0)
    return float((values / (values + ridge * count / size)).sum())


def accuracy(head: Head, features: Tensor, labels: Tensor) -> float:
    """The fraction of inputs whose largest logit is at their label, in [0, 1].

    Raises:
        ValueError: if a logit is not finite, which is no prediction.
    """
    logits = head.logits(features)
    _require_finite(logits)
    return float((logits.argmax(dim=-1) == labels).double().mean())


def _require_finite(*found: Tensor) -> None:
    if not all(bool(values.isfinite().all()) for values in found):
        raise ValueError("expected finite features and logits; received NaN or infinity; correct the merged model")


def _from_directions(directions: Tensor, scale: float) -> Head:
    weight = functional.normalize(directions, dim=-1) * scale
    return Head(weight, weight.new_zeros(len(weight)))


def _require_all_classes(labels: Tensor, classes: int) -> None:
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) != classes or int(counts.min()) == 0:
        raise ValueError(
            f"expected labelled inputs of each of {classes} classes; received counts {counts.tolist()[:12]}; add "
            "images of the missing classes"
        )
