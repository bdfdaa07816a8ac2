"""Names of lines, tasks and methods: safe as a file, a stage and a parameter."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

MAX_NAME_LENGTH = 40
_SLUG = re.compile(rf"[a-z][a-z0-9_-]{{0,{MAX_NAME_LENGTH - 1}}}\Z")
RESERVED_NAMES = ("pretrained", "compare", "retrain", "rollback")


def check_slug(name: str) -> str:
    """The name itself, if it is safe as a file, stage and parameter name; raises ValueError otherwise."""
    if not _SLUG.match(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(
            f"expected a name of at most {MAX_NAME_LENGTH} lower-case letters, digits, - and _ that starts "
            f"with a letter; received {shown!r}; rename it"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"expected a name other than {', '.join(RESERVED_NAMES)}; received {name!r}; rename it")
    return name


Slug = Annotated[str, AfterValidator(check_slug)]
