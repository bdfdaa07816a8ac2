"""YAML of people, as plain objects: what does not read is refused with the line that it stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import Node, ScalarNode

from otmf.runtime import foreign_parsers


def loads(text: str, refusal: Callable[[str], Exception], *, load: Callable[[str], Any] | None = None) -> Any:
    """What a YAML text says.

    Args:
        text: of a card or a file of parameters; nobody checked it.
        refusal: the error for a reason.
        load: reads the text; a reader of plain objects otherwise.

    Raises:
        whatever `refusal` makes, if the text does not read, in whichever way.
    """
    try:
        return (load or YAML(typ="safe", pure=True).load)(text)
    except MarkedYAMLError as error:
        raise refusal(_marked(error)) from error
    except Exception as error:  # KeyError, IndexError, OverflowError and others, over a value that its tag does not fit
        raise refusal(unreadable_value(text) or foreign_parsers.reason(error)) from error


def _marked(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" on line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{error.problem or error.context or 'something that is no YAML'}{place}"


def unreadable_value(text: str) -> str | None:
    """The first value that cannot be read by itself, such as `!!bool maybe`, and its line; None if no single value is at fault."""
    with contextlib.suppress(
        Exception
    ):  # a text without a tree of values has no such value; the parser names the line itself
        left = [YAML(typ="safe", pure=True).compose(text)]
        while left:
            node = left.pop()
            if isinstance(node, ScalarNode):
                if not _reads(node):
                    value = node.value if len(node.value) <= 40 else node.value[:37] + "..."
                    return f"{value!a} on line {node.start_mark.line + 1}, which cannot be read as {_kind(node)}"
            elif node is not None:
                parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
                left.extend(reversed(parts))
    return None


def _reads(node: ScalarNode) -> bool:
    try:
        YAML(typ="safe", pure=True).constructor.construct_document(node)
    except Exception:
        return False
    return True


def _kind(node: Node) -> str:
    """A tag as people write it: `!!bool`."""
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")
