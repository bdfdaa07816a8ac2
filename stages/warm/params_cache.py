"""params.yaml parsed once for all DVC processes of a warm interpreter.

DVC parses it several times in each run of a stage, and on a long line that is most of what a stage costs beside its work. What is kept is
what DVC's own parser made of the same text, pickled in this process and nowhere else; where a DVC has no such parser at this place, everything
is as it always is.
"""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

LARGEST = 16 * 2**20
_known: dict[str, bytes] = {}  # what was made of a text; of the newest text only


def note(folder: str) -> None:
    """Parses a folder's params.yaml if its text is new; whatever is wrong with it, DVC will say."""
    with contextlib.suppress(Exception):
        from dvc.utils.serialize import _yaml

        path = Path(folder) / "params.yaml"
        if not path.is_file() or path.stat().st_size > LARGEST:
            return
        text = path.read_text(encoding="utf-8")
        if text not in _known:
            made = pickle.dumps(_yaml.parse_yaml(text, str(path)))
            _known.clear()
            _known[text] = made


def use() -> None:
    """Lets the DVC of this process take what was noted, each time as an object of its own."""
    with contextlib.suppress(ImportError, AttributeError):
        from dvc.utils.serialize import _yaml

        parse = _yaml.parse_yaml

        def remembered(text: str, path: str, typ: str = "safe") -> Any:
            made = _known.get(text) if typ == "safe" else None
            return parse(text, path, typ) if made is None else pickle.loads(made)

        _yaml.parse_yaml = remembered
