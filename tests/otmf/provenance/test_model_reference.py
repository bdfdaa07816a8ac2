"""References to a version: what may stand in one, and that no password gets into it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from otmf.provenance.model_reference import Reference, address

SOUND = {
    "repository": "https://example.org/team/line.git",
    "commit": "c" * 40,
    "version": 3,
    "step": "s03",
    "files": {"params.yaml": "a" * 64, "data/models/merged/s03/model.safetensors": "b" * 64},
    "record": "000007.json",
    "record_sha256": "d" * 64,
}


@pytest.mark.parametrize(
    "repository",
    ["/srv/lines/photos", "git@example.org:team/line.git", "gitserver:models/line.git", "ssh://git@example.org/line", "git+ssh://host/x",
     "file:///srv/line", "http://127.0.0.1:8000/x.git", "http://[::1]:8000/x.git"],
)  # fmt: skip
def test_repositories_that_git_knows_are_taken(repository) -> None:
    assert Reference(**SOUND | {"repository": repository}).repository == repository


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("repository", "ext::sh -c true"),
        ("repository", "--upload-pack=touch /tmp/x"),
        ("repository", "ssh://-oProxyCommand=true/x"),
        ("repository", "-oProxyCommand=true@host:x"),
        ("repository", "ssh://-oProxyCommand=true@host/x"),
        ("repository", "-v@host:x"),
        ("repository", "-v:x"),
        ("repository", "http://[::1/x"),
        ("repository", "ssh://git:secret@host/x"),
        ("repository", "../line.git"),
        ("repository", "lines/photos"),
        ("repository", "https://ada:secret@example.org/line.git"),
        ("repository", "/srv/line\n"),
        ("repository", ""),
        ("commit", "main"),
        ("commit", "--output=x"),
        ("version", 0),
        ("step", "../s03"),
        ("files", {}),
        ("files", {"params.yaml": "a" * 64}),
        ("files", {f"data/{number}": "a" * 64 for number in range(2000)}),
        ("files", {"../params.yaml": "a" * 64}),
        ("files", {"/etc/passwd": "a" * 64}),
        ("files", {"data//x": "a" * 64}),
        ("files", {".git/config": "a" * 64}),
        ("files", {"params.yaml": "short"}),
        ("record", "../000007.json"),
        ("more", 1),
    ],
)
def test_what_leads_elsewhere_is_refused(key, value) -> None:
    with pytest.raises(ValidationError) as caught:
        Reference(**SOUND | {key: value})
    assert key in str(caught.value) or "expected data/models/merged" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("https://ada:secret@example.org:8443/line.git", "https://example.org:8443/line.git"),
        ("https://token@example.org/line.git", "https://example.org/line.git"),
        ("https://example.org/line.git", "https://example.org/line.git"),
        ("git@example.org:team/line.git", "git@example.org:team/line.git"),
        ("/srv/a@b", "/srv/a@b"),
        ("ssh://git:secret@example.org/line.git", "ssh://git@example.org/line.git"),
        ("http://[::1/x", "http://[::1/x"),
    ],
)
def test_address_has_no_password(given, wanted) -> None:
    assert address(given) == wanted
