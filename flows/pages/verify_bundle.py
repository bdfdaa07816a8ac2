"""Checks a bundle of otmf without otmf: python -I verify.py PUBLIC_KEY. Needs only securesystemslib[crypto], in-toto's own DSSE library.

Records: each follows the one before by hash and is signed by the key in force, a new key by both; one of the keys is yours. With
--unsigned, those before the first key may be unsigned: what stands in them is then only held by the records that follow.
Files: each is one that the records name, with the sha256 they name last; the version's encoder, heads and results are there.
README.md and contents.json claim nothing else than the records do. The last line says what was proved, from the records alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import re
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
    version = contents["version"] if type(contents["version"]) is int else 0
    bad, known, previous, force, met, lines, decision = [], {}, "0" * 64, None, False, set(), {}
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
            bad.append(f"{path.name} is unsigned; --unsigned takes records from before the first key as they are")
        force, previous = new or force, hashlib.sha256(content).hexdigest()
        met = met or (new is not None and new.keyid == mine.keyid)
        made = predicate["otmf_decision"].get("version") if "buildDefinition" in predicate else None
        if "buildDefinition" in predicate:
            lines.add(predicate["buildDefinition"]["externalParameters"]["line"])
        if made is not None and made <= version:
            named = [*statement["subject"], *predicate["buildDefinition"]["resolvedDependencies"]]
            if made == version:
                decision, wanted = predicate["otmf_decision"], {one["name"] for one in statement["subject"]}
            known |= {one["name"]: one["digest"]["sha256"] for one in named if "sha256" in one["digest"]}
    if not met:
        bad.append(f"no record names your key, {mine.keyid[:16]}")
    files = sorted(path for path in (here / "files").rglob("*") if path.is_file())
    for path in files:
        name = path.relative_to(here / "files").as_posix()
        if known.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
            bad.append(f"{name} is not what the records name")
    names = {path.relative_to(here / "files").as_posix() for path in files}
    own = [f"data/models/{kind}/{decision.get('step')}/" for kind in ("merged", "heads")]
    needed = {name for name in wanted if name.startswith((*own, "data/results/"))}
    bad += [f"{name}, which the version's record names, is missing" for name in sorted(needed - names)]
    if contents != {"version": version, "files": [path.relative_to(here / "files").as_posix() for path in files]}:
        bad.append("contents.json claims another version, other files or more than these")
    if not wanted or len(lines) != 1:
        bad.append(f"no record of v{version} of one line")
    else:
        bad += claims((here / "README.md").read_text(encoding="utf-8"), f"{min(lines)} v{version}")
        model = here / "files/data/models/merged" / decision["step"] / "model.safetensors"
        if not model.is_file() or hashlib.sha256(model.read_bytes()).hexdigest() != decision["sha256"]:
            bad.append(f"the encoder is not the one of v{version}")
    print("\n".join(shown(f"BAD {said}") for said in bad) or f"ok: {len(records)} records, {len(files)} files")
    print("proved: nothing" if bad else shown(f"proved: {told(min(lines), version, decision)}"))
    return bool(bad)


def claims(readme: str, proved: str) -> list[str]:
    """What a README claims that was not proved: its title, and every version it names."""
    number = proved.rpartition(" ")[2]
    wrong = readme.splitlines()[:1] != [f"# {proved}: records and files"] or set(re.findall(r"\bv\d+\b", readme)) != {
        number
    }
    return [f"README.md is of another version than {proved}"] if wrong else []


def told(line: str, version: int, decision: dict) -> str:
    return f"line {line}, v{version}, task {decision['task']}, encoder sha256 {decision['sha256']}"


def shown(text: str) -> str:
    """One line of text, with what a terminal would take for a command written out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


if __name__ == "__main__":
    sys.exit(main())
