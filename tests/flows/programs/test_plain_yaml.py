"""YAML parsed once for each text, in objects that nobody else holds."""

from __future__ import annotations

import pytest
from ruamel.yaml.error import YAMLError

from flows.programs import plain_yaml


def test_each_caller_gets_objects_of_its_own() -> None:
    first = plain_yaml.load("a: {b: [1, 2]}\n")
    first["a"]["b"].append(3)
    assert plain_yaml.load("a: {b: [1, 2]}\n") == {"a": {"b": [1, 2]}}


def test_values_are_read_as_dvc_reads_them() -> None:
    assert plain_yaml.load("a: 1e-4\nb: no\nc: 010\n") == {"a": 1e-4, "b": "no", "c": 10}
    assert plain_yaml.load("") is None


def test_what_does_not_parse_is_an_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(YAMLError):
            plain_yaml.load("a: [")
