"""`python -m stages.warm.dvc ARGUMENTS`: DVC in a warm interpreter where one is waiting, else as always."""

from __future__ import annotations

import os
import sys

from otmf.runtime import environment
from stages.warm import interpreter


def main() -> int:
    socket = os.environ.get(environment.WARM)
    code = interpreter.forward(socket, [interpreter.DVC, *sys.argv[1:]]) if socket else None
    if code is None:
        os.execv(sys.executable, [sys.executable, "-m", "dvc", *sys.argv[1:]])
    return code


if __name__ == "__main__":
    sys.exit(main())
