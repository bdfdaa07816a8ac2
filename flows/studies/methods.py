"""The methods that `merge.method` may name, with what they see and their settings: all as a table, or one with what its settings mean."""

from __future__ import annotations

import inspect

from rich.table import Table

from otmf import settings
from otmf.settings import merge_methods, presets


def table() -> Table:
    """One line for each method; below the last, what the presets of `otmf` set otherwise."""
    shown = Table(
        title="merge.method, and its settings where neither preset nor line says them",
        caption=_presets(),
        caption_justify="left",
    )
    for column in ("method", "source", "merges see", "settings"):
        shown.add_column(column, overflow="fold")
    for name, model in merge_methods.BY_NAME.items():
        shown.add_row(name, merge_methods.SOURCES[name], _sees(model), _told(_own(model)))
    return shown


def one(name: str) -> str:
    """What a method does and its settings mean.

    Raises:
        SettingsError: if there is no such method.
    """
    if name not in merge_methods.BY_NAME:
        raise settings.SettingsError(
            f"method: expected one of {', '.join(merge_methods.BY_NAME)}; received {name[:60]!r}; choose one of them"
        )
    model = merge_methods.BY_NAME[name]
    shared = "Of all methods: " + inspect.getdoc(merge_methods.Merge).partition("\n\n")[2]
    about = f"{name} ({merge_methods.SOURCES[name]}); its merges see {_sees(model)}."
    return "\n\n".join(
        [about, inspect.getdoc(model), f"Its settings: {_told(_own(model)) or 'none of its own'}.", shared]
    )


def _own(model: type[merge_methods.Merge]) -> dict[str, object]:
    """What a method has beside that which all have."""
    return {
        key: field.default for key, field in model.model_fields.items() if key not in merge_methods.Merge.model_fields
    }


def _sees(model: type[merge_methods.Merge]) -> str:
    if "unlabelled_images" not in model.model_fields:
        return "no input"
    return "unlabelled new inputs" + (", old ones as pre_images says" if "memory_size" in model.model_fields else "")


def _told(values: dict[str, object]) -> str:
    return ", ".join(
        f"{key} {'none' if value is None else str(value).lower() if isinstance(value, bool) else value}"
        for key, value in values.items()
    )


def _presets() -> str:
    said = [
        f"otmf with preset: {name} has {_told(presets.PRESETS[name]) or 'what stands above'}"
        for name in presets.PRESETS
    ]
    others = [
        *(f"with head_tune.heads {kind} {_told(values)}" for kind, values in presets.OF_HEADS.items()),
        *(f"with pre_images {kind} {_told(values)}" for kind, values in presets.OF_OLD_INPUTS.items()),
        *(f"with granularity {kind} {_told(values)}" for kind, values in presets.OF_GRANULARITY.items()),
    ]
    return "\n".join(
        [
            "All have left_out, lines and seed.",
            *said,
            f"preset: default has besides: {'; '.join(others)}; whatever the line says itself goes before",
            "A row of `otmf bench` named otmf, and a line that says nothing, have preset: default.",
        ]
    )
