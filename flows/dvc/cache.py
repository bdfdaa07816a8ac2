"""What DVC holds, read without believing DVC: its notes of what is unchanged say nothing about a file somebody altered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from otmf.provenance import digests


@dataclass
class Reader:
    """sha256 of files and folders as they are now, each file read once however often it is asked for; hard links count as one."""

    known: dict[tuple[int, int], str] = field(default_factory=dict)

    def file(self, path: Path) -> str:
        """sha256 of one file."""
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino)
        if key not in self.known:
            self.known[key] = digests.digest(path)
        return self.known[key]

    def path(self, path: Path) -> str:
        """sha256 of a file or folder of a workspace, as `otmf.provenance.digests.digest`.

        Raises:
            FileNotFoundError: if nothing is there.
        """
        if not path.is_dir():
            return self.file(path)
        parts = (part for part in path.rglob("*") if part.is_file())
        return digests.listing({part.relative_to(path).as_posix(): self.file(part) for part in parts})

    def cached(self, cache: Path, md5: str) -> str:
        """sha256 of what DVC's cache holds under an md5: of a folder by the listing that lies there.

        Raises:
            FileNotFoundError, ValueError: as `listed`.
        """
        if not md5.endswith(".dir"):
            return self.file(place(cache, md5))
        return digests.listing({name: self.file(path) for name, path in listed(cache, md5).items()})


def listed(cache: Path, md5: str) -> dict[str, Path]:
    """Relative path -> file in DVC's cache, for a folder that the cache holds under an md5.

    Raises:
        FileNotFoundError, ValueError: if the listing is not there, or is not one that DVC writes.
    """
    text = place(cache, md5).read_text(encoding="utf-8")
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(_sound(entry) for entry in entries) or json.dumps(entries) != text:
        raise ValueError(f"expected a listing of files under {md5}; received another content; fetch it anew")
    return {entry["relpath"]: place(cache, entry["md5"]) for entry in entries}


def place(cache: Path, md5: str) -> Path:
    """Where DVC's cache has what has an md5."""
    return cache / "files/md5" / md5[:2] / md5[2:]


def _sound(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"md5", "relpath"}:
        return False
    name, md5 = entry["relpath"], entry["md5"]
    inside = isinstance(name, str) and not name.startswith("/") and ".." not in name.split("/")
    return inside and isinstance(md5, str) and len(md5) == 32 and set(md5) <= set("0123456789abcdef")
