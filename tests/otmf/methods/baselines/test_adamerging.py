"""AdaMerging, continually: one step of its definition, and what it remembers."""

from __future__ import annotations

import pytest
import torch

from otmf import continual, heads, methods, settings, task_vectors
from tests import makers


class Line:
    """Experts of the small backbone with heads of their own."""

    def __init__(self, backbone, **values) -> None:
        self.base = {key: value.double() for key, value in backbone.initial_state(seed=0).items()}
        self.encoder = continual.Encoder(backbone.features, lambda found: backbone.prepare(found).double())
        self.backbone, self.values, self.merged, self.state = backbone, values, None, {}

    def expert(self, count: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        return {
            key: 0.05 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for key, value in task_vectors.floats(self.base).items()
        }

    def head(self, count: int) -> heads.Head:
        drawn = torch.randn(3, 8, generator=torch.Generator().manual_seed(50 + count), dtype=torch.float64)
        return heads.Head(5 * drawn, torch.zeros(3, dtype=torch.float64))

    def step(self, count: int, task: int | None = None) -> continual.Step:
        """The step of that number, in which the task of that number, or another, arrives."""
        task = task or count
        options = settings.merge("transport", {"unlabelled_images": 6, "batch_size": 6}, self.values)
        done = continual.advance(self.base, self.merged, self.expert(task), count=count, state=self.state, options=options,
                                 encoder=self.encoder, unlabelled=lambda: makers.pictures(6, seed=task)[0],
                                 head=self.head(task))  # fmt: skip
        self.merged, self.state = done.vector, done.state
        return done


@pytest.mark.parametrize("layer_wise", [False, True])
def test_a_step_is_that_of_its_definition(backbone, layer_wise) -> None:
    name = "adamerging_layer_wise" if layer_wise else "adamerging_task_wise"
    line = Line(backbone, method=name, steps=1, learning_rate=0.01)
    line.step(1)
    D, tau = line.merged, line.expert(2)
    keys = list(tau)
    lam = torch.tensor([[1.0], [0.3]], dtype=torch.float64).repeat(1, len(keys) if layer_wise else 1).requires_grad_()
    wide = lam.expand(2, len(keys))
    state = {key: line.base[key] + wide[0, k] * D[key] + wide[1, k] * tau[key] for k, key in enumerate(keys)}
    logits = line.head(2).logits(
        line.encoder.features({**line.base, **state}, line.encoder.prepare(makers.pictures(6, seed=2)[0]))
    )
    p = logits.softmax(-1)
    (gradient,) = torch.autograd.grad(-(p * p.log()).sum(-1).mean(), lam)
    after = (lam - 0.01 * gradient / (gradient.abs() + 1e-8)).detach().expand(2, len(keys))
    found = line.step(2).vector
    for k, key in enumerate(keys):
        torch.testing.assert_close(found[key], after[0, k] * D[key] + after[1, k] * tau[key], atol=1e-6, rtol=1e-5)


def test_predictions_become_surer(backbone) -> None:
    from otmf.objectives.losses import entropy

    found = []
    for steps in (0, 60):
        line = Line(backbone, method="adamerging_layer_wise", steps=steps, learning_rate=0.02)
        line.step(1)
        state = task_vectors.add(line.base, line.step(2).vector)
        found.append(float(entropy(line.head(2).logits(line.encoder.teach(state, makers.pictures(6, seed=2)[0])))))
    assert found[1] < 0.9 * found[0]


def test_remembered_inputs_are_scored_by_their_own_heads(backbone) -> None:
    line = Line(backbone, method="adamerging_layer_wise", steps=2, pre_images="memory", memory_size=6)
    for count in (1, 2, 3):
        done = line.step(count)
    assert done.saw["pre_steps"] == [1, 2]
    assert torch.equal(line.state["method.adamerging_layer_wise.head.1.weight"], line.head(1).weight)
    assert not [key for key in Line(backbone, method="adamerging_layer_wise").step(1).state if "head" in key]


def test_without_the_tasks_head_it_is_refused(backbone) -> None:
    options = settings.merge("default", {"method": "adamerging_task_wise"})
    with pytest.raises(ValueError, match="expected unlabelled inputs and the head of the new task"):
        methods.merge(methods.Arrival({}, None, {"a": torch.ones(2)}, 1, {}, options))


def test_memory_of_another_methods_steps_is_refused(backbone) -> None:
    line = Line(backbone, method="otmf", steps=1)
    line.step(1)
    line.values = {"method": "adamerging_layer_wise", "pre_images": "memory"}
    with pytest.raises(ValueError, match="received none of step 1, which kept none"):
        line.step(2)
