"""What git is told before it works in a line: nothing that the line's own settings or attributes name is run or changes a byte.

Git reads settings from four places. From the machine's and the user's files it is handed only who the user is, whom they trust and
how they reach remotes. A line's own file is read by git itself, so what names a command there is overridden.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.programs.process import ProcessError

_FIXED = {
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "push.gpgSign": "false",
    "log.showSignature": "false",
    "merge.verifySignatures": "false",
    "gpg.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.commitGraph": "false",  # a file that may say other parents than the commits do
    "core.multiPackIndex": "false",
    "merge.default": "text",
    "rerere.enabled": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.prune": "false",
    "push.recurseSubmodules": "no",
    "push.followTags": "false",
    "color.ui": "false",
}


def _as_environment(settings: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for place, (key, value) in enumerate(settings):
        found |= {f"GIT_CONFIG_KEY_{place}": key, f"GIT_CONFIG_VALUE_{place}": value}
    return found


_QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",  # by a command that the folder names
    "GIT_PROXY_COMMAND": os.environ.get("GIT_PROXY_COMMAND", ""),
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_PAGER": "cat",
    "LC_ALL": "C.UTF-8",  # what it says is read
    "LANGUAGE": "",
}
# For processes that may start a git of their own and need nothing of the user's: no identity, no way to a remote.
SETTINGS = {
    **_QUIET,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ALLOW_PROTOCOL": os.environ.get("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
    **_as_environment([*_FIXED.items()]),
}
# The last word on attributes, in .git/info/attributes: no conversion of line ends or encodings, no filter, git's own merge.
ATTRIBUTES = "* -text !eol !crlf -ident -filter !working-tree-encoding !merge !diff !conflict-marker-size\n"

_PASSED_ON = re.compile(
    r"(user|author|committer)\.(name|email)|safe\.(directory|barerepository)|credential\..+|core\.(sshcommand|askpass)"
    r"|ssh\.variant|https?\..+|url\..+\.(insteadof|pushinsteadof)"
)
_OWN = ("local", "worktree")  # scopes that lie in the folder
# Settings of a line under which git would run what they name, or work elsewhere.
_NAMES_A_COMMAND = re.compile(
    r"core\.(sshcommand|askpass|editor|pager|gitproxy|hookspath|fsmonitor|alternaterefscommand|worktree|attributesfile)"
    r"|(filter\..+\.(clean|smudge|process))|(diff\.external)|(diff\..+\.(command|textconv))|(merge\..+\.driver)"
    r"|credential\.(.+\.)?helper|gpg\.(.+\.)?program|gpg\.ssh\.defaultkeycommand|remote\..+\.(uploadpack|receivepack|vcs)"
    r"|url\..+\.(insteadof|pushinsteadof)|include\.path|includeif\..+\.path|pager\..+|sequence\.editor|interactive\.difffilter"
    r"|trailer\..+\.(command|cmd)|(difftool|mergetool|guitool|browser|man)\..+\.(cmd|path)|protocol\.(.+\.)?allow"
    r"|uploadpack\.packobjectshook|web\.browser|sendemail\..+|instaweb\..+"
)
_REFUSED = re.compile(r"core\.worktree|url\..+\.(insteadof|pushinsteadof)|remote\..+\.vcs")


_SUBMODULE = {"core.worktree": ", or, if the line is a submodule, clone it by itself"}


@dataclass(frozen=True)
class Setting:
    """One setting: where it stands (system, global, local, worktree, command), its key with section and name in small letters, its value."""

    scope: str
    key: str
    value: str


def parse(listing: str) -> list[Setting]:
    """Settings as `git config --list --show-scope -z` says them."""
    parts = listing.split("\0")[:-1]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [Setting(scope, *_entry(entry)) for scope, entry in pairs]


def commands(settings: Sequence[Setting]) -> list[str]:
    """Keys of the folder's own settings that name a command or lead git elsewhere, each once."""
    found = (one for one in settings if one.scope in _OWN)
    named = [one.key for one in found if _names_a_command(one)]
    return list(dict.fromkeys(named))


