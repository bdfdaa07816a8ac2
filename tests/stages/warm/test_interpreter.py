"""The warm interpreter: same results and exit codes as a cold start, and nothing outlives the one who asked."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time

import pytest

from flows.programs import process, warm
from otmf.runtime import errors
from otmf.runtime.environment import WARM
from tests import makers


@pytest.fixture(scope="module")
def environment():
    with warm.interpreter() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return makers.line(tmp_path_factory.mktemp("lines") / "line")


def stage(root, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "stages", *arguments], cwd=root, env=process.environment(extra),
                          capture_output=True, text=True, check=False, timeout=300)  # fmt: skip


def test_stage_runs_in_its_own_folder_with_its_own_environment(root, environment, tmp_path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = stage(root, "pretrained", **environment, MLFLOW_TRACKING_URI=store)
    assert done.returncode == 0, done.stderr
    assert "pretrained: epoch 1/1" in done.stdout
    assert (root / "data/models/pretrained/model.safetensors").exists()
    assert (tmp_path / "mlflow.db").exists()


def test_failure_keeps_its_exit_code_and_its_sentence(root, environment) -> None:
    done = stage(root, "evaluate", "s07", **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("otmf: ")


def test_stage_that_does_not_exist_is_refused(root, environment) -> None:
    done = stage(root, "merge", **environment)
    assert done.returncode == 2
    assert "expected a stage (pretrained, finetune, extract," in done.stderr


def test_without_an_interpreter_at_the_socket_the_stage_starts_cold(root, tmp_path) -> None:
    done = stage(root, "evaluate", "s07", OTMF_WARM=str(tmp_path / "nobody"))
    assert done.returncode == 1
    assert done.stderr.startswith("otmf: ")


def test_dvc_runs_in_it_as_it_does_on_its_own(root, environment) -> None:
    def dvc(module: str, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=root, env=process.environment(environment),
                              capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    for arguments in (("status", "pretrained"), ("repro", "--single-item", "evaluate@s07"), ("nonsense",)):
        assert dvc("stages.warm.dvc", *arguments) == dvc("dvc", *arguments)


@pytest.mark.parametrize(
    "shell", ["/bin/sh", "/bin/bash"]
)  # DVC starts a stage by the user's; only one of them goes on as it
@pytest.mark.parametrize(
    "arguments", [("stages", "pretrained"), ("stages.warm.dvc", "repro", "--single-item", "pretrained")], ids=" ".join
)
def test_what_was_asked_for_dies_with_the_process_that_asked(root, environment, tmp_path, arguments, shell) -> None:
    params = root / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("epochs: 1", "epochs: 5000"))
    told = {**environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "SHELL": shell}
    try:
        client = subprocess.Popen([sys.executable, "-m", *arguments], cwd=root, env=process.environment(told), stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert any("epoch 1/5000" in line for line in client.stdout)
        assert len(working(root)) in ((2,) if arguments[0] == "stages" else (4, 5)), (
            "who asked, and what each was forked for"
        )
        client.kill()
        client.wait()
        for _ in range(100):
            if not working(root):
                break
            time.sleep(0.05)
        assert working(root) == []
    finally:
        client.stdout.close()
        params.write_text(before)


def test_what_is_asked_to_end_ends_after_what_it_had_asked_for(root, environment, tmp_path) -> None:
    params = root / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("epochs: 1", "epochs: 5000"))
    told = {**environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    command = [sys.executable, "-m", "stages.warm.dvc", "repro", "--single-item", "pretrained"]
    try:
        client = subprocess.Popen(command, cwd=root, env=process.environment(told), stdout=subprocess.PIPE, text=True)
        assert any("epoch 1/5000" in line for line in client.stdout)
        dvc = min(found for found in working(root) if found != client.pid)
        client.terminate()
        assert client.wait(10) == 143
        assert dvc not in working(root)
    finally:
        client.stdout.close()
        params.write_text(before)


def test_request_that_an_ending_interpreter_did_not_read_is_run_cold(root, tmp_path) -> None:
    path = str(tmp_path / "ending")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        command = [sys.executable, "-m", "stages", "evaluate", "s07"]
        asked = subprocess.Popen(
            command, cwd=root, env=process.environment({WARM: path}), stderr=subprocess.PIPE, text=True
        )
        select.select([listener], [], [], 60)
        time.sleep(0.5)
    said = asked.communicate(timeout=120)[1]
    assert asked.returncode == 1
    assert said.startswith("otmf: ")
    assert "Traceback" not in said


def working(root) -> list[int]:
    """Processes whose current folder is the line's."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.path.samefile(os.readlink(f"/proc/{name}/cwd"), root):
                found.append(int(name))
        except OSError:
            continue
    return found


def test_sockets_are_open_to_their_owner_alone(environment) -> None:
    for door in (environment[WARM], f"{environment[WARM]}.dvc"):
        assert os.stat(door).st_mode & 0o077 == 0


def test_stage_that_starts_after_its_owner_ended_does_not_begin(root) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    alive_but_no_ancestor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for owner in (ended.pid, alive_but_no_ancestor.pid):
            done = stage(root, "evaluate", "s07", OTMF_STARTED_BY=str(owner))
            assert done.returncode == errors.TEMPORARY
            assert "it has ended" in done.stderr
    finally:
        alive_but_no_ancestor.communicate(b"\n")
    done = stage(root, "evaluate", "s07", OTMF_STARTED_BY=str(os.getpid()))
    assert done.returncode == 1
    assert "it has ended" not in done.stderr


def test_libraries_of_encoders_are_there_before_a_stage_asks() -> None:
    """They take seconds, and each stage is a fork of its own."""
    code = (
        "import sys; from stages.warm import interpreter; interpreter._preload_stages(); before = set(sys.modules)\n"
        "from otmf import backbones; from tests import makers; backbones.build(makers.BACKBONE)\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    read, write = os.pipe()
    try:
        said = subprocess.run(
            [sys.executable, "-c", code], stdin=read, capture_output=True, text=True, check=True, timeout=120
        ).stdout
    finally:
        os.close(read)
        os.close(write)
    assert not {"open_clip", "torchvision", "transformers", "mlflow", "pandas"} & set(said.split())


def test_nothing_more_is_imported_for_an_owner_that_has_ended() -> None:
    code = (
        "import sys; from stages.warm import interpreter; print(interpreter._preload_stages(), 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120
    )
    assert said.stdout.split() == ["False", "False"]


def test_what_is_no_request_does_not_end_the_interpreter(root) -> None:
    with warm.interpreter() as own:
        for door, name in ((own[WARM], "evaluate"), (f"{own[WARM]}.dvc", "dvc")):
            while not os.path.exists(door):
                time.sleep(0.05)
            for content in (b"[]", b'{"arguments": []}', b"7", b"no JSON"):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.connect(door)
                    socket.send_fds(connection, [len(content).to_bytes(8, "big")], [1, 2])
                    connection.sendall(content)
                    connection.settimeout(60)
                    assert connection.recv(16) == b"", name
        assert stage(root, "evaluate", "s07", **own).stderr.startswith("otmf: ")
        assert os.path.exists(own[WARM])
