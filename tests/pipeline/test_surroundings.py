"""What of the user's settings has a say in a line, and what has not: the table of docs/operations.md, walked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.dvc import commands
from flows.line import workspace
from flows.programs import git, process
from flows.services import tracking
from otmf.runtime import layout
from tests import light, makers

pytestmark = pytest.mark.pipeline
ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "otmf")


def table() -> dict[str, str]:
    """Setting -> whether it has a say, of the page."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    part = page.partition("## Settings of your machine")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in part.splitlines() if row.startswith("| ")]
    return {row[0]: row[1] for row in rows[2:]}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A home and an environment with every setting of the table that could do harm, and a folder to stand in."""
    home = tmp_path_factory.mktemp("home")
    marks = home / "ran"
    marks.mkdir()
    (home / "standing").mkdir()
    (home / "ignore").write_text("data/\n*.lock\n*.dvc\n")
    (home / "attributes").write_text("* text eol=crlf filter=mine\n")
    (home / "hooks").mkdir()
    for hook in ("pre-commit", "post-checkout", "post-merge", "reference-transaction"):
        (home / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {marks}/hook\nexit 1\n")
        (home / "hooks" / hook).chmod(0o755)
    (home / ".gitconfig").write_text(
        f"""[user]
    name = Ada Lovelace
    email = ada@example.org
[core]
    autocrlf = true
    eol = crlf
    safecrlf = true
    attributesFile = {home}/attributes
    excludesFile = {home}/ignore
    hooksPath = {home}/hooks
    editor = touch {marks}/editor
    pager = touch {marks}/pager
[filter "mine"]
    clean = touch {marks}/clean; cat
    smudge = touch {marks}/smudge; cat
    required = true
[commit]
    gpgSign = true
[alias]
    status = "!touch {marks}/alias"
