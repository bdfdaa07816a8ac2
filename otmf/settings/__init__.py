"""Everything that can be set, with its limits."""

from otmf.settings.merge_methods import Merge, Otmf
from otmf.settings.sections import (
    OF_THE_BASE,
    Defaults,
    Evaluate,
    Extract,
    Finetune,
    Gate,
    Head,
    HeadTune,
    Params,
    Pretrained,
    SettingsError,
    Split,
    Step,
    Task,
    Training,
    chain,
    check,
    head_tune,
    merge,
    require_together,
    section,
)
from otmf.settings.step_order import FIRST

__all__ = [
    "FIRST", "OF_THE_BASE", "Defaults", "Evaluate", "Extract", "Finetune", "Gate", "Head", "HeadTune", "Merge", "Otmf", "Params",
    "Pretrained", "SettingsError", "Split", "Step", "Task", "Training", "chain", "check", "head_tune", "merge", "require_together",
    "section",
]  # fmt: skip
