"""The ledger: records in a chain, signed by the key in force; whatever is altered is found and named."""

from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as Standard
from securesystemslib.signer import CryptoSigner

from otmf.provenance import keys, ledger, statements

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def decision(**given) -> statements.Decision:
    return statements.Decision(**{
        "action": "accepted", "version": 1, "step": "s01", "task": "digits", "sha256": "a" * 64, "by": "gate", "reason": "all rules hold",
        "at": AT, **given,
    })  # fmt: skip


def decided(place: statements.Place, *, key: str | None = None, **given) -> statements.Statement:
    return statements.Statement(
        subject=[statements.Resource(name="data/models/merged/s01/model.safetensors", digest={"sha256": "a" * 64})],
        predicateType=statements.DECISION,
        predicate=statements.Decided(otmf_decision=decision(**given), otmf_ledger=place, key=key),
    )


def built(place: statements.Place) -> statements.Statement:
    stage = statements.Stage(
        command="python -m stages merge_step s01", outcome="ran", parameters={"steps.s01.merge": {"alpha": 0.8}},
        inputs={"data/raw/digits": {"sha256": "b" * 64, "md5": "c" * 32 + ".dir"}},
        outputs={"data/models/merged/s01": {"sha256": "a" * 64, "md5": "d" * 32 + ".dir"}},
    )  # fmt: skip
    definition = statements.BuildDefinition(
        externalParameters={"line": "small", "tasks": ["digits"]},
        internalParameters={"gate": {"largest_drop": 0.1}},
        resolvedDependencies=[statements.Resource(name="git commit", digest={"gitCommit": "e" * 40})],
        otmf_stages={"merge-step@s01": stage},
    )
    details = statements.RunDetails(
        builder=statements.Builder(version={"otmf": "0.1.0"}),
        metadata=statements.BuildMetadata(invocationId="run", startedOn=AT, finishedOn=AT),
        otmf_host={"machine": "x86_64"},
        otmf_runs={"parent": "f" * 32},
    )
    return statements.Statement(
        subject=[statements.Resource(name="data/models/merged/s01/model.safetensors", digest={"sha256": "a" * 64})],
        predicateType=statements.PROVENANCE,
        predicate=statements.Provenance(
            buildDefinition=definition, runDetails=details, otmf_decision=decision(), otmf_ledger=place
        ),
    )


def announce(root: Path, new: CryptoSigner, *others: CryptoSigner) -> ledger.Record:
    write = lambda place: decided(place, action="key", version=None, key=keys.pem(new.public_key))  # noqa: E731
    return ledger.append(root, write, [new, *others])


def grown(root: Path) -> tuple[CryptoSigner, CryptoSigner]:
    """A key, two records, another key, two records."""
    one, two = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    announce(root, one)
    for write in (built, decided):
        ledger.append(root, write, [one])
    announce(root, two, one)
    for write in (built, decided):
        ledger.append(root, write, [two])
    return one, two


def troubles(root: Path, *trusted) -> list[str]:
    try:
        return [said for _, said in ledger.signatures(ledger.read(root), trusted) if said]
    except ledger.LedgerError as error:
        return [str(error)]


def test_records_come_back_in_a_chain(tmp_path) -> None:
    grown(tmp_path)
    found = ledger.read(tmp_path)
    assert [record.name for record in found] == [f"{number:06d}.json" for number in range(1, 7)]
    assert [record.statement.place.previous for record in found[1:]] == [record.sha256 for record in found[:-1]]
    assert found[2].statement.decision == decision()
    assert found[1].statement == built(found[1].statement.place)


def test_either_key_is_enough_to_check_all(tmp_path) -> None:
    for key in grown(tmp_path):
        assert troubles(tmp_path, key.public_key) == []


def test_key_that_nobody_trusts_leads_nowhere(tmp_path) -> None:
    grown(tmp_path)
    stranger = CryptoSigner.generate_ed25519().public_key
    said = troubles(tmp_path, stranger)
    assert len(said) == 6
    assert "expected a key you trust" in said[0]
    assert "none was given" in troubles(tmp_path)[0]


def test_ledger_without_a_key_says_so_of_each_record(tmp_path) -> None:
    for write in (built, decided):
        ledger.append(tmp_path, write, [])
    assert troubles(tmp_path) == ["unsigned", "unsigned"]


def test_signed_ledger_takes_no_record_without_the_key_in_force(tmp_path) -> None:
    one, _ = grown(tmp_path)
    for signers in ([], [one]):
        with pytest.raises(ledger.LedgerError, match="expected the key .*, with which this ledger is signed"):
            ledger.append(tmp_path, decided, signers)
    assert len(ledger.read(tmp_path)) == 6