"""
    )
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("data/\n")
    (home / ".config/dvc").mkdir()
    (home / ".config/dvc/config").write_text(
        f"[cache]\n    dir = {home}/cache\n    type = copy\n[core]\n    remote = elsewhere\n    autostage = true\n"
        f"['remote \"elsewhere\"']\n    url = {home}/elsewhere\n"
    )
    (home / ".prefect").mkdir()
    (home / ".prefect/profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\nPREFECT_LOGGING_LEVEL = "CRITICAL"\n'
    )
    (home / "standing/.env").write_text(
        "PREFECT_API_URL=http://127.0.0.1:9/api\nPREFECT_RESULTS_PERSIST_BY_DEFAULT=true\n"
    )
    (home / "standing/prefect.toml").write_text("[api]\nurl = 'http://127.0.0.1:9/api'\n")
    dead = "http://127.0.0.1:9"
    theirs = {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de",
        "HTTP_PROXY": dead, "http_proxy": dead, "HTTPS_PROXY": dead, "https_proxy": dead, "ALL_PROXY": dead, "all_proxy": dead,
        "GIT_LITERAL_PATHSPECS": "1", "GIT_QUARANTINE_PATH": str(home), "GIT_INTERNAL_SUPER_PREFIX": "x/", "GIT_TRACE": "1",
        "GIT_AUTHOR_NAME": "", "GIT_COMMITTER_EMAIL": "ci@example.org", "GIT_DIR": str(home / "no.git"), "GIT_WORK_TREE": str(home), "GIT_INDEX_FILE": str(home / "index"),
        "DVC_STUDIO_TOKEN": "x", "DVC_GLOBAL_CONFIG_DIR": str(home / ".config/dvc"), "DVC_SYSTEM_CONFIG_DIR": str(home / ".config/dvc"),
        "PREFECT_PROFILE": "nobodys", "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:9/prefect",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:9/prefect",
        "PREFECT_SERVER_API_AUTH_STRING": "a:b", "PREFECT_API_AUTH_STRING": "c:d", "PREFECT_HOME": str(home / ".prefect"),
        "MLFLOW_REGISTRY_URI": f"sqlite:///{home}/registry.db", "MLFLOW_EXPERIMENT_NAME": "theirs", "MLFLOW_RUN_ID": "0" * 32,
        "OTMF_ACTOR": "grace",
    }  # fmt: skip
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "GIT_", "OTMF_"))
    }
    return home, {**clean, **process.QUIET, **theirs}


@pytest.fixture(scope="module")
def worked_on(hostile, tmp_path_factory) -> layout.Layout:
    """A light line that a task was onboarded onto, rolled back and verified, all under those settings; made under none."""
    home, environment = hostile
    line = light.line(tmp_path_factory.mktemp("lines") / "small")
    cards = tmp_path_factory.mktemp("cards")
    for seed, name in enumerate(("one", "two"), start=1):
        otmf(home, environment, "onboard", makers.card(cards, name, seed=seed), "--line", line.root)
    otmf(home, environment, "rollback", "--reason", "a look", "--line", line.root)
    return line


def otmf(home: Path, environment: dict[str, str], *arguments: object, code: int = 0) -> str:
    done = subprocess.run([COMMAND, *map(str, arguments)], cwd=home / "standing", env=environment, capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def test_every_row_of_the_table_is_walked() -> None:
    assert set(table()) == set(WALKED)


def test_line_is_worked_on_as_without_them(hostile, worked_on) -> None:
    home, environment = hostile
    said = otmf(home, environment, "verify", "--unsigned", "--line", worked_on.root)
    assert re.search(r"\d+ checks hold, 0 do not", said)
    assert git.run(worked_on.root, "status", "--porcelain") == ""


def _bytes_are_those_on_disk(home: Path, line: layout.Layout) -> None:
    ends = git.run(line.root, "ls-files", "--eol")
    assert "crlf" not in ends.replace("attr/", "")
    for path in ("params.yaml", "data/lineage/000001.json"):
        assert b"\r\n" not in (line.root / path).read_bytes()


def _ignored_by_the_line_alone(home: Path, line: layout.Layout) -> None:
    names = git.run(line.root, "ls-files").split()
    assert {"dvc.lock", "data/raw/one.dvc", "data/cards/one.yaml", "data/lineage/000001.json"} <= set(names)


def _nothing_ran(home: Path, line: layout.Layout) -> None:
    assert list((home / "ran").iterdir()) == []


def _author(home: Path, line: layout.Layout) -> None:
    assert git.run(line.root, "log", "-1", "--format=%an <%ae>").strip() == "Ada Lovelace <ada@example.org>"


def _committer(home: Path, line: layout.Layout) -> None:
    assert git.run(line.root, "log", "-1", "--format=%cn <%ce>").strip() == "Ada Lovelace <ci@example.org>"


def _dvc_is_the_lines(home: Path, line: layout.Layout) -> None:
    assert not (home / "cache").exists()
    assert not (home / "elsewhere").exists()
    assert commands.cache(line.root) == line.root / ".dvc/cache"
    assert any((line.root / ".dvc/cache/files/md5").iterdir())


def _own_server(home: Path, line: layout.Layout) -> None:
    assert (line.private / "prefect/prefect.db").exists()
    assert sorted(path.name for path in (home / ".prefect").iterdir()) == ["profiles.toml"]


def _registry_is_the_lines(home: Path, line: layout.Layout) -> None:
    assert not (home / "registry.db").exists()
    found = tracking.prepare(line, "small").client.get_registered_model("small").aliases
    assert set(found) == {"champion", "previous"}


def _actor(home: Path, line: layout.Layout) -> None:
    from flows.versions import history

    assert history.decisions(line.root)[-1].by == "grace"


def _elsewhere(home: Path, line: layout.Layout) -> None:
    """Shown by tests of their own: tests/flows/programs/test_git.py, tests/pipeline/test_servers.py, test_authentication.py, test_logs.py."""


WALKED = {
    "git: `core.autocrlf`, `core.eol`, `core.safecrlf`": _bytes_are_those_on_disk,
    "git: `core.attributesFile` and attribute files of the machine": _bytes_are_those_on_disk,
    "git: `core.excludesFile`, `~/.config/git/ignore`": _ignored_by_the_line_alone,
    "git: hooks, filters, aliases, `commit.gpgSign`, editors, pagers": _nothing_ran,
    "git: `user.name`, `user.email`": _author,
    "git: `safe.directory`": _elsewhere,
    "git: credential helpers, `core.sshCommand`, `http.*`, `url.*.insteadOf` of yours": _elsewhere,
    "`GIT_DIR`, `GIT_WORK_TREE`, `GIT_INDEX_FILE`, `GIT_QUARANTINE_PATH`, `GIT_TRACE` and all other `GIT_*`": _ignored_by_the_line_alone,
    "`GIT_AUTHOR_NAME`, `GIT_COMMITTER_EMAIL` and the like": _committer,
    "`GIT_SSH_COMMAND`, `GIT_ASKPASS`, `GIT_SSL_*`, `GIT_HTTP_*` and the like": _elsewhere,
    "DVC: `~/.config/dvc`, `/etc/xdg/dvc`, `DVC_*`": _dvc_is_the_lines,
    "Prefect: `~/.prefect`, profiles, `.env` and `prefect.toml` where you stand": _own_server,
    "Prefect: `PREFECT_API_URL`": _elsewhere,
    "Prefect: `PREFECT_LOGGING_*`": _elsewhere,
    "Prefect: other `PREFECT_*`, a server's database among them": _own_server,
    "MLflow: `MLFLOW_TRACKING_URI`": _elsewhere,
    "MLflow: `MLFLOW_REGISTRY_URI`, `MLFLOW_EXPERIMENT_NAME`, `MLFLOW_RUN_ID`": _registry_is_the_lines,
    "`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`": _own_server,
    "`LANG`, `LC_ALL`": _nothing_ran,
    "`OTMF_LINE`, `OTMF_ACTOR`, `OTMF_KEYS`, `OTMF_AGENTS`": _actor,
}


@pytest.mark.parametrize("row", WALKED)
def test_row_holds(hostile, worked_on, row) -> None:
    home, _ = hostile
    WALKED[row](home, worked_on)


def test_line_of_another_owner_is_not_called_damaged(worked_on, hostile, tmp_path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    root = tmp_path / "theirs"
    shutil.copytree(worked_on.root, root, symlinks=True)
    subprocess.run(["chown", "-R", "nobody", str(root)], check=True)
    home, environment = hostile
    said = otmf(home, environment, "rollback", "--reason", "mine", "--line", root, code=1)
    assert f"git config --global --add safe.directory {root}" in said
    assert not re.search("damaged|restore|lost", said)
    assert workspace.open_line(root)
