"""A version as MLflow's registry keeps it: a pyfunc whose weights are named, not copied; they stay with DVC."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map
from PIL import Image
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.dvc import commands
from flows.line import remotes
from flows.programs import git
from flows.versions import history, recorded_files
from otmf.data import datasets
from otmf.provenance import ledger
from otmf.provenance.model_reference import Reference, address, is_repository
from otmf.runtime import layout

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # about types of MLflow's own, of no use to anybody here
    import mlflow.pyfunc

LOADER = "stages.registered"
FILE = "reference.json"
FILES = {"MLmodel", f"data/{FILE}", "input_example.json", "serving_input_example.json", "registered_model_meta"}
RUN = {"loader_module": LOADER, "data": f"data/{FILE}", "code": None, "env": None}
OUTPUTS = Schema(
    [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(DataType.long, "version"),
    ]
)


def reference(line: layout.Layout, records: list[ledger.Record], record: ledger.Record) -> Reference:
    """Where the files of an accepted model lie and what they are, by the ledger."""
    decision = record.statement.decision
    commit = history.commit(line.root, decision.version)
    return Reference(
        repository=_repository(line),
        commit=commit,
        version=decision.version,
        step=decision.step,
        files=recorded_files.files(records, record),
        record=record.name,
        record_sha256=record.sha256,
    )


def write(folder: Path, found: Reference, record: ledger.Record, reads: str) -> None:
    """Writes the model in MLflow's form into a folder that does not exist: signature, input example, reference.

    Args:
        folder: where.
        found, record: what it stands for.
        reads: `images` or `texts`.

    It names no packages to install: otmf itself has to be there, and what is named there would be run before anything is checked.
    """
    kept = folder.with_name(FILE)
    kept.write_text(_text(found), encoding="utf-8")
    kind, one = ("text", "a text to classify") if reads == datasets.TEXTS else ("image", _picture())
    example = pd.DataFrame({kind: [one], "task": [record.statement.decision.task]})
    column = ColSpec(DataType.string if reads == datasets.TEXTS else DataType.binary, kind)
    signature = ModelSignature(Schema([column, ColSpec(DataType.string, "task")]), OUTPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pandas as MLflow uses it
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=LOADER,
            data_path=str(kept),
            signature=signature,
            input_example=example,
            pip_requirements=[],
        )
    for name in ("conda.yaml", "python_env.yaml", "requirements.txt"):
        (folder / name).unlink()
    described = folder / "MLmodel"
    yaml = YAML(typ="rt")
    content = yaml.load(described.read_text(encoding="utf-8"))
    del content["flavors"]["python_function"]["env"]
    with described.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def read(folder: Path) -> Reference | None:
    """The reference of a model as `write` leaves it; None if MLflow would run or install anything else, or it does not hold up."""
    try:
        described = YAML(typ="safe").load((folder / "MLmodel").read_text(encoding="utf-8"))
        (flavor,) = described["flavors"].items()
        text = (folder / "data" / FILE).read_text(encoding="utf-8")
        found = Reference.model_validate_json(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YAMLError):
        return None
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    ours = (
        flavor[0] == "python_function"
        and {key: flavor[1].get(key) for key in ("loader_module", "data", "code", "env")} == RUN
    )
    return found if ours and there <= FILES and text == _text(found) else None


def _text(found: Reference) -> str:
    return found.model_dump_json(indent=1) + "\n"


def _repository(line: layout.Layout) -> str:
    """Where others get at the line: its git remote, if outputs are to be had from a DVC remote as well, or its folder."""
    if remotes.has_remote(line) and commands.has_remote(line.root, versioned=True):
        found = address(git.run(line.root, "remote", "get-url", remotes.REMOTE).strip())
        if is_repository(found):
            return found
    return str(line.root.resolve())


def _picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(stream, "PNG")
    return stream.getvalue()
