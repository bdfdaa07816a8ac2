"""Contents of a repository, as git itself would show them."""

from __future__ import annotations

import subprocess

import pytest

from flows import git, process


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
