"""The direction of dependency, and the one door of each third-party package, held by the syntax trees."""

from __future__ import annotations

import ast
import graphlib
import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each package imports of its own tree; whatever stands further down may not be imported from further up.
OTMF = {
    "runtime": "",
    "settings": "",
    "task_vectors": "",
    "checkpoints": "runtime task_vectors",
    "data": "runtime settings",
    "evaluation": "settings",
    "finetuning": "settings task_vectors",
    "heads": "settings",
    "provenance": "runtime",
    "formats": "runtime checkpoints",
    "objectives": "heads",
    "backbones": "runtime settings task_vectors data formats",
    "merging": "settings task_vectors objectives",
    "methods": "settings task_vectors heads objectives merging",
    "continual": "settings task_vectors heads objectives backbones merging methods",
}
FLOWS = {
    "programs": "",
    "dvc": "programs",
    "rendering": "programs",
    "line": "programs dvc",
    "services": "programs dvc line",
    "bench": "programs dvc rendering line services",
    "versions": "programs dvc line services",
    "changes": "programs dvc line services versions",
    "verify": "programs dvc rendering line services versions",
    "audit": "programs rendering line versions verify",
    "unattended": "programs line services versions changes",
    "serving": "programs rendering line versions audit",
    "studies": "programs dvc rendering line services versions changes unattended",
    "cli": "programs dvc line services bench versions changes verify audit unattended serving studies",
}
STAGES = {
    "context": "",
    "bench": "context",
    "evaluate": "context",
    "extract": "context",
    "finetune": "context",
    "head_tune": "context",
    "jobs": "context",
    "merge_step": "context",
    "pretrained": "context",
    "serving": "context",
    "warm": "context",
    "__main__": "context warm",
    "registered": "serving",
}
TORCH_FREE = ("settings", "data", "evaluation", "provenance", "runtime")  # of otmf: what flows may import
FILES = 10  # in a package; the baselines are one file a paper
DOORS = {
    "open_clip": {"otmf/backbones/vision.py"},
    "transformers": {"otmf/backbones/text.py"},
    "tokenizers": {"otmf/backbones/tokenisers.py"},
    "ot": {"otmf/objectives/couplings.py"},
    "cyclonedx": {"flows/audit/bill_of_materials.py"},
    "openlineage": {"flows/audit/openlineage.py"},
    "securesystemslib": {"otmf/provenance/keys.py", "otmf/provenance/ledger.py"},
    "safetensors": {"otmf/checkpoints/files.py", "otmf/provenance/differences.py"},
    "mlflow": {
        "stages/context/tracking.py",
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
    "uvicorn": {"stages/serving/connections.py", "stages/serving/drain.py", "stages/serving/serve.py"},
    "h11": {"stages/serving/connections.py"},
    "fastapi": {"stages/serving/answers.py", "stages/serving/http.py"},
    "starlette": {"stages/serving/guard.py", "stages/serving/http.py"},
    "dvc": {"stages/warm/params_cache.py", "stages/warm/interpreter.py"},
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
    return any({("-m", "dvc"), ("-m", "stages.warm.dvc")} & set(itertools.pairwise(line)) for line in words)


def calls(path: Path) -> set[str]:
    """Names called as plain functions in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows(folder: str) -> dict[str, set[str]]:
    """Package (or file) directly in a folder -> those beside it that it imports."""
    found: dict[str, set[str]] = {}
    for path in files(folder):
        name = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        if name != "__init__":
            others = {other.split(".")[1] for other in imports(path) if other.startswith(f"{folder}.")}
            found.setdefault(name, set()).update(others - {name})
    return found


@pytest.mark.parametrize(("folder", "table"), [("otmf", OTMF), ("flows", FLOWS), ("stages", STAGES)])
def test_imports_run_one_way(folder, table) -> None:
    assert arrows(folder) == {name: set(others.split()) for name, others in table.items()}
    above: set[str] = set()
    for name, others in table.items():
        assert set(others.split()) <= above, f"{name} imports what stands further down"
        above.add(name)


def test_modules_import_in_no_circle() -> None:
    """Files of one package included; what a package hands on counts as that package's."""
    paths = {module_of(path): path for path in files("otmf", "stages", "flows")}
    graph = {name: {_nearest(other, paths) for other in imports(path)} - {None, name} for name, path in paths.items()}
    graph = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in graph.items()}
    graphlib.TopologicalSorter(graph).prepare()


def _nearest(name: str, known: Mapping[str, Path]) -> str | None:
    """The module that an imported name is of."""
    return name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None


def test_packages_have_few_files() -> None:
    for folder in sorted({path.parent for path in files("otmf", "stages", "flows")}):
        names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= FILES or folder.name == "baselines", (folder, len(names))


def test_tests_mirror_the_tree() -> None:
    """A folder of tests has the name of a package."""
    for folder in ("otmf", "stages", "flows"):
        for path in (ROOT / "tests" / folder).rglob("test_*.py"):
            assert (ROOT / path.parent.relative_to(ROOT / "tests")).is_dir(), path


@pytest.mark.parametrize("path", files("otmf"), ids=lambda path: str(path.relative_to(ROOT)))
def test_library_knows_neither_stages_nor_flows_nor_their_tools(path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"stages", "flows", "dvc", "prefect", "mlflow", "typer", "rich"}
    assert "print" not in calls(path)


@pytest.mark.parametrize("path", files("flows"), ids=lambda path: str(path.relative_to(ROOT)))
def test_flows_import_only_modules_without_torch_and_no_stage(path) -> None:
    found = imports(path)
    assert not {name.split(".")[0] for name in found} & {"stages", "torch", "open_clip", "ot"}
    assert {name.split(".")[1] for name in found if name.startswith("otmf.")} <= {*TORCH_FREE, "__version__"}


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
    assert users == DOORS[package]


def test_torch_free_packages_import_without_torch() -> None:
    names = [module_of(path) for path in files("otmf") if path.relative_to(ROOT).parts[1] in TORCH_FREE]
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {names}]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_dvc_is_started_by_one_file_in_lines_and_by_one_that_has_no_line_and_no_command_goes_through_a_shell() -> None:
    starting = set()
    for path in files("otmf", "stages", "flows"):
        text = path.read_text(encoding="utf-8")
        assert "shell=True" not in text
        assert "os.system" not in text
        if starts_dvc(text):
            starting.add(path.relative_to(ROOT).as_posix())
    assert starting == {"flows/dvc/commands.py", "stages/warm/dvc.py", "stages/registered.py"}


def test_every_document_a_stage_script_stays_small() -> None:
    for path in files("stages"):
        if path.parent.name == "stages":
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
        "otmf/backbones/opening.py",
        "otmf/backbones/text.py",
        "otmf/backbones/vision.py",
        "otmf/data/datasets.py",
        "otmf/data/gathering.py",
        "otmf/data/image_sizes.py",
        "stages/jobs/fetch_torchvision.py",
    }


def test_one_module_prints_and_takes_no_text_for_markup() -> None:
    """Names, reasons and file names of other people pass through `flows.cli.console`, which shows them as they are."""
    for path in files("flows"):
        found = imports(path)
        text = path.read_text(encoding="utf-8")
        if path.relative_to(ROOT).as_posix() not in ("flows/cli/console.py", "flows/audit/document.py"):
            assert "print" not in calls(path), path
            assert "markup" not in text.replace("rich_markup_mode", ""), path
        if path.relative_to(ROOT).as_posix() != "flows/cli/console.py":
            assert not {"rich.print", "rich.markup", "rich.markup.escape"} & found, path
            assert "Console(" not in text, path
        assert "from_markup" not in text, path
        assert "typer.echo(" not in text.replace("typer.echo(plain_lines(", ""), path
