"""What all tests share: quiet libraries, and small models and tasks built on the spot."""

from __future__ import annotations

import os

for _key, _value in {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}.items():
    os.environ[_key] = _value
for _key in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "OTMF_LINE", "OTMF_WARM"):
    os.environ.pop(_key, None)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from otmf import backbones  # noqa: E402
from tests import makers  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> backbones.Backbone:
    """A two-layer vision transformer for 16x16 pixels, a few kilobytes."""
    return backbones.build(makers.BACKBONE)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
