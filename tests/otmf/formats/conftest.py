"""One small tower for the tests of its forms."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from otmf import backbones
from tests import makers
from tests.otmf.formats.examples import VISION


@pytest.fixture(scope="module")
def tower() -> backbones.Backbone:
    """An encoder of the shape of VISION, with CLIP's own activation."""
    return backbones.build({**makers.BACKBONE, "quick_gelu": True})


@pytest.fixture(scope="module")
def base(tower) -> dict[str, torch.Tensor]:
    return tower.initial_state(seed=0)


@pytest.fixture(scope="module")
def theirs() -> CLIPVisionModelWithProjection:
    torch.manual_seed(3)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()
