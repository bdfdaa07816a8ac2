"""Heads: closed forms and messages."""

from __future__ import annotations

import pytest
import torch

from otmf import heads, settings

FEATURES = torch.tensor([[2.0, 0.0], [4.0, 0.2], [0.0, 3.0], [0.1, 1.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def test_prototype_points_at_its_class_whatever_the_length_of_features() -> None:
    head = heads.prototype(FEATURES, LABELS, classes=2, scale=10)
    assert heads.accuracy(head, 100 * FEATURES, LABELS) == 1.0
    torch.testing.assert_close(head.weight.norm(dim=1), torch.tensor([10.0, 10.0]))


def test_centred_prototypes_of_two_classes_are_opposite() -> None:
    head = heads.prototype(FEATURES + 5, LABELS, classes=2, scale=1, centre=True)
    torch.testing.assert_close(head.weight[0], -head.weight[1])


def test_zero_shot_head_averages_normalised_prompts() -> None:
    embeddings = torch.tensor([[[2.0, 0.0], [0.0, 7.0]], [[1.0, 0.0], [1.0, 0.0]]])
    head = heads.zero_shot(embeddings, scale=1.0)
    torch.testing.assert_close(head.weight[0], torch.tensor([0.5, 0.5]).sqrt())


def test_probe_and_tuning_learn_what_prototypes_cannot() -> None:
    features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [1.0, 0.3], [1.0, -0.3]])
    labels = torch.tensor([0, 1, 0, 1])
    assert heads.accuracy(heads.probe(features, labels, classes=2, seed=0), features, labels) == 1.0
    wrong = heads.Head(torch.tensor([[0.0, -1.0], [0.0, 1.0]]), torch.zeros(2))
    tuned = heads.tune(wrong, features, labels, options=settings.HeadTune(steps=300, learning_rate=0.1, batch_size=4))
    assert heads.accuracy(wrong, features, labels) == 0.0
    assert heads.accuracy(tuned, features, labels) == 1.0


def test_class_without_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected labelled inputs of each of 3 classes; received counts \[2, 2, 0\]"):
        heads.prototype(FEATURES, LABELS, classes=3, scale=1)


def test_alignment_is_the_minimum_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    features, wanted = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, 4), (7, 3)))
    head = heads.Head(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (3,))))
    found = heads.aligned(head, features, wanted, ridge=0.3)
    weight = found.weight.clone().requires_grad_()
    missed = (heads.Head(weight, head.bias).logits(features) - wanted).square().sum()
    (missed + 0.3 * len(features) / 4 * (weight - head.weight).square().sum()).backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(weight), atol=1e-10, rtol=0)
    assert found.bias is head.bias


def test_alignment_stays_where_logits_fit_already_and_without_inputs() -> None:
    head = heads.Head(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(heads.aligned(head, FEATURES, head.logits(FEATURES), ridge=0.1).weight, head.weight)
    assert heads.aligned(head, FEATURES[:0], torch.empty(0, 2), ridge=0.1) is head


@pytest.mark.parametrize(
    ("features", "logits", "said"),
    [
        (FEATURES, torch.zeros(3, 2), r"expected logits of 4 inputs and 2 classes; received shape \(3, 2\)"),
        (FEATURES, torch.full((4, 2), float("nan")), "expected finite features and logits; received NaN"),
        (FEATURES * float("inf"), torch.zeros(4, 2), "expected finite features and logits; received NaN"),
    ],
)
def test_alignment_refuses_what_does_not_fit(features, logits, said) -> None:
    with pytest.raises(ValueError, match=said):
        heads.aligned(heads.Head(torch.eye(2), torch.zeros(2)), features, logits, ridge=0.1)


def test_degrees_of_freedom_are_the_trace_of_what_alignment_fits() -> None:
    """The change of the logits of the same inputs, as a linear map of the residuals: its trace, read off unit residuals one at a time."""
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = heads.Head(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    for ridge in (0.03, 3.0):
        fitted = [
            float(
                heads.aligned(head, features, torch.eye(7, dtype=torch.float64)[:, [row]], ridge=ridge).logits(
                    features
                )[row]
            )
            for row in range(7)
        ]
        assert heads.degrees_of_freedom(features, ridge=ridge) == pytest.approx(sum(fitted))
    assert heads.degrees_of_freedom(features[:0], ridge=1.0) == 0
    with pytest.raises(ValueError, match="expected finite features and logits; received NaN or infinity"):
        heads.degrees_of_freedom(features * torch.nan, ridge=1.0)
    assert heads.degrees_of_freedom(features, ridge=1e-9) == pytest.approx(4)


def test_logits_that_are_not_finite_are_no_prediction() -> None:
    head = heads.Head(torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match="expected finite features and logits"):
        heads.accuracy(head, torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.int64))
