"""`python -m stages NAME [KEY]`: runs one stage in the current folder, in a warm interpreter where one is waiting."""

from __future__ import annotations

import os
import sys

from otmf.runtime import environment, errors, processes
from stages.context import run
from stages.warm import interpreter

REFUSES = "OTMF_REFUSES"  # stages that a coordinator leaves to agents


def main() -> int:
    processes.die_with_parent()
    if len(sys.argv) < 2 or sys.argv[1] not in run.MODULES:
        print(
            f"expected a stage ({', '.join(run.MODULES)}); received {sys.argv[1:2] or 'none'}; see dvc.yaml",
            file=sys.stderr,
        )
        return 2
    owner = os.environ.get(processes.STARTED_BY, "")
    if owner.isdecimal() and processes.outlived(int(owner)):
        print(
            f"otmf: {sys.argv[1]}: expected the process that asked for it; received none, it has ended; run it again",
            file=sys.stderr,
        )
        return errors.TEMPORARY
    if sys.argv[1].replace("_", "-") in os.environ.get(REFUSES, "").split(","):
        print(
            f"otmf: expected the outputs of {' '.join(sys.argv[1:])} from an agent; received none in the DVC remote; this machine is "
            "not to compute them: start an agent",
            file=sys.stderr,
        )
        return errors.TEMPORARY
    socket = os.environ.get(environment.WARM)
    if socket:
        code = interpreter.forward(socket, sys.argv[1:])
        if code is not None:
            return code
    return run.stage(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
