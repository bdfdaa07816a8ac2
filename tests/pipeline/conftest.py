"""One real Prefect server for all pipeline tests, and lines that real onboardings have run on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.programs import process, warm
from flows.services import prefect_server as server
from tests import commands, makers


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory) -> Iterator[str]:
    """The API address of a Prefect server on sqlite."""
    with server.own(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="session")
def warm_interpreter() -> Iterator[dict[str, str]]:
    """The environment of one warm interpreter for all commands of the session."""
    with warm.interpreter() as environment:
        yield environment


@pytest.fixture(scope="session")
def otmf(prefect_server, warm_interpreter, tmp_path_factory):
    """Runs the command with the servers of these tests (in a process of its own with `apart`); returns how it ended."""

    common = {"PREFECT_API_URL": prefect_server, "HOME": str(tmp_path_factory.getbasetemp()), **warm_interpreter}

    def run(
        *arguments: object, code: int | None = 0, apart: bool = False, **environment: str
    ) -> subprocess.CompletedProcess:
        words = [str(one) for one in arguments]
        given = {**process.environment(), **common, **environment}
        call = commands.run if words[0] in commands.IN_PROCESS and not apart else commands.run_apart
        done = call(words, {key: value for key, value in given.items() if value != ""})
        if code is not None:
            assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    run.environment = common
    return run


@pytest.fixture(scope="session")
def onboarded(otmf, tmp_path_factory) -> tuple[Path, list[subprocess.CompletedProcess]]:
    """A line with two tasks, and the output of their onboardings."""
    folder = tmp_path_factory.mktemp("lines")
    root = makers.line(folder / "small", head_tune={"heads": "previous"})
    cards = [makers.card(folder / "cards", name, seed=seed) for name, seed in (("first", 1), ("second", 2))]
    return root, [otmf("onboard", card, "--line", root) for card in cards]


@pytest.fixture(scope="session")
def served_line(otmf, tmp_path_factory) -> Path:
    """A line with two tasks for servers to serve; whoever changes it brings it back."""
    folder = tmp_path_factory.mktemp("served")
    root = makers.line(folder / "small")
    for number, name in enumerate(("first", "second"), start=1):
        otmf("onboard", makers.card(folder / "cards", name, seed=number), "--line", root)
    return root


os.environ.setdefault("GIT_CONFIG_NOSYSTEM", "1")
