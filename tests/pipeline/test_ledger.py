"""The ledger of a real line: what its records say, and that whatever is altered afterwards is found and named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from flows.dvc import commands
from flows.programs import git
from flows.services import tracking
from flows.versions import keyring
from otmf.provenance import keys, ledger, statements
from otmf.runtime import layout
from tests import makers
from tests.pipeline import ledgers

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def made(otmf, tmp_path_factory) -> Path:
    return ledgers.signed(otmf, tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def root(made, tmp_path) -> Iterator[Path]:
    """A copy to be altered. Links of the cache stay links."""
    subprocess.run(["cp", "-a", str(made), str(tmp_path / "small")], check=True)
    yield tmp_path / "small"
    shutil.rmtree(tmp_path / "small")


def test_clean_line_holds(otmf, made) -> None:
    said = otmf("verify", "--line", made).stdout
    assert said.splitlines()[-1].endswith(" checks hold, 0 do not")
    assert "BAD" not in said
    assert "ok  v2: data/models/merged/s02" in said
    assert "ok  registry: alias champion" in said
    only = otmf("verify", "v1", "--line", made).stdout
    assert "v1: stage merge-step@s01" in only
    assert "v2: stage" not in only


def test_record_says_what_went_in_and_who_made_it(made) -> None:
    key, first, second = ledger.read(made)
    assert (key.statement.decision.action, key.statement.decision.by) == ("key", "ada")
    predicate = second.statement.predicate
    assert isinstance(predicate, statements.Provenance)
    definition, details = predicate.buildDefinition, predicate.runDetails
    assert set(definition.otmf_stages) == {
        "finetune@second",
        "extract@second",
        "merge-step@s02",
        "head-tune@s02",
        "evaluate@s02",
    }
    assert "pretrained" in first.statement.predicate.buildDefinition.otmf_stages
    merge = definition.otmf_stages["merge-step@s02"]
    assert (
        merge.inputs["data/models/merged/s01"]
        == first.statement.predicate.buildDefinition.otmf_stages["merge-step@s01"].outputs["data/models/merged/s01"]
    )
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(made)))
    assert client.get_run(merge.run).data.tags["stage"] == "merge_step"
    assert merge.host["device"] == "cpu"
    parent = client.get_run(details.otmf_runs["parent"])
    assert parent.data.tags["kind"] == "onboard"
    assert details.builder.version["torch"]
    assert details.metadata.invocationId
    assert details.metadata.startedOn < details.metadata.finishedOn
    assert [finding.holds for finding in second.statement.decision.findings] == [True] * 4
    named = {found.name: found for found in definition.resolvedDependencies}
    assert named["git commit"].digest["gitCommit"] == git.run(made, "rev-parse", "model/v2^").strip()
    assert named["git commit"].annotations == {"clean": True}
    assert {"data/raw/second", "data/models/merged/s01", "params.yaml", "dvc.lock", "data/cards/second.yaml"} <= set(
        named
    )


def commit(root: Path) -> None:
    makers.commit(root, "Nothing to see here")


def cached(root: Path, path: str) -> Path:
    """The object of DVC's cache with the same content as a file."""
    content = (root / path).read_bytes()
    return next(one for one in (root / ".dvc/cache/files/md5").glob("*/*") if one.read_bytes() == content)


def tag_moved(root: Path) -> None:
    git.run(root, "tag", "--force", "model/v1", "HEAD")


def retagged(root: Path) -> None:
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(root)))
    client.set_model_version_tag("small", "1", "by", "somebody")


def result_committed(root: Path) -> None:
    path = root / "data/results/steps/s02.json"
    path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 0.9'))
    commit(root)


def last_record_lost(root: Path) -> None:
    git.run(root, "reset", "--quiet", "--hard", "model/v1")
    git.run(root, "tag", "--delete", "model/v2")
    commands.checkout(root)


def later_commit(root: Path) -> None:
    """What the next checkout would bring in place of a model."""
    path = root / "dvc.lock"
    path.write_text(path.read_text().replace("path: data/models/merged/s02", "path: data/models/merged/s01", 1))
    commit(root)


def record_with_more(root: Path) -> None:
    """The commit that a tag names, with another configuration of the encoder beside the record."""
    path = root / "data/backbones/small.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    git.run(root, "add", "--all")
    git.run(root, "commit", "--quiet", "--amend", "--no-edit")
    git.run(root, "tag", "--force", "model/v2", "HEAD")


