"""What a row of a comparison says of a merge step beside its accuracy."""

from __future__ import annotations

import pytest
import torch

from otmf import continual
from otmf.merging import mask_training, masks
from stages.bench import line_bench, measurement


@pytest.mark.parametrize(("trace", "share"), [([{"step": 0, "side": "post", "loss": 1.0}], 2.0), ([], None)])
def test_masks_that_no_step_trained_cost_nothing(trace, share) -> None:
    vector = {"weight": torch.ones(3, 2)}
    learned = mask_training.Merged(vector, {"pre": masks.new(vector), "post": masks.new(vector)}, trace)
    step = continual.Step(vector, {}, {"declared": "nothing", "pre_images": 0, "post_images": 0}, learned)
    assert line_bench._facts(step, measurement.Cost())["mask_share"] == share
