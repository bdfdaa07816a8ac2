"""What a pickle would do to its reader, found out by looking at its operations, none of which runs."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 64 << 20  # bytes of a model's structure, without its tensors
BROADEST = 10_000  # values within one tuple, those of the tuples in it counted each time
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")
_MARK = object()


def check(path: Path) -> None:
    """Refuses a file of torch.save that takes its reader far more time or memory than it is long.

    Raises:
        ValueError: if its pickle is damaged or too large; or its archive has files that are compressed, in another order of bytes, or
            there twice.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_archive(archive)
        return
    with path.open("rb") as stream:
        for _ in range(4):  # the older form: a mark, a version, the system, then the object
            check_operations(stream)


def check_archive(archive: zipfile.ZipFile) -> None:
    """As `check`, of an archive that is open. Raises ValueError likewise, or KeyError where there is no pickle."""
    files = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in files):
        raise ValueError("files that are compressed")
    if len({one.filename for one in files}) < len(files):
        raise ValueError("a file that is there twice")
    for one in files:
        if one.filename.endswith("byteorder") and archive.read(one) != b"little":
            raise ValueError("numbers in another order of bytes")
        if one.filename.endswith("data.pkl"):
            if one.file_size > LARGEST:
                raise ValueError("more than the structure of a model")
            with archive.open(one) as stream:
                check_operations(stream)


def check_operations(stream: BinaryIO) -> None:
    """Refuses a pickle with places in the memo that nothing takes, for all of which the reader makes room, or with tuples in
    tuples whose hash would take for ever."""
    stack: list[Any] = []
    memo: dict[int, int] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(stream)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if int(argument) > count:
                raise pickle.UnpicklingError("a memo with places that nothing takes")
            memo[int(argument)] = stack[-1]
        elif code.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif code.name == "MARK":
            stack.append(_MARK)
        elif code.name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _taken(code, stack)
            size = 1 + sum(taken) if code.name in _TUPLES else 1
            if size > BROADEST:
                raise pickle.UnpicklingError("tuples in tuples without end")
            stack.extend([size] * len(code.stack_after))


def _taken(code: pickletools.OpcodeInfo, stack: list[Any]) -> list[int]:
    """Takes from the stack what an operation takes: the sizes of that."""
    taken: list[int] = []
    before = list(code.stack_before)
    if pickletools.markobject in before:
        while (one := stack.pop()) is not _MARK:
            taken.append(one)
        before = before[: before.index(pickletools.markobject)]
    return taken + [one for one in (stack.pop() for _ in before) if one is not _MARK]
