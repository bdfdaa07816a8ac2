"""What a request says: by which name it came, what it sends, and in which form. What does not hold is refused in a sentence."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from otmf.data import datasets
from otmf.runtime import strict_json
from stages.serving.answers import RefusedError
from stages.serving.limits import Limits

_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?"
)  # a name or an address and a port, nothing before or after
LOOPBACK = ("localhost", "127.0.0.1", "::1")
JSON = "application/json"
PLAIN = {
    datasets.IMAGES: ("image/", "application/octet-stream"),
    datasets.TEXTS: ("text/plain", "application/octet-stream"),
}
LONGEST_NAME = 100


def require_names(headers: Mapping[bytes, bytes], reached: str, limits: Limits) -> None:
    """Refuses a request that came by another name than this server's: a page of somebody else's can have a browser send it.

    Args:
        headers: of the request.
        reached: the address on which the connection came in.
        limits: `hosts` are the names by which the server may be asked.
    """
    known = {*LOOPBACK, _plain(reached), *map(_plain, limits.hosts)}
    host, origin = headers.get(b"host"), headers.get(b"origin")
    if "*" in limits.hosts:
        return
    if host is not None and (_HOST.fullmatch(host) is None or _name(f"//{host.decode('latin-1')}") not in known):
        raise RefusedError(
            421,
            f"expected a request by a name of this server; received the host {_shown(host)}; start it with --allow-host and that name if it is one",
        )
    if origin is not None and _name(origin.decode("latin-1")) not in known:
        raise RefusedError(
            403,
            f"expected a request from a page of this server, or from a program; received the origin {_shown(origin)}; start it with --allow-host and that name to "
            "let it ask",
        )


def require_kind(headers: Mapping[bytes, bytes], kinds: Sequence[str]) -> None:
    """Refuses a body of another content type than the kinds, or of an encoding that would have to be undone first."""
    told = headers.get(b"content-type", b"").decode("latin-1")
    kind, *parameters = (part.strip().lower() for part in told.split(";"))
    charset = next((one.partition("=")[2].strip('"') for one in parameters if one.startswith("charset=")), "utf-8")
    if not any(kind == one or (one.endswith("/") and kind.startswith(one)) for one in kinds):
        wanted = " or ".join(f"{one}*" if one.endswith("/") else one for one in kinds)
        raise RefusedError(
            415,
            f"expected the content type {wanted}; received {_shown(told.encode()) if told else 'none'}; name what is sent",
        )
    if charset not in ("utf-8", "utf8", "us-ascii") and not kind.startswith(("image/", "application/octet")):
        raise RefusedError(415, f"expected UTF-8; received the character set {_shown(charset.encode())}; convert it")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError(415, "expected a body as it is; received one with a content encoding; send it without")


def asked(body: bytes, *, reads: str, most: int) -> tuple[str, list[bytes]]:
    """The task that a request of JSON names, and its inputs as the contents of files.

    Args:
        body: of the request.
        reads: what the encoder reads, `images` or `texts`.
        most: inputs of a request.
    """
    found = _document(body)
    unknown = [key for key in found if key not in ("task", datasets.IMAGES, datasets.TEXTS)]
    if unknown:
        raise _mistake(f"the key {_shown(unknown[0].encode('utf-8', 'replace'))}", f"send task and {reads} alone")
    task = found.get("task")
    if not isinstance(task, str) or len(task) > LONGEST_NAME or not _is_unicode(task):
        raise _mistake("no name of a task in it", "name one under task")
    given = {name: found[name] for name in (datasets.IMAGES, datasets.TEXTS) if found.get(name) is not None}
    if list(given) != [reads]:
        raise RefusedError(
            422,
            f"expected {reads}, which this line's encoder reads; received {' and '.join(given) or 'none'}; send those",
        )
    inputs = given[reads]
    if not isinstance(inputs, list) or not inputs:
        raise _mistake(f"{reads} that are no list, or an empty one", f"send a list of {reads}")
    wrong = next((number for number, one in enumerate(inputs, start=1) if not isinstance(one, str)), None)
    if wrong is not None:
        raise _mistake(f"{reads} of which number {wrong} is no text", "send each as a text")
    if len(inputs) > most:
        raise RefusedError(413, f"expected at most {most} {reads}; received {len(inputs)}; send several requests")
    return task, [(_file if reads == datasets.IMAGES else _text)(one, number) for number, one in enumerate(inputs, 1)]


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = strict_json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _mistake("bytes that are no UTF-8", "encode it so") from None
    except json.JSONDecodeError as error:
        raise _mistake(f"text that is no JSON from line {error.lineno}, column {error.colno} on", "mend it") from None
    except RecursionError:
        raise _mistake("a document of too many levels", "send task and inputs alone") from None
    except ValueError as error:  # a key that occurs twice, or a number with thousands of digits
        said = str(error)[:100] if "named twice" in str(error) else "a number with too many digits"
        raise _mistake(said, "send task and inputs alone, each once") from None
    if not isinstance(found, dict):
        raise _mistake("another document", "send an object with both")
    return found


def _mistake(received: str, advice: str) -> RefusedError:
    return RefusedError(422, f"expected JSON with task and inputs; received {received}; {advice}")


def _file(encoded: str, number: int) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(
            400, f"expected images in base64; received image {number}, which is not; encode the file as it is"
        ) from None


def _text(given: str, number: int) -> bytes:
    if not _is_unicode(given):
        raise _mistake(f"text {number} with half a character in it", "escape characters beyond U+FFFF by both halves")
    return given.encode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(address: str) -> str:
    """The host of an address, in lower case and without brackets; empty where there is none."""
    try:
        return _plain(urlsplit(address).hostname or "")
    except ValueError:
        return ""


def _plain(host: str) -> str:
    host = host.strip("[]").lower().removesuffix(".")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(found, "ipv4_mapped", None) or found)


def _shown(given: bytes) -> str:
    """At most sixty printable characters of what somebody sent."""
    return "".join(one if one.isprintable() else "?" for one in given[:60].decode("utf-8", "replace"))
