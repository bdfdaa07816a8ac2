"""What DVC holds, read without believing DVC: its notes of what is unchanged say nothing about a file somebody altered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from otmf import lineage

_BLOCK = 2**20


@dataclass(frozen=True)
class Content:
    """A file or folder as it is: md5 as DVC has it (of a folder, ending in .dir), sha256 as `otmf.lineage.digest`."""

    md5: str
    sha256: str


@dataclass
class Reader:
    """Hashes of files, each file read once however often it is asked for; hard links count as one file."""

    known: dict[tuple[int, int], Content] = field(default_factory=dict)

    def file(self, path: Path) -> Content:
        """Both hashes of one file."""
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino)
        if key not in self.known:
            md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    md5.update(block)
                    sha256.update(block)
            self.known[key] = Content(md5.hexdigest(), sha256.hexdigest())
        return self.known[key]

    def path(self, path: Path) -> Content:
        """Both hashes of a file or folder of a workspace.

        Raises:
            FileNotFoundError: if nothing is there.
        """
        if path.is_symlink() or not path.is_dir():
            return self.file(path)
        return _folder(
            {part.relative_to(path).as_posix(): self.file(part) for part in path.rglob("*") if part.is_file()}
        )

    def cached(self, cache: Path, md5: str) -> Content:
        """Both hashes of what DVC's cache holds under an md5.

        Raises:
            FileNotFoundError: if the cache lacks it, or a part of it.
            ValueError: if the listing of a folder does not parse.
        """
        found = self.file(_place(cache, md5))
        if not md5.endswith(".dir"):
            return found
        parts = {name: self.file(path) for name, path in listed(cache, md5).items()}
        folder = _folder(parts)
        return Content(
            f"{found.md5}.dir" if folder.md5 == f"{found.md5}.dir" else f"another than {folder.md5}", folder.sha256
        )


def listed(cache: Path, md5: str) -> dict[str, Path]:
    """Relative path -> file in DVC's cache, for a folder that the cache holds under an md5.

    Raises:
        FileNotFoundError, ValueError: if the listing is not there, or does not parse.
    """
    entries = json.loads(_place(cache, md5).read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all(_sound(entry) for entry in entries):
        raise ValueError(f"expected a listing of files under {md5}; received another content; fetch it anew")
    return {entry["relpath"]: _place(cache, entry["md5"]) for entry in entries}


def _folder(parts: Mapping[str, Content]) -> Content:
    """DVC's md5 of a folder is that of the JSON list of its files, sorted; ours of a similar list."""
    entries = [{"md5": parts[name].md5, "relpath": name} for name in sorted(parts)]
    md5 = hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return Content(f"{md5}.dir", lineage.listing({name: found.sha256 for name, found in parts.items()}))


def _place(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def _sound(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"md5", "relpath"}:
        return False
    name, md5 = entry["relpath"], entry["md5"]
    return isinstance(name, str) and isinstance(md5, str) and len(md5) == 32 and set(md5) <= set("0123456789abcdef")
