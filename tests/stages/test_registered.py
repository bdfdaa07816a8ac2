"""What DVC is told when it fetches a version: the user's own access to git, and nothing that reports or asks."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

from stages import registered


def test_fetching_keeps_the_users_access_and_neither_reports_nor_asks(tmp_path, monkeypatch) -> None:
    given: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        given.update(env)
        assert command[-2:] == ["/srv/line", "params.yaml"]
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")
    monkeypatch.setenv("GIT_DIR", "/elsewhere/.git")
    monkeypatch.delenv("DVC_NO_ANALYTICS", raising=False)
    assert registered._get("/srv/line", "c" * 40, "params.yaml", tmp_path) == ""
    assert given["GIT_SSH_COMMAND"] == "ssh -i key"
    assert (given["DVC_NO_ANALYTICS"], given["GIT_TERMINAL_PROMPT"]) == ("1", "0")
    assert "GIT_DIR" not in given
