"""Contents of a repository, as git itself would show them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.programs import git, process


@pytest.fixture
def repository(tmp_path):
    git.run(tmp_path, "init", "--quiet", "--initial-branch", "main")
    commit(tmp_path, {"a.txt": b"one\n", "deep/er/b.bin": bytes(range(256)), "deep/with space.txt": b""})
    commit(tmp_path, {"deep/c.txt": b"two\n\n", "näme.txt": b"three"})
    git.run(tmp_path, "tag", "second")
    return tmp_path


def commit(root, files) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git.run(root, "add", "--all")
    git.run(root, "commit", "--quiet", "--message", "more")


def test_trees_and_contents_are_those_of_git(repository) -> None:
    with git.Objects(repository) as objects:
        for revision in ("HEAD", "HEAD^", "refs/tags/second"):
            listed = git.run(repository, "ls-tree", "-r", "-z", "--full-tree", revision).split("\0")[:-1]
            assert objects.tree(revision) == {
                path: about.split()[2] for about, path in (one.split("\t") for one in listed)
            }
            for path, name in objects.tree(revision).items():
                assert objects.blob(name) == (repository / path).read_bytes()
                assert git.name(objects.blob(name)) == name


def test_commits_are_told_with_the_one_before(repository) -> None:
    first, last = git.run(repository, "rev-list", "--reverse", "HEAD").split()
    with git.Objects(repository) as objects:
        assert objects.commit("refs/tags/second") == (last, first)
        assert objects.commit(first) == (first, "")


def test_what_a_replacement_would_show_is_not_shown(repository) -> None:
    with git.Objects(repository) as objects:
        tree = objects.tree("HEAD")
        git.run(repository, "replace", tree["a.txt"], tree["deep/c.txt"])
        assert subprocess.check_output(["git", "cat-file", "blob", tree["a.txt"]], cwd=repository) == b"two\n\n"
        assert objects.blob(tree["a.txt"]) == b"one\n"
    with git.Objects(repository) as objects:
        assert objects.blob(tree["a.txt"]) == b"one\n"


@pytest.mark.parametrize("name", ["0" * 40, "refs/tags/third", "HEAD\nHEAD", "a b", ""])
def test_what_is_not_there_is_an_error_and_the_next_is_read(repository, name) -> None:
    with git.Objects(repository) as objects:
        with pytest.raises(process.ProcessError, match="^expected blob|^expected the name of a blob"):
            objects.blob(name)
        with pytest.raises(process.ProcessError, match="received a tree"):
            objects.blob("HEAD:deep")
        assert objects.blob("HEAD:a.txt") == b"one\n"


def test_object_that_git_cannot_read_is_an_error_and_the_next_is_read(repository) -> None:
    with git.Objects(repository) as objects:
        name = objects.tree("HEAD")["a.txt"]
    path = repository / ".git/objects" / name[:2] / name[2:]
    path.chmod(0o644)
    path.write_bytes(b"nothing that git wrote")
    with git.Objects(repository) as objects:
        with pytest.raises(process.ProcessError, match=f"blob {name}"):
            objects.blob(name)
        assert objects.blob("HEAD:deep/c.txt") == b"two\n\n"


def test_parents_that_a_graft_would_give_are_not_followed(repository) -> None:
    last = git.run(repository, "rev-parse", "HEAD").strip()
    git.run(repository, "checkout", "--quiet", "--orphan", "other")
    git.run(repository, "commit", "--quiet", "--message", "apart")
    alone = git.run(repository, "rev-parse", "HEAD").strip()
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/grafts").write_text(f"{alone} {last}\n")
    with git.Objects(repository) as objects:
        assert objects.history() == {alone}


def test_command_that_the_folder_names_for_what_is_missing_is_not_run(repository, tmp_path_factory) -> None:
    ran = tmp_path_factory.mktemp("elsewhere") / "ran"
    with git.Objects(repository) as objects:
        name = objects.tree("HEAD")["a.txt"]
    (repository / ".git/objects" / name[:2] / name[2:]).unlink()
    for key, value in (
        ("core.repositoryformatversion", "1"),
        ("extensions.partialClone", "there"),
        ("remote.there.url", str(repository / "nothing")),
        ("remote.there.promisor", "true"),
        ("remote.there.uploadpack", f"touch {ran};false"),
    ):
        git.run(repository, "config", key, value)
    with git.Objects(repository) as objects, pytest.raises(process.ProcessError):
        objects.blob(name)
    assert not ran.exists()
    subprocess.run(["git", "cat-file", "blob", name], cwd=repository, capture_output=True, check=False)
    assert ran.exists(), "git itself would have run it"


def script(folder, name: str) -> tuple[Path, Path]:
    """A program that leaves a mark, and its mark."""
    mark, program = folder / f"{name}.ran", folder / f"{name}.sh"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    return program, mark


EVERYTHING = (
    ("add", "--all"),
    ("status", "--porcelain"),
    ("diff", "--name-only"),
    ("commit", "--quiet", "--message", "one more"),
    ("log", "-1", "--format=%b"),
    ("show", "--no-patch", "--format=%cI"),
    ("checkout", "--quiet", "-B", "main", "HEAD"),
    ("tag", "third"),
)
FILTERS = ("filter.x.clean", "filter.x.smudge", "filter.x.process")
KEYS = (
    *FILTERS,
    "core.fsmonitor",
    "core.sshCommand",
    "core.pager",
    "core.editor",
    "core.askPass",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "diff.external",
    "diff.x.textconv",
    "diff.x.command",
    "merge.x.driver",
    "credential.helper",
    "credential.https://example.org.helper",
    "gpg.program",
    "sequence.editor",
    "remote.origin.uploadpack",
    "remote.origin.receivepack",
    "pager.log",
    "interactive.diffFilter",
)


@pytest.mark.parametrize("key", KEYS)
def test_command_that_a_line_names_is_not_run_but_told(repository, tmp_path_factory, key) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    program, mark = script(folder, "evil")
    subprocess.run(["git", "clone", "--quiet", "--bare", repository, folder / "bare"], check=True)
    for name, value in (("remote.origin.url", str(folder / "bare")), ("filter.x.required", "true"),
                        ("commit.gpgSign", "true"), ("log.showSignature", "true"), (key, str(program))):  # fmt: skip
        subprocess.run(["git", "config", name, value], cwd=repository, check=True)
    (repository / ".gitattributes").write_text("* filter=x diff=x merge=x\n")
    (repository / "deep/c.txt").write_text("other\n")
    for arguments in EVERYTHING:
        git.run(repository, *arguments)
    git.run(repository, "fetch", "--quiet", "origin")
    git.run(repository, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git.run(repository, "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(folder / "clone"))
    git.run(folder / "clone", "checkout", "--quiet", "-B", "main", "HEAD")
    assert not mark.exists()
    assert [found.lower() for found in git.commands(repository)] == [key.lower()]


def test_hooks_are_not_run(repository, tmp_path_factory) -> None:
    program, mark = script(tmp_path_factory.mktemp("elsewhere"), "evil")
    for name in ("pre-commit", "post-commit", "post-checkout", "reference-transaction", "post-index-change"):
        (repository / ".git/hooks").mkdir(exist_ok=True)
        (repository / ".git/hooks" / name).symlink_to(program)
    (repository / "deep/c.txt").write_text("other\n")
    for arguments in EVERYTHING:
        git.run(repository, *arguments)
    assert not mark.exists()


def test_address_that_is_a_command_is_refused(repository, tmp_path_factory) -> None:
    program, mark = script(tmp_path_factory.mktemp("elsewhere"), "evil")
    subprocess.run(["git", "config", "protocol.ext.allow", "always"], cwd=repository, check=True)
    git.run(repository, "remote", "add", "origin", f"ext::{program}")
    with pytest.raises(process.ProcessError, match="transport 'ext' not allowed"):
        git.run(repository, "fetch", "origin")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("core.worktree", "/tmp"), ("url./elsewhere.insteadOf", "/here"), ("remote.origin.vcs", "other")],
)
def test_settings_that_lead_git_elsewhere_are_refused_and_named(repository, key, value) -> None:
    subprocess.run(["git", "config", key, value], cwd=repository, check=True)
    with pytest.raises(process.ProcessError, match=f"expected no {key.lower()} in the git configuration of"):
        git.run(repository, "status")


def test_setting_in_a_file_that_the_lines_settings_include_is_not_followed(repository, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    program, mark = script(folder, "evil")
    (folder / "more").write_text(f'[filter "x"]\n\tclean = {program}\n')
    subprocess.run(["git", "config", "include.path", folder / "more"], cwd=repository, check=True)
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/attributes").write_text("[attr]y filter=x\n*.txt y")
    (repository / "deep/c.txt").write_text("other\n")
    git.run(repository, "add", "--all")
    assert not mark.exists()
    assert git.commands(repository) == ["include.path", "filter.x.clean"]
    assert (repository / ".git/info/attributes").read_text().startswith("[attr]y filter=x\n*.txt y\n* -text")


CRLF = b"one\r\ntwo\n$Id$\r\n"


@pytest.mark.parametrize(
    "attributes",
    ["* text=auto eol=crlf", "* text eol=lf", "* crlf=input", "* ident", "* working-tree-encoding=UTF-16", "* text"],
)
def test_bytes_in_git_are_the_bytes_on_disk(repository, tmp_path_factory, monkeypatch, attributes) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    (home / ".gitconfig").write_text(
        "[core]\n\tautocrlf = true\n\tattributesFile = ~/more\n\texcludesFile = ~/ignored\n"
    )
    (home / "more").write_text("* text\n")
    (home / "ignored").write_text("*.txt\n")
    commit(repository, {".gitattributes": attributes.encode(), "x.txt": CRLF, "deep/y.txt": CRLF})
    with git.Objects(repository) as objects:
        assert {objects.blob(objects.tree("HEAD")[path]) for path in ("x.txt", "deep/y.txt")} == {CRLF}
    git.run(repository, "clone", "--quiet", "--no-checkout", str(repository), str(home / "clone"))
    git.run(home / "clone", "checkout", "--quiet", "-B", "main", "HEAD")
    assert (home / "clone/x.txt").read_bytes() == CRLF
    assert git.run(home / "clone", "status", "--porcelain") == ""


def test_what_a_replacement_would_show_is_not_checked_out(repository, tmp_path_factory) -> None:
    with git.Objects(repository) as objects:
        tree = objects.tree("HEAD")
    git.run(repository, "replace", tree["a.txt"], tree["deep/c.txt"])
    clone = tmp_path_factory.mktemp("clone") / "clone"
    git.run(repository, "clone", "--quiet", "--shared", str(repository), str(clone))
    assert (clone / "a.txt").read_bytes() == b"one\n"


def test_repository_inside_the_line_is_refused(repository, tmp_path_factory) -> None:
    program, mark = script(tmp_path_factory.mktemp("elsewhere"), "evil")
    inside = repository / "deep/inside"
    inside.mkdir()
    git.run(inside, "init", "--quiet")
    commit(inside, {"x.txt": b"x"})
    subprocess.run(["git", "config", "core.fsmonitor", program], cwd=inside, check=True)
    git.run(repository, "add", "--all")
    with pytest.raises(process.ProcessError, match="received a git repository at deep/inside; take it out"):
        git.run(repository, "commit", "--message", "more")
    with pytest.raises(process.ProcessError, match="expected files alone in the line"):
        git.run(repository, "status")
    assert not mark.exists()


def test_what_the_user_set_for_all_folders_reaches_git(repository, tmp_path_factory, monkeypatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text(
        '[user]\n\tname = Ada \\"the first\\" \\\\ L\n\temail = ada@example.org\n[commit]\n\tgpgSign = true\n[core]\n\tsshCommand = ssh -i key\n'
        '[credential "https://example.org"]\n\thelper =\n\thelper = mine\n[alias]\n\tx = !false\n[safe]\n\tdirectory = /a b\n\tdirectory = *\n'
    )
    subprocess.run(["git", "config", "credential.helper", "theirs"], cwd=repository, check=True)
    subprocess.run(["git", "config", "core.sshCommand", "theirs"], cwd=repository, check=True)
    commit(repository, {"x.txt": b"x"})
    assert git.run(repository, "log", "-1", "--format=%an <%ae>").strip() == 'Ada "the first" \\ L <ada@example.org>'
    told = git.run(repository, "config", "--list", "--show-scope")
    assert "alias" not in told
    assert "gpgsign=true" not in told
    assert [line.split("\t")[1] for line in told.splitlines() if "safe.directory" in line] == [
        "safe.directory=/a b",
        "safe.directory=*",
    ]
    assert git.run(repository, "config", "core.sshCommand").strip() == "ssh -i key"
    helpers = [line.split("\t")[1] for line in told.splitlines() if ".helper" in line]
    reset = helpers.index("credential.helper=")
    assert helpers[reset + 1 :] == [
        "credential.https://example.org.helper=",
        "credential.https://example.org.helper=mine",
    ]


def test_folder_of_another_user_is_told_with_gits_own_remedy(repository, tmp_path_factory, monkeypatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    said = "detected dubious ownership in repository at '.+'; if you trust its owner, run `git config --global --add safe.directory .+`"
    with pytest.raises(process.ProcessError, match=said):
        git.run(repository, "status")
    with git.Objects(repository) as objects, pytest.raises(process.ProcessError, match=said):
        objects.require()
    subprocess.run(["git", "config", "--global", "--add", "safe.directory", repository], check=True)
    assert git.run(repository, "status", "--porcelain") == ""
    with git.Objects(repository) as objects:
        objects.require()


def test_folder_without_a_repository_is_not_taken_for_part_of_the_one_above(repository) -> None:
    with pytest.raises(process.ProcessError, match="not a git repository"):
        git.run(repository / "deep", "status")


def test_object_that_lies_in_the_place_of_another_is_an_error(repository) -> None:
    """A tree in the place of one below it would be within itself."""
    names = [
        git.run(repository, "rev-parse", f"HEAD:{path}").strip() for path in ("deep", "deep/er", "a.txt", "deep/c.txt")
    ]
    places = [repository / ".git/objects" / name[:2] / name[2:] for name in names]
    for place in places:
        place.chmod(0o644)
    places[1].write_bytes(places[0].read_bytes())
    places[2].write_bytes(places[3].read_bytes())
    with git.Objects(repository) as objects:
        for read in (lambda: objects.tree("HEAD"), lambda: objects.blob(names[2])):
            with pytest.raises(
                process.ProcessError, match=r"received another content; run git fsck|received none|missing"
            ):
                read()
