"""A clone cut to some stages while DVC looks at it: DVC resolves every stage there is, and opens the file of every folder of
data, and a long line has hundreds.

Only for clones that nobody else looks at: parameters and lock are others meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from ruamel.yaml import YAML

from flows.dvc import lockfile
from flows.programs import plain_yaml

PARAMS, IGNORED = "params.yaml", ".dvcignore"


@contextlib.contextmanager
def cut(root: Path, stages: Collection[str], data: Collection[str] | None = ()) -> Iterator[None]:
    """Leaves of a clone's parameters, lock and folders of data what some stages need, and puts the rest back afterwards.

    Folders of data named in `data` are seen as well; all of them if it is None. A lock of another form than DVC's own, or a
    `.dvcignore` that is a link, is left as it is.
    """
    params, lock, ignored = root / PARAMS, root / lockfile.NAME, root / IGNORED
    changed = (params, lock) if data is None or ignored.is_symlink() else (params, lock, ignored)
    before = {path: path.read_bytes() for path in changed if path.exists()}
    entries = lockfile.parse(before[lock].decode()) if lock in before else {}
    if entries is None:
        yield
        return
    document = plain_yaml.load(before[params].decode())
    keys = {name.partition("@")[2] for name in stages}
    for section in ("tasks", "steps"):
        document[section] = {key: value for key, value in (document.get(section) or {}).items() if key in keys}
    kept = {name: text for name, text in entries.items() if name in stages}
    wanted = {"pretrained", *(data or ()), *document["tasks"], *(step["task"] for step in document["steps"].values())}
    seen = [f"!/data/raw/{name}{suffix}" for name in sorted(wanted) for suffix in ("", ".dvc")]
    try:
        lock.unlink(missing_ok=True)
        if kept:
            lock.write_text(lockfile.text(kept), encoding="utf-8")
        with params.open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump(document, stream)
        if ignored in changed:
            ignored.write_bytes(before.get(ignored, b"") + "\n".join(["", "/data/raw/*", *seen, ""]).encode())
        yield
    finally:
        if ignored in changed and ignored not in before:
            ignored.unlink(missing_ok=True)
        for path, content in before.items():
            path.write_bytes(content)
