"""Hashes of what DVC holds: the same as DVC's own, and of the bytes as they are now."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.dvc import cache, commands
from flows.programs import git
from otmf.provenance import digests


@pytest.fixture
def root(tmp_path) -> Path:
    git.run(tmp_path, "init", "--quiet")
    commands.start(tmp_path)
    files = {
        "data/a.txt": b"a",
        "data/b/c.txt": b"c",
        "data/b-c": b"",
        "data/b.txt": b"\r\n",
        "data/\u00e9.txt": b"e",
        "one.bin": bytes(range(256)),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data", "one.bin"], check=True, cwd=tmp_path)
    return tmp_path


def pointed(root: Path, name: str) -> str:
    return YAML(typ="safe").load((root / f"{name}.dvc").read_text())["outs"][0]["md5"]


@pytest.mark.parametrize("name", ["data", "one.bin"])
def test_workspace_and_cache_have_the_same_content(root, name) -> None:
    found = cache.Reader().path(root / name)
    assert found == digests.digest(root / name)
    assert cache.Reader().cached(commands.cache(root), pointed(root, name)) == found


def test_file_is_read_once_however_many_links_it_has(root, monkeypatch) -> None:
    reader, read, digest = cache.Reader(), [], digests.digest
    monkeypatch.setattr(digests, "digest", lambda path: read.append(path) or digest(path))
    (root / "link.bin").hardlink_to(root / "one.bin")
    assert reader.file(root / "one.bin") == reader.file(root / "link.bin") == reader.path(root / "one.bin")
    assert len(read) == 1


def test_file_altered_without_a_trace_is_read_as_it_is(root) -> None:
    path = root / "one.bin"
    stat, before = path.stat(), cache.Reader().path(root / "one.bin")
    path.chmod(0o644)
    path.write_bytes(bytes(256))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.Reader().path(path) != before


def test_object_that_is_missing_or_no_listing_is_said(root) -> None:
    md5 = pointed(root, "data")
    with pytest.raises(FileNotFoundError):
        cache.Reader().cached(commands.cache(root), "0" * 32)
    listing = commands.cache(root) / "files/md5" / md5[:2] / md5[2:]
    listing.chmod(0o644)
    sound = listing.read_text()
    for text in (
        sound + " ",
        sound.replace('"a.txt', '"/a.txt'),
        sound.replace("a.txt", "../a.txt"),
        "{}",
        '[{"md5": "../../../etc", "relpath": "x"}]',
        '[{"relpath": "x"}]',
        "[[]]",
    ):
        listing.write_text(text)
        with pytest.raises(ValueError, match="expected a listing of files"):
            cache.Reader().cached(commands.cache(root), md5)


def test_listing_altered_but_well_formed_has_another_hash(root) -> None:
    md5 = pointed(root, "data")
    listing = commands.cache(root) / "files/md5" / md5[:2] / md5[2:]
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("a.txt", "z.txt"))
    assert cache.Reader().cached(commands.cache(root), md5) != digests.digest(root / "data")
