"""The folder of a comparison's rows: one parquet file for each run, written whole or not at all, and bound to what it was a run of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from flows.programs.failures import WorkspaceError
from otmf.evaluation import protocol

IDENTITY = b"otmf.run"
CONTENT = b"otmf.rows"
REFERENCES = "references"


def path(folder: Path, name: str) -> Path:
    return folder / "rows" / f"{name}.parquet"


def finished(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """Names of those runs whose rows are there.

    Args:
        folder: of the results; it need not exist.
        wanted: name of each run -> its identity.

    Raises:
        WorkspaceError: if rows of another configuration lie there; they are never mixed.
    """
    files = sorted((folder / "rows").glob("*.parquet"))
    for file in files:
        if not file.is_file():
            raise WorkspaceError(f"expected files of rows in {folder}; received {file.name}, which is none; remove it")
    foreign = [file for file in files if wanted.get(file.stem) != _identity(file)]
    if not foreign:
        return {file.stem for file in files}
    first = foreign[0]
    what = "a run that this configuration has not" if first.stem not in wanted else "a run under other settings or data"
    names = sorted({file.name.split(".")[0] for file in foreign})
    others = f", and {len(foreign) - 1} more of {', '.join(names)[:200]}" if len(foreign) > 1 else ""
    raise WorkspaceError(
        f"expected in {folder} only rows of this configuration; received {first.name}, of {what}{others}; name another folder with --results, "
        f"remove {'them' if others else 'that file'}, or name the tasks of then with `tasks`, where the line has new ones"
    )


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], *, identity: str) -> None:
    """The rows of one run."""
    found = pd.DataFrame(list(rows))
    _write(path(folder, name), found, {IDENTITY: identity.encode(), CONTENT: _digest(found)})


def gather(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """All rows of some runs, in that order. Raises WorkspaceError for a file that does not read."""
    return pd.concat([read(path(folder, name)) for name in names], ignore_index=True)


def read(file: Path) -> pd.DataFrame:
    """Rows as `write` and `keep` write them.

    Raises:
        WorkspaceError: if they are not.
    """
    try:
        table = parquet.read_table(file)
        found = table.to_pandas()
    except Exception as error:  # pyarrow and pandas have many for what is damaged
        raise WorkspaceError(
            f"expected rows in {file}; received {' '.join(str(error).split())[:200]}; remove that file, and run `otmf bench` again"
        ) from error
    said = (table.schema.metadata or {}).get(CONTENT)  # releases before wrote none
    if said is not None and said != _digest(found):
        raise WorkspaceError(
            f"expected rows in {file} as they were written; received others; remove that file, and run `otmf bench` again"
        )
    return found


def keep(file: Path, rows: pd.DataFrame) -> None:
    """A table of rows, whole or not at all."""
    _write(file, rows, {})


def identities(runs: Sequence[protocol.Run], inputs: Mapping[str, str]) -> dict[str, str]:
    return {run.name: run.identity(inputs) for run in runs}


def _digest(rows: pd.DataFrame) -> bytes:
    return hashlib.sha256(rows.to_json(orient="split", double_precision=15).encode()).hexdigest().encode()


def _identity(file: Path) -> str:
    try:
        return (parquet.read_schema(file).metadata or {}).get(IDENTITY, b"").decode(errors="replace")
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise WorkspaceError(
            f"expected rows of a run in {file}; received a file that does not read ({str(error)[:120]}); remove it, and run again"
        ) from error


def _write(file: Path, rows: pd.DataFrame, notes: Mapping[bytes, bytes]) -> None:
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    try:
        parquet.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **notes}), part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
