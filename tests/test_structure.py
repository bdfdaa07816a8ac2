"""The direction of dependency, and the one door of each third-party package, held by the syntax trees."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = {
    "__version__",
    "names",
    "bench_rows",
    "cards",
    "embedded",
    "errors",
    "gate",
    "datasets",
    "descent",
    "differences",
    "environment",
    "experiments",
    "foreign",
    "gathering",
    "host",
    "images",
    "keys",
    "layout",
    "ledger",
    "limits",
    "lineage",
    "merging",
    "metrics",
    "packaged",
    "plain_json",
    "presets",
    "protocol",
    "validation",
    "reference",
    "sequence",
    "settings",
    "splits",
    "statements",
    "strict_yaml",
    "task_orders",
    "texts",
}
DOORS = {
    "open_clip": {"otmf/backbones/vision.py"},
    "transformers": {"otmf/backbones/text.py"},
    "tokenizers": {"otmf/backbones/tokenisers.py"},
    "ot": {"otmf/objectives/couplings.py"},
    "cyclonedx": {"flows/audit/bill_of_materials.py"},
    "openlineage": {"flows/audit/openlineage.py"},
    "securesystemslib": {"otmf/provenance/keys.py", "otmf/provenance/ledger.py"},
    "safetensors": {"otmf/checkpoints.py", "otmf/provenance/differences.py"},
    "mlflow": {
        "stages/_tracking.py",
        "stages/_warm.py",
        "flows/versions/registered_model.py",
        "flows/services/tracking.py",
    },
    "prefect": {
        "flows/services/agents.py",
        "flows/unattended/arrival.py",
        "flows/changes/attempt.py",
        "flows/bench/flow.py",
        "flows/unattended/deploy.py",
        "flows/services/run_logs.py",
        "flows/changes/onboard.py",
        "flows/services/recovery.py",
        "flows/changes/retrain.py",
        "flows/services/prefect_server.py",
    },
    "prefect_dask": {"flows/bench/flow.py"},
    "pyarrow": {"flows/bench/rows.py", "otmf/data/tables.py"},
    "uvicorn": {"stages/_connections.py", "stages/_drain.py", "stages/serve.py"},
    "h11": {"stages/_connections.py"},
    "fastapi": {"stages/_answers.py", "stages/_http.py"},
    "starlette": {"stages/_guard.py", "stages/_http.py"},
    "dvc": {"stages/_parsed.py", "stages/_warm.py"},
}


def files(*folders: str) -> list[Path]:
    """The Python files of some folders, less those that are handed out with a version and run without otmf."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if path.parent.name != "pages")


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def starts_dvc(text: str) -> bool:
    """Whether a file has a command of `-m dvc` in it, of ours or of its own."""
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List | ast.Tuple))
    words = ([getattr(part, "value", None) for part in node.elts] for node in found)
    return any({("-m", "dvc"), ("-m", "stages._dvc")} & set(itertools.pairwise(line)) for line in words)


def calls(path: Path) -> set[str]:
    """Names called as plain functions in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


@pytest.mark.parametrize("path", files("otmf"), ids=lambda path: str(path.relative_to(ROOT)))
def test_library_knows_neither_stages_nor_flows_nor_their_tools(path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"stages", "flows", "dvc", "prefect", "mlflow", "typer", "rich"}
    assert "print" not in calls(path)


@pytest.mark.parametrize("path", files("flows"), ids=lambda path: str(path.relative_to(ROOT)))
def test_flows_import_only_modules_without_torch_and_no_stage(path) -> None:
    found = imports(path)
    assert not {name.split(".")[0] for name in found} & {"stages", "torch", "open_clip", "ot"}
    assert {name.split(".")[1] for name in found if name.startswith("otmf.")} <= TORCH_FREE


@pytest.mark.parametrize("path", files("stages"), ids=lambda path: str(path.relative_to(ROOT)))
def test_stages_do_not_import_flows(path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"flows", "prefect"}


@pytest.mark.parametrize("package", DOORS)
def test_package_enters_by_its_door_alone(package) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in files("otmf", "stages", "flows")
        if package in {name.split(".")[0] for name in imports(path)}
    }
    assert users <= DOORS[package]


def test_torch_free_modules_import_without_torch() -> None:
    names = ", ".join(sorted(TORCH_FREE - {"__version__"}))
    code = f"import sys; from otmf import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_dvc_is_started_by_one_file_in_lines_and_by_one_that_has_no_line_and_no_command_goes_through_a_shell() -> None:
    for path in files("otmf", "stages", "flows"):
        text = path.read_text(encoding="utf-8")
        assert "shell=True" not in text
        assert "os.system" not in text
        assert not starts_dvc(text) or path.name in ("repro.py", "_dvc.py", "registered.py"), path


def test_every_document_a_stage_script_stays_small() -> None:
    for path in files("stages"):
        if not path.name.startswith("_"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < 150, path


def test_no_package_slows_every_start_of_prefect() -> None:
    """jsonschema imports what it finds for its formats; one of them builds a grammar when it is imported."""
    code = "import sys, prefect; sys.exit('rfc3987_syntax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_what_an_input_is_is_known_to_backbones_and_data_alone() -> None:
    """Merging, heads, metrics and stages are the same for images and texts."""
    knowing = {
        str(path.relative_to(ROOT))
        for path in files("otmf", "stages")
        if imports(path)
        & {
            "otmf.data.images",
            "otmf.data.texts",
            "otmf.backbones.vision",
            "otmf.backbones.text",
            "otmf.backbones.augmentation",
        }
    }
    assert knowing == {
        "otmf/backbones/__init__.py",
        "otmf/backbones/text.py",
        "otmf/backbones/vision.py",
        "otmf/data/datasets.py",
        "otmf/data/gathering.py",
        "otmf/data/image_sizes.py",
        "stages/packaged.py",
    }


def test_one_module_prints_and_takes_no_text_for_markup() -> None:
    """Names, reasons and file names of other people pass through `flows.cli.console`, which shows them as they are."""
    for path in files("flows"):
        found = imports(path)
        text = path.read_text(encoding="utf-8")
        if path.name not in ("console.py", "audit_document.py"):
            assert "print" not in calls(path), path
            assert "markup" not in text.replace("rich_markup_mode", ""), path
        if path.name != "console.py":
            assert not {"rich.print", "rich.markup", "rich.markup.escape"} & found, path
            assert "Console(" not in text, path
        assert "from_markup" not in text, path
        assert "typer.echo(" not in text.replace("typer.echo(plain_lines(", ""), path
