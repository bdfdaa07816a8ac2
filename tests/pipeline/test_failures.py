"""What goes wrong in production ends in one sentence, an exit code that is not 0, and a line that is as it was."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flows.line import workspace
from flows.programs import process
from otmf import checkpoints
from otmf.runtime import layout
from tests import makers
from tests.flows.changes.test_admission import state

pytestmark = pytest.mark.pipeline
STAGES = ("pretrained", "finetune@third", "extract@third", "merge-step@s03", "head-tune@s03", "evaluate@s03")


@pytest.fixture
def copy(onboarded, tmp_path) -> Path:
    """A copy of the line with two tasks."""
    root, _ = onboarded
    shutil.copytree(root, tmp_path / "small", symlinks=True)
    return tmp_path / "small"


def refused(otmf, root: Path, *arguments: object, message: str, **environment: str) -> None:
    """The command fails with one sentence on standard error, and nothing of the line has changed."""
    before = state(root)
    done = otmf(*arguments, "--line", root, code=None, **environment)
    sentences = [text for text in done.stderr.splitlines() if text.startswith("otmf: ")]
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(sentences) == 1, done.stderr
    assert re.search(message, sentences[0]), sentences[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert state(root) == before


@pytest.fixture(scope="session")
def expert(onboarded) -> dict[str, torch.Tensor]:
    root, _ = onboarded
    return checkpoints.load(layout.Layout(root).finetuned("second") / "model.safetensors")


def broken(expert, kind: str) -> dict[str, torch.Tensor]:
    state, first = dict(expert), next(iter(expert))
    if kind == "missing":
        del state[first]
    elif kind == "extra":
        state["more"] = torch.ones(1)
    elif kind == "reshaped":
        state[first] = torch.ones(7)
    elif kind == "nan":
        state[first] = torch.full_like(state[first], float("nan"))
    elif kind == "other":
        state = {"layer1.weight": torch.ones(2, 2)}
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"expected the \d+ tensors of this line's encoder; received 1 missing"),
        ("extra", "received 0 missing .* and 1 extra .more."),
        ("reshaped", "expected class_embedding of shape .*; received .7,."),
        ("nan", "expected finite values in .*; received NaN or infinity in 1 tensors"),
        ("other", r"received 32 missing .* and 1 extra \(layer1.weight\)"),
        ("identical", "expected .* to differ from the pretrained model; received an identical one"),
        ("truncated", "expected a whole safetensors file; received .*; copy it again or save it anew"),
        ("pickle", "expected a model with parameters in checkpoint.pt; received an object without"),
    ],
)
def test_checkpoint_that_cannot_be_adopted(otmf, copy, expert, tmp_path, kind, message) -> None:
    folder = tmp_path / "cards"
    folder.mkdir()
    path = folder / ("expert.pt" if kind == "pickle" else "expert.safetensors")
    if kind == "pickle":
        torch.save({"a": subprocess.Popen}, path)
    elif kind == "identical":
        shutil.copyfile(layout.Layout(copy).pretrained / "model.safetensors", path)
    else:
        checkpoints.save(broken(expert, kind), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    card = makers.card(folder, "foreign", checkpoint={"path": path.name})
    refused(otmf, copy, "onboard", card, message=message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("line: small", "line: small\ncolour: red", "params.yaml: colour: expected a known key"),
        ("alpha: 0.8", "alpha: 1.8", "steps.s01.merge.alpha: .*expected a number up to 1"),
        ("epsilon: 0.05", "epsilon: 0", "epsilon: .*expected a number above 0"),
        ("previous: s01", "previous: s09", "steps.s02.previous: expected s00 or another step; received 's09'"),
        ("previous: s00", "previous: s02", "received a cycle"),
        ("task: second", "task: first", "expected a task not merged before; received 'first'"),
        ("tasks:", "tasks: [", "expected YAML in params.yaml"),
    ],
)
def test_parameters_that_do_not_hold_up_stop_every_command(otmf, copy, tmp_path, old, new, message) -> None:
    params = copy / "params.yaml"
    params.write_text(params.read_text().replace(old, new, 1))
    card = makers.card(tmp_path / "cards", "third", seed=3)
    refused(otmf, copy, "onboard", card, message=message)
    refused(otmf, copy, "status", message=message)
    stage = subprocess.run(
        [sys.executable, "-m", "stages", "evaluate", "s01"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert stage.returncode == 1
    assert re.search(message, stage.stderr)


def test_duplicate_task_is_refused(otmf, copy, tmp_path) -> None:
    card = makers.card(tmp_path / "cards", "first", seed=9)
    refused(
        otmf, copy, "onboard", card, message="expected a new task; received 'first', which is onboarded already as s01"
    )


def test_tracking_server_that_does_not_answer(otmf, copy, tmp_path) -> None:
    card = makers.card(tmp_path / "cards", "third", seed=3)
    message = r"expected a tracking store at http://127\.0\.0\.1:9; received no answer .*; start it, or unset MLFLOW_TRACKING_URI"
    refused(otmf, copy, "onboard", card, message=message, MLFLOW_TRACKING_URI="http://127.0.0.1:9")


def test_port_taken_by_another_program(otmf, copy, tmp_path) -> None:
    """PREFECT_API_URL leads to a port at which something else listens."""
    card = makers.card(tmp_path / "cards", "third", seed=3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        message = "expected a Prefect server at .*; received no answer from one; start it"
        refused(otmf, copy, "onboard", card, message=message, PREFECT_API_URL=url)


def test_disk_full_during_a_write(otmf, copy, tmp_path) -> None:
    """A file system of three megabytes holds the line's private folder, and so the attempt."""
    private = copy / ".otmf"
    kept = tmp_path / "kept"
    shutil.copytree(private, kept)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(private)], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        shutil.copytree(kept / "mlflow", private / "mlflow")
        card = makers.card(tmp_path / "cards", "third", data=makers.arrays(seed=3, train=3000))
        refused(
            otmf,
            copy,
            "onboard",
            card,
            message="expected to read and write the line's files; received: No space left|No space left",
        )
    finally:
        subprocess.run(["umount", str(private)], check=True)


