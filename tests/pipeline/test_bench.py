"""`otmf bench` as a user has it: a plan, runs on Dask's processes, a kill and a second go, tables; what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from flows.programs import process
from tests import makers
from tests.benchmarks import bench_peer, peer
from tests.pipeline import production

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def config(onboarded, tmp_path_factory) -> Path:
    """Three methods over two orders of two tasks; and the folder `study` of its results, once the command has run."""
    path = tmp_path_factory.mktemp("bench") / "study.yaml"
    content = {
        "line": os.path.relpath(onboarded[0], path.parent),
        "orders": [42, ["first", "second"]],
        "data": {"new": 8, "old": 6, "labels": True},
        "methods": {
            "wudi": None,
            "masks": {"preset": "default", "granularity": "element", "steps": 3, "batch_size": 4},
            "tuned": {"method": "running_average", "heads": ["frozen", "previous"]},
            "upper": {"method": "ties", "joint": True},
        },
    }
    makers.write_yaml(path, content)
    return path


@pytest.fixture(scope="module")
def done(otmf, config) -> subprocess.CompletedProcess:
    return otmf("bench", config)


def test_plan_runs_nothing(otmf, config, tmp_path) -> None:
    said = otmf("bench", config, "--plan", "--results", tmp_path / "none").stdout
    assert "7 of 7 runs left; on" in said
    assert "min. Nothing was run." in said
    assert not (tmp_path / "none").exists()


def test_rows_hold_every_step_and_what_it_saw_and_cost(done, config) -> None:
    rows = pd.read_parquet(config.with_suffix("") / "rows.parquet")
    chains = rows[~rows["joint"]]
    assert chains.groupby(["method", "heads", "order", "seed"]).size().unique().tolist() == [3]  # one task, then two
    assert set(rows[rows["joint"]]["step"]) == {2}
    masks = rows[(rows["method"] == "masks") & (rows["step"] == 2)]
    assert set(zip(masks["new_inputs"], masks["old_inputs"], strict=True)) == {(8, 6)}
    blind = rows[rows["method"].isin(["wudi", "tuned", "upper"])]
    assert not blind[["new_inputs", "old_inputs"]].to_numpy().any()
    assert blind["mask_share"].isna().all()
    assert masks["mask_share"].tolist() == pytest.approx([2.0] * len(masks))  # one number per element of each vector
    for column in ("seconds", "peak_mib", "added_mib", "state_mib"):
        assert (rows[column] >= 0).all(), column
    assert rows["accuracy"].between(0, 1).all()
    assert set(rows["device"]) == {"cpu"}
    assert set(rows["dtype"]) == {"float32"}
    assert (rows["commit"].str.len() == 12).all()


def test_rows_are_those_of_the_chain(done, config, onboarded) -> None:
    """The same tasks in the order in which the line merged them, by the method it was merged by."""
    merged = json.loads((onboarded[0] / "data/results/steps/s02.json").read_text())
    path = config.with_name("same.yaml")
    makers.write_yaml(path, {"line": os.path.relpath(onboarded[0], path.parent), "orders": [["first", "second"]],
                             "data": {"new": 300, "old": 300}, "methods": {"same": {"preset": "default", "steps": 6, "batch_size": 4}}})  # fmt: skip
    from flows.bench import one_run, plan, run

    planned = plan.plan(path, None)
    asked = run._asked(planned, planned.runs[0])
    rows = one_run.rows(planned.line.root, asked)
    found = {row["task"]: row["accuracy"] for row in rows if row["step"] == 2}
    frozen = {row["task"]: row["accuracy_frozen"] for row in merged["rows"] if row["step"] == "s02"}
    assert found == frozen


def test_tables_are_printed_and_written(done, config) -> None:
    folder = config.with_suffix("")
    text = (folder / "tables.md").read_text()
    assert text.strip() in done.stdout.replace("\r", "")
    for name in ("wudi", "masks", "tuned", "tuned, previous head tuned", "upper (all at once)"):
        assert f"| {name} |" in text
    assert "<svg" in (folder / "tables.html").read_text()
    record = json.loads((folder / "bench.json").read_text())
    assert [split["disjoint"] for split in record["splits"]] == [True, True]


def test_second_run_has_nothing_to_do(otmf, done, config) -> None:
    rows = config.with_suffix("") / "rows"
    before = {path.name: path.stat().st_mtime_ns for path in rows.iterdir()}
    assert "0 of 7 runs left" in otmf("bench", config, "--plan").stdout
    otmf("bench", config)
    assert {path.name: path.stat().st_mtime_ns for path in rows.iterdir()} == before


def test_peer_is_compared_on_the_same_experts(done, config, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_peer", str(config), "--repeat", "1"])
    bench_peer.main()
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in table] == list(peer.pairs())
    assert all(float(row[1]) < 1e-5 and min(float(row[2]), float(row[3])) > 0 for row in table)


def test_line_of_the_option_goes_before_that_of_the_file(otmf, done, config, onboarded, tmp_path) -> None:
    content = config.read_text(encoding="utf-8").splitlines()
    other = tmp_path / "other.yaml"
    other.write_text("\n".join(row for row in content if not row.startswith("line:")), encoding="utf-8")
    results = ("--results", config.with_suffix(""), "--plan")
    assert "0 of 7 runs left" in otmf("bench", other, *results, "--line", onboarded[0]).stdout
    other.write_text("line: nowhere\n" + other.read_text(encoding="utf-8"), encoding="utf-8")
    assert "0 of 7 runs left" in otmf("bench", other, *results, "--line", onboarded[0]).stdout
    assert "nowhere" in otmf("bench", other, *results, code=1).stderr


def test_rows_of_another_configuration_are_not_mixed_in(otmf, done, config) -> None:
    other = config.with_name("other.yaml")
    other.write_text(config.read_text().replace("steps: 3", "steps: 4"), encoding="utf-8")
    said = otmf("bench", other, "--results", config.with_suffix(""), code=1).stderr
    assert "only rows of this configuration; received masks." in said
    assert said.count("\n") == 1


def test_killed_comparison_goes_on_where_it_was(otmf, prefect_server, warm_interpreter, config, tmp_path) -> None:
    results = tmp_path / "killed"
    running = _begun({"PREFECT_API_URL": prefect_server, **warm_interpreter}, config, results, tmp_path / "log")
    production.until(lambda: len(_rows(results)) >= 2, 300)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in _rows(results)}
    production.until(lambda: not _children(str(results)), 60)
    otmf("bench", config, "--results", results)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(pd.read_parquet(results / "rows.parquet").groupby(["method", "order"])) == 7


def test_interrupted_comparison_says_so_in_one_line(prefect_server, warm_interpreter, config, tmp_path) -> None:
    results, log = tmp_path / "interrupted", tmp_path / "log"
    running = _begun({"PREFECT_API_URL": prefect_server, **warm_interpreter}, config, results, log)
    production.until(lambda: len(_rows(results)) >= 1, 300)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the command and its workers at once
    assert running.wait(60) == 130
    said = log.read_text(encoding="utf-8")
    assert said.splitlines()[-1].startswith("otmf: interrupted; ")
    assert "Traceback" not in said
    assert "Error" not in said
    production.until(lambda: not _group(running.pid), 60)


def test_runs_go_to_a_dask_cluster_by_its_address(otmf, config, tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    base = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny",
              "--name", "elsewhere", "--local-directory", str(tmp_path)]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        started = [
            subprocess.Popen(command, env=process.environment(), stdout=log, stderr=log, start_new_session=True)
            for command in (base, worker)
        ]
    try:
        few = tmp_path / "few.yaml"
        makers.write_yaml(
            few, {"line": str((config.parent / _line(config)).resolve()), "orders": [42], "methods": {"wudi": None}}
        )
        otmf("bench", few, "--cluster", address)
        assert "elsewhere" in (tmp_path / "log").read_text()
        assert len(pd.read_parquet(tmp_path / "few/rows.parquet")) == 3
    finally:
        for one in started:
            process.end(one)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("methods: {wodi: {}}", "methods.wodi: method: expected one of otmf"),
        ("methods: {paper: {preset: paper}}", "remembered inputs of old tasks, as data.old says"),
        (
            "orders: [[first]]\nmethods: {wudi: {}}",
            "orders: expected seeds or orders of the 2 tasks; received in place 1 one of 1 without",
        ),
        ("tasks: []\nmethods: {wudi: {}}", "tasks: expected at least one"),
        ("tasks: [third]\nmethods: {wudi: {}}", "received 'third'"),
        ("methods: {wudi: {}", "expected YAML in wrong.yaml"),
        (f"tasks: {'[' * 600}{']' * 600}", "expected YAML in wrong.yaml"),
        ("", "expected a known key|methods"),
        (
            "seeds: [0]\nseeds: [1]\nmethods: {wudi: {}}",
            'found duplicate key "seeds"',
        ),
        ("pairs: !!bool abc\nmethods: {wudi: {}}", "expected YAML in wrong.yaml"),
    ],
)
def test_wrong_configuration_is_one_sentence_and_nothing_runs(otmf, config, tmp_path, content, said) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"line: {(config.parent / _line(config)).resolve()}\n{content}\n", encoding="utf-8")
    done = otmf("bench", wrong, "--plan", code=1)
    assert any(part in done.stderr for part in said.split("|"))
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "wrong").exists()


def test_configuration_that_is_no_file_and_results_that_are_no_folder_are_refused(otmf, config, tmp_path) -> None:
    for wrong, said in ((tmp_path / "none.yaml", "which is not there"), (tmp_path, "a folder")):
        assert said in otmf("bench", wrong, "--plan", code=1).stderr
    (tmp_path / "study").write_bytes(
        config.read_bytes().replace(_line(config).encode(), str((config.parent / _line(config)).resolve()).encode())
    )
    assert (
        "expected a folder for the results; received the file"
        in otmf("bench", tmp_path / "study", "--plan", code=1).stderr
    )


def test_results_among_the_files_of_the_line_are_refused(otmf, config) -> None:
    line = (config.parent / _line(config)).resolve()
    for folder in (line, line / "data" / "results" / "study", line / ".git"):
        assert (
            "expected a folder of their own for the results"
            in otmf("bench", config, "--plan", "--results", folder, code=1).stderr
        )


def test_line_whose_files_do_not_read_is_told_in_one_sentence(otmf, config, tmp_path) -> None:
    line = tmp_path / "line"
    shutil.copytree((config.parent / _line(config)).resolve(), line, symlinks=True)
    pointer, lock = line / "data/raw/first.dvc", line / "dvc.lock"
    for path, content in ((pointer, ""), (pointer, "outs: []"), (pointer, "{"), (lock, "{"), (lock, "stages: 3")):
        before = path.read_bytes()
        path.write_text(content)
        said = otmf("bench", config, "--plan", "--line", line, code=1).stderr
        assert f"expected {path} as otmf and DVC write it; received another text" in said
        assert said.count("\n") == 1
        path.write_bytes(before)


def test_estimate_needs_no_tracking_store(otmf, config, tmp_path) -> None:
    line = tmp_path / "line"
    shutil.copytree((config.parent / _line(config)).resolve(), line, symlinks=True)
    for path in (line / ".otmf/mlflow").glob("*.db"):
        path.write_bytes(b"no database")
    assert (
        "so the time is unknown"
        in otmf("bench", config, "--plan", "--line", line, "--results", tmp_path / "new").stdout
    )


def test_vector_that_is_not_the_one_of_the_lock_is_not_run_over(otmf, config, tmp_path) -> None:
    line = tmp_path / "line"
    shutil.copytree((config.parent / _line(config)).resolve(), line, symlinks=True)
    path = line / "data/models/task_vectors/first/vector.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    said = otmf("bench", config, "--line", line, "--results", tmp_path / "new", code=1).stderr
    assert "expected data/models/task_vectors/first of line as dvc.lock has it; received it modified" in said


def _line(config: Path) -> str:
    return next(line for line in config.read_text().splitlines() if line.startswith("line:")).partition(": ")[2]


def _begun(extra: dict[str, str], config: Path, results: Path, log: Path) -> subprocess.Popen:
    """The command with one worker, in a process group of its own; it hears an interrupt even if these tests, begun in the background, do not."""
    command = [str(Path(sys.executable).parent / "otmf"), "bench", str(config), "--results", str(results), "--workers", "1"]  # fmt: skip
    with log.open("wb") as written:
        return subprocess.Popen(
            command, env=process.environment(extra), stdout=written, stderr=written, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def _rows(results: Path) -> list[Path]:
    return list((results / "rows").glob("*.parquet"))


def _group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def _children(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [mark] if mark.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found
