"""The list of methods: each one, what it sees, each of its settings."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from flows.studies import methods as method_list
from otmf import methods, settings
from otmf.settings import merge_methods, presets

OF_REGMEAN = {"unlabelled_images", "pre_images"}  # said for those that have a memory


def test_each_method_is_listed_with_what_it_sees_and_its_settings() -> None:
    table = method_list.table()
    names, _, sees, told = (list(column.cells) for column in table.columns)
    assert names == list(merge_methods.BY_NAME)
    of = {name: (seen, said) for name, seen, said in zip(names, sees, told, strict=True)}
    assert of["wudi"] == ("no input", "ridge 0.01")
    assert of["regmean"][0] == "unlabelled new inputs"
    assert of["otmf"][0] == "unlabelled new inputs, old ones as pre_images says"
    for name, model in merge_methods.BY_NAME.items():
        assert (of[name][0] == "no input") == (methods.METHODS[name].sees == "nothing")
        for key in set(model.model_fields) - set(merge_methods.Merge.model_fields):
            assert f"{key} " in of[name][1], (name, key)


def test_presets_stand_below() -> None:
    written = io.StringIO()
    Console(width=200, file=written).print(method_list.table())
    said = " ".join(written.getvalue().split())
    for name, values in presets.PRESETS.items():
        assert f"preset: {name} has" in said
        for key, value in values.items():
            assert f"{key} {str(value).lower() if isinstance(value, bool) else value}" in said, key


@pytest.mark.parametrize("name", merge_methods.BY_NAME)
def test_one_method_is_told_with_what_each_of_its_settings_means(name) -> None:
    said = method_list.one(name)
    assert said.startswith(f"{name} ({merge_methods.SOURCES[name]}); its merges see ")
    explained = said.partition("Its settings: ")[0]
    parent = (
        merge_methods.BY_NAME[name].__base__.__doc__
        if name in ("ties_published", "adamerging_layer_wise", "lot")
        else ""
    )
    for key in set(merge_methods.BY_NAME[name].model_fields) - set(merge_methods.Merge.model_fields) - OF_REGMEAN:
        assert re.search(rf"\b{key}\b", explained + parent), key


def test_method_that_there_is_none_of_is_refused_with_those_there_are() -> None:
    with pytest.raises(settings.SettingsError, match="expected one of otmf, .*; received 'tides'"):
        method_list.one("tides")