def test_data_folder_that_is_read_only(otmf, copy, tmp_path) -> None:
    """Without the right of root to write everywhere, which setpriv takes away."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv, of util-linux")
    before = state(copy)
    card = makers.card(tmp_path / "cards", "third", seed=3)
    folders = [copy / ".otmf", *(path for path in (copy / ".otmf").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        drop = (
            []
            if os.geteuid()
            else [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
        )
        done = subprocess.run(
            [*drop, str(Path(sys.executable).parent / "otmf"), "onboard", str(card), "--line", str(copy)],
            env=process.environment(), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 1
    assert re.search("otmf: expected to read and write the line's files; received: Permission denied", done.stderr), (
        done.stderr
    )
    assert state(copy) == before


@pytest.mark.parametrize("stage", STAGES)
def test_interrupt_in_the_middle_of_a_stage(onboarded, prefect_server, warm_interpreter, tmp_path, stage) -> None:
    """As ctrl-C does, the signal reaches the whole foreground group; then the same card is onboarded without trouble."""
    root, _ = onboarded
    copy = tmp_path / "small"
    if stage == "pretrained":
        makers.line(copy)
    else:
        shutil.copytree(root, copy, symlinks=True)
    before = state(copy)
    card = makers.card(tmp_path / "cards", "third", seed=33)
    command = [str(Path(sys.executable).parent / "otmf"), "onboard", str(card), "--line", str(copy)]
    running = subprocess.Popen(
        command, env=process.environment({"PREFECT_API_URL": prefect_server, **warm_interpreter}), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    text = []
    for line in running.stdout:
        text.append(line)
        if f"Running stage '{stage}'" in line:
            time.sleep(0.15)
            os.killpg(running.pid, signal.SIGINT)
            break
    rest, _ = running.communicate(timeout=60)
    output = "".join(text) + rest
    assert running.returncode == 130, output
    assert "otmf: interrupted; the line is as it was" in output
    assert state(copy) == before
    assert not left_over(copy), "no process of the interrupted command is left"


def left_over(root: Path) -> list[str]:
    """Command lines of processes that still work in a line's folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if Path(os.readlink(folder / "cwd")).is_relative_to(root):
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_killed_command_leaves_no_stage_running_and_can_be_run_again(onboarded, otmf, prefect_server, tmp_path) -> None:
    root, _ = onboarded
    copy = tmp_path / "small"
    shutil.copytree(root, copy, symlinks=True)
    before = state(copy)
    card = makers.card(tmp_path / "cards", "third", seed=34, finetune={"epochs": 200})
    command = [str(Path(sys.executable).parent / "otmf"), "onboard", str(card), "--line", str(copy)]
    running = subprocess.Popen(
        command,
        env=process.environment({"PREFECT_API_URL": prefect_server}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in running.stdout:
        if "finetune third: epoch 2/" in line:
            running.kill()
            break
    running.communicate(timeout=60)
    for _ in range(100):
        if not left_over(copy):
            break
        time.sleep(0.1)
    assert not left_over(copy)
    assert state(copy) == before
    quick = makers.card(tmp_path / "cards", "third", seed=34)
    otmf("onboard", quick, "--line", copy)
    assert "third" in workspace.params(workspace.open_line(copy)).tasks
