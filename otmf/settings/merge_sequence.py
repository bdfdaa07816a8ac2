"""Which merge can follow which in a line: told before any work, where the step itself would find out after it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from otmf import settings
from otmf.settings import merge_methods


def require(steps: Mapping[str, merge_methods.Merge]) -> None:
    """Refuses a line with a step that lacks what the step before would have to leave.

    Args:
        steps: name of each step -> its merge, in the order of merging.

    Raises:
        SettingsError: naming the first such step.
    """
    for (before, earlier), (name, later) in itertools.pairwise(steps.items()):
        if later.follows_itself and earlier.method != later.method:
            raise settings.SettingsError(
                f"steps.{name}.merge: expected method {earlier.method} as at {before}, as {later.method} needs what its own earlier steps left; received "
                f"{later.method}; give every step from the first on one method"
            )
        if _keeps_curvature(later) and not _keeps_curvature(earlier):
            raise settings.SettingsError(
                f"steps.{name}.merge: expected settings that need no curvature, as {before} ({earlier.method}) leaves none; received a start, retention "
                "or largest_damage that needs it; give every step from the first on the same, or write preset: transport"
            )


def _keeps_curvature(merge: merge_methods.Merge) -> bool:
    return isinstance(merge, merge_methods.Otmf) and merge.keeps_curvature
