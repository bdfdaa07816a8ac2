"""params.yaml parsed once for several DVC processes: what DVC gets is what its own parser makes."""

from __future__ import annotations

import pytest
from dvc.utils.serialize import _yaml

from stages.warm import params_cache

TEXT = "a: {b: [1, 2]}\nrate: 1e-4\n"


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    monkeypatch.setattr(_yaml, "parse_yaml", _yaml.parse_yaml)
    monkeypatch.setattr(params_cache, "_known", {})


def test_noted_text_is_not_parsed_again_and_is_the_callers_own(tmp_path, monkeypatch) -> None:
    parsed = []
    real = _yaml.parse_yaml
    monkeypatch.setattr(_yaml, "parse_yaml", lambda text, *rest: parsed.append(text) or real(text, *rest))
    (tmp_path / "params.yaml").write_text(TEXT)
    params_cache.note(str(tmp_path))
    params_cache.use()
    first = _yaml.load_yaml(str(tmp_path / "params.yaml"))
    first["a"]["b"].clear()
    assert _yaml.load_yaml(str(tmp_path / "params.yaml")) == {"a": {"b": [1, 2]}, "rate": 1e-4}
    assert parsed == [TEXT]
    (tmp_path / "other.yaml").write_text("c: 1\n")
    assert _yaml.load_yaml(str(tmp_path / "other.yaml")) == {"c": 1}
    assert parsed == [TEXT, "c: 1\n"]


def test_text_for_an_update_keeps_its_comments(tmp_path) -> None:
    (tmp_path / "params.yaml").write_text("a: 1  # why\n")
    params_cache.note(str(tmp_path))
    params_cache.use()
    assert _yaml.parse_yaml_for_update("a: 1  # why\n", "params.yaml").ca.items["a"]


@pytest.mark.parametrize("content", [b"a: [", b"\xff", None], ids=["no YAML", "no text", "nothing there"])
def test_what_cannot_be_parsed_is_left_to_dvc(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    params_cache.note(str(tmp_path))
    assert params_cache._known == {}


def test_only_the_newest_text_is_kept(tmp_path) -> None:
    for text in ("a: 1\n", "a: 2\n"):
        (tmp_path / "params.yaml").write_text(text)
        params_cache.note(str(tmp_path))
    assert list(params_cache._known) == ["a: 2\n"]
