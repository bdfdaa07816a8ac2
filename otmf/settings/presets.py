"""Named settings of method `otmf`: the project's default, the paper's, and what follows where a line or a row says otherwise."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "start": "curvature",
        "retention": 0.1,
        "aligned_retention": 0.03,
        "weight_of_old": 12.0,
        "gradient_batch": 8,
        "granularity": "low_rank",
        "rank": 4,
        "head_ridge": 0.1,
        "objective": "logits",
        "decay": "cosine",
        "steps": 50,
        "learning_rate": 0.05,
        "batch_size": 8,
        "unlabelled_images": 512,
    },
    "paper": {
        "combination": "convex",
        "alpha": 0.8,
        "alternate": True,
        "pre_images": "previous_task",
        "remember_targets": False,
        "learning_rate": 0.01,
    },
    "transport": {},
}
OF_OLD_INPUTS: dict[str, dict[str, float]] = {
    "none": {"retention": 0.3},
    "new_task": {"retention": 0.3},
}  # what the preset `default` takes where no old input is seen, that would correct it
OF_GRANULARITY: dict[str, dict[str, float]] = {
    "element": {"learning_rate": 0.02, "retention": 0.1, "aligned_retention": 0.01},
    "tensor": {"learning_rate": 0.1},
    "sparse": {"learning_rate": 0.1, "retention": 0.1},
}  # what other masks than those of the preset `default` take in their place (docs/evidence/log.md)
OF_HEADS: dict[str, dict[str, float | None]] = {
    "frozen": {"head_ridge": None},
    "previous": {"head_ridge": None},
    "all": {"head_ridge": None},
}  # what the preset `default` takes where the new task's head will not be aligned: it stays, or labels tune it, which makes up for less
