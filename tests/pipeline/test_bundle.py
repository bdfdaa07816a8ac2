"""The bundle of a version of a real line: checked without otmf, and whatever is altered in it is found."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from otmf.provenance import keys
from tests.pipeline import ledgers

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def made(otmf, tmp_path_factory) -> Path:
    return ledgers.signed(otmf, tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def bundle(otmf, made, tmp_path_factory) -> tuple[Path, Path]:
    """A bundle of a version, and the public key."""
    folder = tmp_path_factory.mktemp("bundles")
    said = otmf("verify", "v2", "--line", made, "--bundle", folder / "v2").stdout
    assert "python -I v2/verify.py KEY.pub" in said
    public = next((made / ".otmf/keys").glob("*.pub"))
    shutil.copyfile(public, folder / "KEY.pub")
    return folder / "v2", folder / "KEY.pub"


def checked(bundle: Path, key: Path) -> subprocess.CompletedProcess:
    """Runs the bundle's own script, with nothing of ours on the path."""
    return subprocess.run(
        [sys.executable, "-I", bundle / "verify.py", key], capture_output=True, text=True, check=False, cwd="/"
    )


def test_bundle_is_verified_without_otmf(bundle, made) -> None:
    done = checked(*bundle)
    assert (done.returncode, done.stdout.startswith("ok: 3 records, ")) == (0, True), done.stdout + done.stderr
    model = hashlib.sha256((made / "data/models/merged/s02/model.safetensors").read_bytes()).hexdigest()
    assert done.stdout.splitlines()[-1] == f"proved: line small, v2, task second, encoder sha256 {model}"
    files = {
        path.relative_to(bundle[0] / "files").as_posix() for path in (bundle[0] / "files").rglob("*") if path.is_file()
    }
    assert {
        "data/models/merged/s02/model.safetensors",
        "data/models/heads/s02/heads.json",
        "params.yaml",
        "data/cards/second.yaml",
    } <= files
    same = (made / "data/models/merged/s02/model.safetensors").read_bytes()
    assert (bundle[0] / "files/data/models/merged/s02/model.safetensors").read_bytes() == same


def test_bundle_that_was_altered_is_not(bundle, tmp_path) -> None:
    folder, key = bundle
    paths = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("verify.py", "README.md")
    ]
    for path in paths:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        ledgers.flip(copy / path)
        assert checked(copy, key).returncode != 0, path
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        (copy / path).unlink()
        assert checked(copy, key).returncode != 0, path
        shutil.rmtree(copy)
    shutil.copytree(folder, tmp_path / "linked")
    (tmp_path / "linked/files/params.yaml").unlink()
    (tmp_path / "linked/files/params.yaml").symlink_to(folder / "files/params.yaml")
    assert "files/params.yaml is a link" in checked(tmp_path / "linked", key).stdout
    shutil.copytree(folder, tmp_path / "emptied")
    shutil.rmtree(tmp_path / "emptied/files")
    (tmp_path / "emptied/contents.json").write_text('{"version": 2, "files": []}')
    said = checked(tmp_path / "emptied", key)
    assert said.returncode == 1
    assert "data/models/merged/s02/model.safetensors, which the version's record names, is missing" in said.stdout
    stranger = keys.new(tmp_path / "stranger.pem").public_key
    (tmp_path / "stranger.pub").write_text(keys.pem(stranger))
    assert "no record names your key" in checked(folder, tmp_path / "stranger.pub").stdout


def test_bundle_under_the_name_of_another_version_is_not_verified(bundle, made, otmf, tmp_path) -> None:
    folder, key = bundle
    otmf("verify", "v1", "--line", made, "--bundle", tmp_path / "v1")
    assert "proved: line small, v1, task first" in checked(tmp_path / "v1", key).stdout
    for name in ("README.md", "contents.json"):
        shutil.copytree(tmp_path / "v1", tmp_path / "copy")
        shutil.copyfile(folder / name, tmp_path / "copy" / name)
        done = checked(tmp_path / "copy", key)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "proved: nothing"), name
        shutil.rmtree(tmp_path / "copy")
    for claim in ({"version": True}, {"version": 9}, {"version": "1"}, {"more": 1}, {"files": []}):
        shutil.copytree(tmp_path / "v1", tmp_path / "copy")
        contents = json.loads((tmp_path / "copy/contents.json").read_text()) | claim
        (tmp_path / "copy/contents.json").write_text(json.dumps(contents))
        assert checked(tmp_path / "copy", key).stdout.splitlines()[-1] == "proved: nothing", claim
        shutil.rmtree(tmp_path / "copy")
    for old, new in (("small v1", "other v1"), ("version v1", "version v1 and v2"), ("# ", "## ")):
        shutil.copytree(tmp_path / "v1", tmp_path / "copy")
        path = tmp_path / "copy/README.md"
        path.write_text(path.read_text().replace(old, new, 1))
        assert "BAD README.md is of another version than small v1" in checked(tmp_path / "copy", key).stdout, new
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_record_is_verified_by_openssl_as_the_bundle_says(bundle, tmp_path) -> None:
    folder, key = bundle
    lines = [
        line.strip()
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("    python3 -c") or "openssl" in line[:12]
    ]
    assert len(lines) == 2
    record = folder / "records/000003.json"
    script = "\n".join(lines).replace("KEY.pub", str(key))
    script = script[: script.index("\n")].removesuffix(" R") + f" {record}" + script[script.index("\n") :]
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Signature Verified Successfully" in done.stdout, done.stderr
    (tmp_path / "pae").write_bytes((tmp_path / "pae").read_bytes() + b" ")
    done = subprocess.run(
        ["bash", "-euc", script.splitlines()[1]], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode != 0