def committed(root: Path, path: str, content: str | None = None) -> None:
    """A file altered and committed after the last record."""
    there = root / path
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text(there.read_text() + "\n# more\n" if content is None else content)
    commit(root)


def gate_altered(root: Path) -> None:
    path = root / "data/results/gates/s02.json"
    path.write_text(path.read_text().replace("true", "false"))
    commit(root)


def link_committed(root: Path) -> None:
    (root / "notes").symlink_to("/etc/passwd")
    commit(root)


def repository_inside(root: Path) -> None:
    head = git.run(root, "rev-parse", "HEAD").strip()
    git.run(root, "update-index", "--add", "--cacheinfo", f"160000,{head},data/raw/more")
    subprocess.run(["git", "commit", "-qm", "more"], cwd=root, check=True)


def linked_away(root: Path) -> None:
    shutil.move(root / "data/cards", root / ".otmf/cards")
    (root / "data/cards").symlink_to(root / ".otmf/cards")


def model_linked_away(root: Path) -> None:
    path = root / "data/models/merged/s02/model.safetensors"
    shutil.move(path, root / ".otmf/model")
    path.symlink_to(root / ".otmf/model")


def program(root: Path) -> None:
    (root / "params.yaml").chmod(0o755)


def overlooked(root: Path) -> None:
    git.run(root, "update-index", "--skip-worktree", "params.yaml")
    subprocess.run(["git", "update-index", "--assume-unchanged", "dvc.yaml"], cwd=root, check=True)


def staged(root: Path) -> None:
    before = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(before + "# more\n")
    git.run(root, "add", "--all")
    (root / "dvc.yaml").write_text(before)


def hidden_card(root: Path) -> None:
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/exclude").write_text("*.yaml\n")
    (root / "data/cards/third.yaml").write_text("name: third")


def replaced(root: Path) -> None:
    git.run(
        root,
        "replace",
        git.run(root, "rev-parse", "HEAD:params.yaml").strip(),
        git.run(root, "rev-parse", "HEAD:dvc.yaml").strip(),
    )


def grafted(root: Path) -> None:
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/grafts").write_text(git.run(root, "rev-parse", "HEAD"))


def stranger_registered(root: Path) -> None:
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(root)))
    run = client.search_runs(["1"])[0].info.run_id
    client.create_model_version("small", source=f"runs:/{run}/model/v1", run_id=run)


def doubled_registered(root: Path) -> None:
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(root)))
    first = client.get_model_version("small", "1")
    client.create_model_version("small", source=first.source, run_id=first.run_id, tags=first.tags)


def staged_in_registry(root: Path) -> None:
    client = MlflowClient(tracking_uri=tracking.uri(layout.Layout(root)))
    with pytest.warns(FutureWarning, match="deprecated"):
        client.transition_model_version_stage("small", "1", "Production")


def no_file(root: Path) -> None:
    (root / "data/lineage/000002.json").unlink()
    os.mkfifo(root / "data/lineage/000002.json")


