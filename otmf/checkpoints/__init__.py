"""State dicts in files: read, checked, subtracted, written."""

from otmf.checkpoints.files import (
    PICKLES,
    CheckpointError,
    check_finetuned,
    check_finite,
    header,
    identical,
    inside,
    load,
    load_deferred,
    metadata,
    read_foreign,
    save,
)

__all__ = [
    "PICKLES", "CheckpointError", "check_finetuned", "check_finite", "header", "identical", "inside", "load", "load_deferred",
    "metadata", "read_foreign", "save",
]  # fmt: skip