def test_history_of_somebody_without_the_key_is_not_believed(tmp_path) -> None:
    one, _ = grown(tmp_path / "true")
    other = CryptoSigner.generate_ed25519()
    announce(tmp_path / "false", other)
    ledger.append(tmp_path / "false", built, [other])
    assert troubles(tmp_path / "false", one.public_key)
    unsigned = tmp_path / "unsigned"
    ledger.append(unsigned, built, [])
    assert troubles(unsigned, one.public_key) == ["unsigned"]
    with_the_right_name = tmp_path / "named"
    write = lambda place: decided(place, action="key", version=None, key=keys.pem(one.public_key))  # noqa: E731
    ledger.append(with_the_right_name, write, [])
    assert "that does not hold" in troubles(with_the_right_name, one.public_key)[0]


def test_of_two_who_append_at_once_one_fails_and_the_chain_does_not_fork(tmp_path) -> None:
    def once(number: int) -> str:
        try:
            ledger.append(tmp_path, lambda place: decided(place, reason=f"number {number}"), [])
        except ledger.LedgerError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(once, range(64)))
    assert all("do it again" in one for one in said if one)
    done = [not one for one in said]
    assert len(ledger.read(tmp_path)) == sum(done) >= 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        f"{number:06d}.json" for number in range(1, sum(done) + 1)
    ]


@pytest.mark.parametrize("number", range(1, 7))
def test_every_flipped_byte_is_found(tmp_path, number) -> None:
    one, two = grown(tmp_path)
    path = tmp_path / ledger.FOLDER / ledger.name(number)
    content, rng = path.read_bytes(), random.Random(number)
    for place in [*rng.sample(range(len(content)), 60), 0, len(content) - 1]:
        altered = bytearray(content)
        altered[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(altered))
        assert troubles(tmp_path, one.public_key), f"byte {place}"
        assert troubles(tmp_path, two.public_key), f"byte {place}"
    path.write_bytes(content)
    assert troubles(tmp_path, two.public_key) == []


def test_other_bytes_that_read_the_same_are_found(tmp_path) -> None:
    one, _ = grown(tmp_path)
    path = tmp_path / ledger.FOLDER / ledger.name(6)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert "received other bytes that read the same" in troubles(tmp_path, one.public_key)[0]


@pytest.mark.parametrize("number", range(1, 6))
def test_record_taken_out_or_swapped_is_found(tmp_path, number) -> None:
    one, _ = grown(tmp_path)
    folder = tmp_path / ledger.FOLDER
    here, following = folder / ledger.name(number), folder / ledger.name(number + 1)
    content = here.read_bytes()
    here.unlink()
    assert "expected record" in troubles(tmp_path, one.public_key)[0]
    here.write_bytes(following.read_bytes())
    following.write_bytes(content)
    assert "expected record" in troubles(tmp_path, one.public_key)[0]


@pytest.mark.parametrize("name", ["note.txt", "000007.json", "0000001.json", ".000001.json.swp"])
def test_file_that_does_not_belong_is_found(tmp_path, name) -> None:
    one, _ = grown(tmp_path)
    (tmp_path / ledger.FOLDER / name).write_bytes((tmp_path / ledger.FOLDER / ledger.name(1)).read_bytes())
    assert troubles(tmp_path, one.public_key)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"payload": 1}', b"[" * 100_000, b'{"payload": "", "payloadType": "", "signatures": []}']
)  # fmt: skip
def test_file_that_is_no_record_is_refused_in_one_sentence(tmp_path, content) -> None:
    path = tmp_path / "000001.json"
    path.write_bytes(content)
    with pytest.raises(ledger.LedgerError, match="expected a DSSE envelope with a statement in 000001.json"):
        ledger.load(path)


def test_the_standards_own_reader_takes_our_records(tmp_path) -> None:
    grown(tmp_path)
    for record in ledger.read(tmp_path):
        found = json_format.Parse(record.envelope.payload, statement_pb2.Statement())
        Standard.copy_from_pb(found).validate()
    content = json.loads(ledger.read(tmp_path)[1].envelope.payload)["predicate"]
    provenance = json_format.ParseDict(content, provenance_pb2.Provenance(), ignore_unknown_fields=True)
    assert provenance.build_definition.build_type == statements.BUILD
    assert provenance.build_definition.resolved_dependencies[0].digest["gitCommit"] == "e" * 40
    assert provenance.run_details.metadata.invocation_id == "run"


def test_hash_of_a_record_is_that_of_its_file(tmp_path) -> None:
    grown(tmp_path)
    first = ledger.read(tmp_path)[0]
    assert first.sha256 == hashlib.sha256((tmp_path / ledger.FOLDER / first.name).read_bytes()).hexdigest()