ALTERED = {
    "model": (lambda root: ledgers.flip(root / "data/models/merged/s02/model.safetensors"), "BAD v2: data/models/merged/s02: expected sha256"),
    "older model": (lambda root: ledgers.flip(root / "data/models/merged/s01/model.safetensors"), "BAD v2: data/models/merged/s01: expected sha256"),
    "cache": (lambda root: ledgers.flip(cached(root, "data/models/masks/s02/masks.safetensors")), "data/models/masks/s02 in DVC's cache: expected sha256"),
    "cached result": (lambda root: ledgers.flip(cached(root, "data/results/steps/s02.json")), "data/results/steps/s02.json in DVC's cache: expected sha256"),
    "pictures": (lambda root: ledgers.flip(next((root / "data/raw/first").glob("*.npz"))), "BAD v2: data/raw/first: expected sha256"),
    "picture lost": (lambda root: next((root / "data/raw/first").glob("*.npz")).unlink(), "BAD v2: data/raw/first: expected sha256"),
    "parameters": (lambda root: ledgers.flip(root / "params.yaml"), "BAD file params.yaml: expected the content of the last commit"),
    "record": (lambda root: ledgers.flip(root / "data/lineage/000002.json"), "000002.json: expected"),
    "record lost": (lambda root: (root / "data/lineage/000002.json").unlink(), "BAD record 000003.json: expected record 2"),
    "configuration of DVC": (lambda root: (root / ".dvc/config").write_text("[core\n"), "BAD file .dvc/config: expected the content of the last commit"),
    "file put in": (lambda root: (root / "data/cards/third.yaml").write_text("name: third"), "BAD file data/cards/third.yaml: expected no such file"),
    "data put in": (lambda root: (root / "data/raw/third.dvc").write_text("outs: []"), "BAD file data/raw/third.dvc: expected no such file"),
    "later commit": (later_commit, "BAD file dvc.lock: expected it as v2 was recorded with; received another, which no record tells of"),
    "record with more": (record_with_more, "BAD v2: commit"),
    "record that is no file": (no_file, "BAD record 000002.json: expected a record in 000002.json; received no file of its own"),
    "tag": (tag_moved, "BAD v1: commit"),
    "registry": (retagged, "BAD registry: v1: expected tag by 'gate'; received 'somebody'"),
    "result, committed": (result_committed, "BAD v2: data/results/steps/s02.json: expected sha256"),
    "gate, committed": (gate_altered, "BAD file data/results/gates/s02.json: expected it as v2 was recorded with"),
    "DVC's configuration, committed": (lambda root: committed(root, ".dvc/config"), "BAD file .dvc/config: expected it as v2 was recorded with"),
    "deployments, committed": (lambda root: committed(root, "prefect.yaml"), "BAD file prefect.yaml: expected it as v2 was recorded with"),
    "what DVC ignores, committed": (lambda root: committed(root, ".dvcignore", "data\n"), "BAD file .dvcignore: expected it as v2 was recorded with"),
    "attributes, committed": (lambda root: committed(root, "data/.gitattributes", "* text\n"), "BAD file data/.gitattributes: expected it as v2"),
    "pipeline put in": (lambda root: committed(root, "more/dvc.yaml", "stages: {}\n"), "BAD file more/dvc.yaml: expected it as v2"),
    "pipeline lying": (lambda root: (root / "dvc.lock/..").resolve().joinpath("x.dvc").write_text("outs: []"), "BAD file x.dvc: expected no such file"),
    "model put in": (lambda root: (root / "data/models/more.bin").write_text("x"), "BAD file data/models/more.bin: expected no such file"),
    "link, committed": (link_committed, "BAD file notes: expected a file in the last commit; received a link or another repository"),
    "repository inside": (repository_inside, "BAD file data/raw/more: expected a file in the last commit"),
    "folder linked away": (linked_away, "BAD file data/cards: expected a file or folder of its own; received a link"),
    "model linked away": (model_linked_away, "BAD file data/models/merged/s02/model.safetensors: expected a file or folder of its own"),
    "mode": (program, "BAD file params.yaml: expected mode 100644"),
    "overlooked": (overlooked, "BAD file dvc.yaml: expected git to look at it"),
    "staged": (staged, "BAD file dvc.yaml: expected nothing to be committed next"),
    "hidden card": (hidden_card, "BAD file data/cards/third.yaml: expected no such file"),
    "replaced": (replaced, "expected no object in place of another; received one"),
    "grafted": (grafted, "BAD git grafts: expected the parents that commits name"),
    "git's head": (lambda root: (root / ".git/HEAD").write_text("nothing"), "BAD git: expected `git rev-parse --git-dir` to succeed"),
    "tag put in": (lambda root: git.run(root, "tag", "model/v99"), "BAD reference refs/tags/model/v99: expected tags of recorded versions"),
    "refused branch put in": (lambda root: git.run(root, "branch", "rejected/third"), "BAD reference refs/heads/rejected/third: expected a commit that the record of a refusal names"),
    "command in git's configuration": (lambda root: subprocess.run(["git", "config", "filter.x.clean", "cat"], cwd=root, check=True), "BAD git configuration: filter.x.clean"),
    "version of a stranger": (stranger_registered, "BAD registry: MLflow's version 3: expected a version that otmf registered; received another, which models:/small/3 loads"),
    "version doubled": (doubled_registered, "BAD registry: MLflow's version"),
    "version in a stage": (staged_in_registry, "BAD registry: v1: expected neither a stage nor a status of MLflow's, which otmf does not set; received the stage Production"),
    "last record": (last_record_lost, "BAD registry: end of the ledger: expected at least 3 records; received 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
def test_what_is_altered_is_named(otmf, root, what) -> None:
    alter, message = ALTERED[what]
    alter(root)
    said = otmf("verify", "--line", root, code=1).stdout
    assert message in said, said


def test_nothing_that_lies_in_a_folder_is_run_or_written_through(otmf, root, tmp_path) -> None:
    ran = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    subprocess.run(["git", "-C", root, "config", "core.fsmonitor", script], check=True)
    for name in ("stages/__init__.py", "ruamel.py", "mlflow.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit\n")
    said = otmf("verify", "--line", root, code=1).stdout
    assert [line for line in said.splitlines() if line.startswith("BAD")] == [
        line for line in said.splitlines() if line.startswith("BAD git configuration: core.fsmonitor: expected none")
    ]
    covered = next(line for line in said.splitlines() if line.startswith("not covered: "))
    assert "mlflow.py, ruamel.py, stages/__init__.py, .git/config" in covered
    otmf("status", "--line", root)
    otmf("audit", "v2", "--output", tmp_path / "audit", "--line", root, code=1)
    otmf("export", tmp_path / "export", "--line", root)
    assert not ran.exists()
    (root / ".otmf/audit-v2").symlink_to(tmp_path)
    assert "received the link .otmf/audit-v2" in otmf("status", "--line", root, code=1).stderr


def test_ledger_that_nobody_signed_is_none_of_the_auditors(otmf, root, tmp_path) -> None:
    key = next((root / ".otmf/keys").glob("*.pub"))
    plain = makers.line(tmp_path / "plain")
    otmf("onboard", makers.card(tmp_path / "cards", "only"), "--line", plain)
    said = otmf("verify", "--line", plain, "--unsigned", "--key", key, code=1).stdout
    assert "BAD a key you trust: expected a record that names a key you trust" in said
    assert (
        "BAD signature of 000001.json: unsigned: expected a signature; received 1 of 1 records without one; pass --unsigned"
        in otmf("verify", "--line", plain, code=1).stdout
    )
    assert "unsigned" in otmf("verify", "--unsigned", "--line", plain).stdout
    assert "The ledger is unsigned" in otmf("keys", "show", "--line", plain).stdout
    said = otmf("verify", "v1", "--unsigned", "--line", plain, "--bundle", tmp_path / "v1", code=1).stderr
    assert "expected a ledger that a key signs" in said
    assert not (tmp_path / "v1").exists()


def test_bundle_with_records_from_before_the_first_key_is_checked_as_it_says(otmf, tmp_path) -> None:
    plain = makers.line(tmp_path / "plain")
    otmf("onboard", makers.card(tmp_path / "cards", "only"), "--line", plain)
    otmf("keys", "new", "--reason", "late", "--line", plain)
    said = otmf("verify", "v1", "--unsigned", "--line", plain, "--bundle", tmp_path / "v1").stdout
    assert "python -I v1/verify.py KEY.pub --unsigned" in said
    assert "python -I verify.py KEY.pub --unsigned" in (tmp_path / "v1/README.md").read_text()
    public = next((plain / ".otmf/keys").glob("*.pub"))
    run = [sys.executable, "-I", tmp_path / "v1/verify.py", public]
    done = subprocess.run([*run, "--unsigned"], capture_output=True, text=True, check=False)
    assert "proved: line plain, v1, task only" in done.stdout
    without = subprocess.run(run, capture_output=True, text=True, check=False).stdout
    assert "000001.json is unsigned; --unsigned takes records from before the first key" in without


def test_what_may_change_between_records_is_named_and_does_not_fail(otmf, root) -> None:
    committed(root, "params.yaml")
    committed(root, "README.md", "about this line\n")
    git.run(root, "branch", "mine")
    git.run(root, "tag", "mine-too")
    (root / "notes.txt").write_text("mine")
    MlflowClient(tracking_uri=tracking.uri(layout.Layout(root))).set_model_version_tag("small", "1", "approved", "yes")
    said = otmf("verify", "--line", root).stdout.splitlines()[-2]
    assert said.startswith("not covered: ")
    named = said.removeprefix("not covered: ").split(", ")
    assert [one.split(" fetched ")[0] for one in named[6:8]] == ["registry: v1 is", "registry: v2 is"], "this is a copy"
    del named[6:8]
    assert named == [
        "heads mine",
        "tags mine-too",
        "README.md (since v2)",
        "params.yaml (since v2)",
        "notes.txt",
        ".git/config",
        "registry: v1: tags approved",
    ]


def test_line_of_another_user_is_not_called_damaged(otmf, root) -> None:
    done = otmf("verify", "--line", root, code=1, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert "BAD" not in done.stdout
    assert "detected dubious ownership in repository at" in done.stderr
    assert f"git config --global --add safe.directory {root}" in done.stderr
    said = otmf("status", "--line", root, code=1, GIT_TEST_ASSUME_DIFFERENT_OWNER="1").stderr
    assert f"git config --global --add safe.directory {root}" in said


def test_store_that_is_not_there_is_not_made_by_looking(otmf, root) -> None:
    shutil.rmtree(root / ".otmf/mlflow")
    assert "BAD registry: expected the tracking store" in otmf("verify", "--line", root, code=1).stdout
    assert not (root / ".otmf/mlflow").exists()


def test_another_key_signs_from_here_on_and_either_is_enough(otmf, root, tmp_path) -> None:
    old = keyring.trusted(layout.Layout(root), [])[0]
    otmf("keys", "new", "--reason", "ada has left", "--by", "grace", "--line", root)
    otmf("rollback", "--reason", "to see", "--line", root)
    line = layout.Layout(root)
    both = {key.keyid: key for key in keyring.trusted(line, [])}
    assert len(both) == 2
    for number, key in enumerate(both.values()):
        (tmp_path / f"{number}.pub").write_text(keys.pem(key))
        otmf("verify", "--line", root, "--key", tmp_path / f"{number}.pub")
    assert old.keyid in both
    stranger = keys.new(tmp_path / "stranger.pem").public_key
    (tmp_path / "stranger.pub").write_text(keys.pem(stranger))
    said = otmf("verify", "--line", root, "--key", tmp_path / "stranger.pub", code=1).stdout
    assert "expected a key you trust" in said


def test_without_the_private_key_nothing_is_decided(otmf, root) -> None:
    before = git.run(root, "rev-parse", "HEAD")
    folder = root / ".otmf/keys"
    folder.rename(root / ".otmf/elsewhere")
    said = otmf("rollback", "--reason", "to see", "--line", root, code=1).stderr
    assert "which signs this line's ledger, at" in said
    otmf("rollback", "--reason", "to see", "--line", root, OTMF_KEYS=str(root / ".otmf/elsewhere"))
    assert git.run(root, "rev-parse", "HEAD") != before
    next((root / ".otmf/elsewhere").glob("*.pem")).chmod(0o644)
    said = otmf("rollback", "--reason", "again", "--line", root, code=1, OTMF_KEYS=str(root / ".otmf/elsewhere")).stderr
    assert "expected a private key that its owner alone may read" in said


def test_version_that_never_was_is_refused(otmf, made) -> None:
    assert (
        "expected a version of this line (v1, v2); received v9" in otmf("verify", "v9", "--line", made, code=1).stderr
    )


def test_version_made_again_has_the_same_bytes(otmf, made) -> None:
    said = otmf("replay", "v2", "--step", "s02", "--line", made).stdout
    assert "8 outputs as recorded, 0 not" in said
    assert "not as it was made" not in said
    assert (
        "expected a step of v1 (s01); received 's02'"
        in otmf("replay", "v1", "--step", "s02", "--line", made, code=1).stderr
    )


def test_version_that_cannot_be_made_again_says_which_output_differs(otmf, root) -> None:
    path = next((root / "data/raw/second").glob("*.npz"))
    stored, data = cached(root, str(path.relative_to(root))), makers.arrays(seed=77)
    stored.chmod(0o644)
    np.savez(stored.with_suffix(".npz"), **data)
    stored.with_suffix(".npz").rename(stored)
    said = otmf("replay", "v2", "--step", "s02", "--line", root, code=1).stdout
    assert "other, apart by" in said
    assert "BAD" in said
