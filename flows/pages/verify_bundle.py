"""Checks a bundle of otmf without otmf: python -I verify.py PUBLIC_KEY. Needs only securesystemslib[crypto], in-toto's own DSSE library.

Records: each follows the one before by hash and is signed by the key in force, a new key by both; one of the keys is yours. With
--unsigned, those before the first key may be unsigned: what stands in them is then only held by the records that follow.
Files: each is one that the records name, with the sha256 they name last; the version's encoder, heads and results are there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey


def key(pem: bytes) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(pem))


def main() -> int:
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Check this bundle.")
    parser.add_argument("key", type=argparse.FileType("rb"), help="a public key that you got from somebody you trust")
    parser.add_argument("--unsigned", action="store_true", help="take records before the first key as they are")
    given = parser.parse_args()
    mine, wanted = key(given.key.read()), {}
    contents = json.loads((here / "contents.json").read_text(encoding="utf-8"))
    bad, known, previous, force, met = [], {}, "0" * 64, None, False
    records = sorted((here / "records").iterdir())
    bad += [f"{path.relative_to(here)} is a link" for path in here.rglob("*") if path.is_symlink()]
    for number, path in enumerate(records, start=1):
        content = path.read_bytes()
        envelope = Envelope.from_dict(json.loads(content))
        statement = json.loads(envelope.payload)
        predicate = statement["predicate"]
        place = {"index": number, "previous": previous}
        if predicate["otmf_ledger"] != place or path.name != f"{number:06d}.json":
            bad.append(f"{path.name} does not follow the record before it")
        if json.dumps(envelope.to_dict(), indent=1, sort_keys=True).encode() + b"\n" != content:
            bad.append(f"{path.name} is not written as it was signed")
        new = key(predicate["key"].encode()) if "key" in predicate else None
        for one in filter(None, (force, new)):
            try:
                envelope.verify([one], 1)
            except VerificationError:
                bad.append(f"{path.name} is not signed by {one.keyid[:16]}")
        if force is None and new is None and not given.unsigned:
            bad.append(f"{path.name} is unsigned")
        force, previous = new or force, hashlib.sha256(content).hexdigest()
        met = met or (new is not None and new.keyid == mine.keyid)
        version = predicate["otmf_decision"].get("version")
        if "buildDefinition" in predicate and version is not None and version <= contents["version"]:
            named = [*statement["subject"], *predicate["buildDefinition"]["resolvedDependencies"]]
            if version == contents["version"]:
                wanted = {one["name"] for one in statement["subject"]}
            known |= {one["name"]: one["digest"]["sha256"] for one in named if "sha256" in one["digest"]}
    if not met:
        bad.append(f"no record names your key, {mine.keyid[:16]}")
    files = sorted(path for path in (here / "files").rglob("*") if path.is_file())
    for path in files:
        name = path.relative_to(here / "files").as_posix()
        if known.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
            bad.append(f"{name} is not what the records name")
    names = {path.relative_to(here / "files").as_posix() for path in files}
    needed = {
        name for name in wanted if name.startswith(("data/models/merged/", "data/models/heads/", "data/results/"))
    }
    bad += [f"{name}, which the version's record names, is missing" for name in sorted(needed - names)]
    if not wanted:
        bad.append(f"no record of v{contents['version']}")
    if contents["files"] != [path.relative_to(here / "files").as_posix() for path in files]:
        bad.append("files are missing, or too many")
    print("\n".join(f"BAD {said}" for said in bad) or f"ok: {len(records)} records, {len(files)} files")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
