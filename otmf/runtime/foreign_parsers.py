"""The border to parsers of others: whatever they raise over a file is that file's fault, and one sentence."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

# What the machine fails, not the file: it may succeed later.
_SURROUNDINGS = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE,
}  # fmt: skip
LONGEST = 200  # characters of a parser's own words


@contextlib.contextmanager
def reading(refusal: Callable[[str], Exception], *, ours: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns whatever a parser raises in the body into a refusal; errors of ours, and of the machine, stay what they are.

    Args:
        refusal: the error for a reason.
        ours: errors that are sentences already.

    No list of exceptions would do: parsers of YAML, archives, pictures, tables and pickles raise KeyError, IndexError, OverflowError,
    tokenize.TokenError, struct.error and more over bytes that nobody thought of.
    """
    try:
        yield
    except ours:
        raise
    except OSError as error:
        if error.errno in _SURROUNDINGS:
            raise
        raise refusal(reason(error)) from error
    except Exception as error:
        raise refusal(reason(error)) from error


def reason(error: BaseException) -> str:
    """What a parser said, on one line, or what it must have met where it said nothing a person could read."""
    said = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "a number in it is too large"
    if isinstance(error, LookupError | AttributeError | TypeError | AssertionError):
        return f"something in it cannot be read{f' ({said})' if said else ''}"
    return said or "something in it cannot be read"


def kind(document: object) -> str:
    """What a document is, for a person."""
    kinds = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "a truth value",
        int | float: "a number",
        type(None): "nothing",
    }
    return next((said for one, said in kinds.items() if isinstance(document, one)), "something else")
