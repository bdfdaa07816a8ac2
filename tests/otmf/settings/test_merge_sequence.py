"""Which merge can follow which: what is foretold is what the steps themselves do."""

from __future__ import annotations

import pytest

from otmf import methods, settings
from otmf.settings import merge_sequence
from tests.otmf.continual.test_step import Stream


def line(*merges: dict) -> dict[str, settings.Merge]:
    return {f"s{number:02d}": settings.merge("transport", values) for number, values in enumerate(merges, start=1)}


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_what_is_refused_is_what_the_step_itself_would_refuse(backbone, name) -> None:
    stream = Stream(backbone)
    stream.step(method="running_average")
    foretold, done = True, True
    try:
        merge_sequence.require(line({"method": "running_average"}, {"method": name}))
    except settings.SettingsError:
        foretold = False
    try:
        stream.step(method=name)
    except ValueError as error:
        assert "earlier steps" in str(error)  # noqa: PT017 - whether it fails is what is compared
        done = False
    assert foretold == done


@pytest.mark.parametrize("values", [{"start": "curvature"}, {"retention": 0.1}, {"largest_damage": 1.0}])
def test_curvature_that_no_earlier_step_kept_is_told(backbone, values) -> None:
    stream = Stream(backbone)
    stream.step()
    with pytest.raises(
        settings.SettingsError,
        match=r"steps\.s02\.merge: expected settings that need no curvature, as s01 \(otmf\) leaves none",
    ):
        merge_sequence.require(line({}, values))
    with pytest.raises(ValueError, match="earlier steps left for start: curvature, retention or largest_damage"):
        stream.step(**values)


def test_line_of_one_method_and_the_first_step_are_not_refused() -> None:
    merge_sequence.require({})
    merge_sequence.require(line({"method": "wudi"}))
    merge_sequence.require(line({"method": "fisher"}, {"method": "fisher"}, {"method": "running_average"}))
    merge_sequence.require({f"s{number}": settings.merge("default", {}) for number in range(3)})


def test_method_that_needs_its_own_past_is_told_with_the_step_and_what_stands_before() -> None:
    with pytest.raises(
        settings.SettingsError,
        match=r"steps\.s03\.merge: expected method fisher as at s02, as wudi needs what its own earlier steps left",
    ):
        merge_sequence.require(line({"method": "fisher"}, {"method": "fisher"}, {"method": "wudi"}))