def refuse(folder: Path, settings: Sequence[Setting]) -> None:
    """Refuses a folder whose own settings lead git elsewhere in a way that cannot be overridden. Raises ProcessError."""
    found = next((one.key for one in settings if one.scope in _OWN and _REFUSED.fullmatch(one.key)), None)
    if found is not None:
        raise ProcessError(
            f"expected no {found} in the git configuration of {folder}; received one, which leads git elsewhere; remove it with "
            f"`git config --unset-all {shlex.quote(found)}`"
            + _SUBMODULE.get(found, ", or set it in your global configuration")
        )


def environment(settings: Sequence[Setting]) -> dict[str, str]:
    """The environment of a git in a folder with these settings."""
    passed = [one for one in settings if one.scope not in _OWN and _PASSED_ON.fullmatch(one.key)]
    own = [one for one in settings if one.scope in _OWN]
    over = [*_FIXED.items(), *_overriding(own, passed)]
    return {
        **SETTINGS,
        **_as_environment(over),
        "GIT_CONFIG_GLOBAL": _file(tuple((one.key, one.value) for one in passed)),
    }


def is_set(settings: Sequence[Setting], key: str) -> bool:
    """Whether a setting is there that a git of ours reads."""
    return any(
        one.key == key and one.value.strip() and (one.scope in _OWN or _PASSED_ON.fullmatch(key)) for one in settings
    )


def _names_a_command(one: Setting) -> bool:
    if one.key == "core.fsmonitor":
        return one.value.lower() not in ("", "true", "false", "yes", "no", "on", "off", "0", "1")
    shell = one.key.startswith("alias.") or (one.key.startswith("submodule.") and one.key.endswith(".update"))
    return one.value.startswith("!") if shell else bool(_NAMES_A_COMMAND.fullmatch(one.key))


def _overriding(own: Sequence[Setting], passed: Sequence[Setting]) -> list[tuple[str, str]]:
    """What takes the place of a folder's own settings that git would run."""
    users = {one.key: one.value for one in passed}
    found: dict[str, str] = {}
    for key in (one.key for one in own):
        section, name = key.partition(".")[0], key.rpartition(".")[2]
        if section == "filter":
            found[key] = "false" if name == "required" else ""
        elif key == "core.sshcommand":
            found[key] = users.get(key) or shlex.quote(os.environ.get("GIT_SSH") or "ssh")
        elif key == "core.askpass":
            found[key] = users.get(key, "")
        elif key == "core.alternaterefscommand":
            found[key] = "true"
    if any(one.key.startswith("credential.") for one in own):  # an empty helper lets go of all before it
        helpers = [(one.key, one.value) for one in passed if one.key.startswith("credential.")]
        return [*found.items(), ("credential.helper", ""), *helpers]
    return [*found.items()]


def _entry(entry: str) -> tuple[str, str]:
    key, _, value = entry.partition("\n")
    section, _, rest = key.partition(".")
    middle, dot, name = rest.rpartition(".")
    return f"{section.lower()}.{middle}{dot}{name.lower()}", value


@functools.cache
def _file(settings: tuple[tuple[str, str], ...]) -> str:
    """A file with settings, which ends with this process: a git that is started by git reads it too, and trusts it as the user's own."""
    if not settings:
        return os.devnull
    folder = tempfile.mkdtemp(prefix="otmf-git-")
    atexit.register(_remove, folder, os.getpid())
    path = Path(folder) / "config"
    path.touch(mode=0o600)
    path.write_text("".join(_lines(settings)), encoding="utf-8", errors="surrogateescape")
    return str(path)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def _lines(settings: tuple[tuple[str, str], ...]) -> list[str]:
    """Settings as git writes them into a file."""
    found = []
    for key, value in settings:
        section, _, rest = key.partition(".")
        middle, dot, name = rest.rpartition(".")
        title = f'[{section} "{_quoted(middle)}"]' if dot else f"[{section}]"
        said = _quoted(value).replace("\n", "\\n").replace("\t", "\\t")
        found.append(f'{title}\n\t{name} = "{said}"\n')
    return found


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def author(settings: Sequence[Setting], environment: Mapping[str, str]) -> dict[str, str]:
    """A name and an address for commits, where nobody gave one."""
    fallback = {"NAME": "otmf", "EMAIL": "otmf@localhost"}
    return {
        f"GIT_{role}_{part}": environment.get(f"GIT_{role}_{part}") or value
        for part, value in fallback.items()
        if not is_set(settings, f"user.{part.lower()}")
        for role in ("AUTHOR", "COMMITTER")
    }
