from __future__ import annotations

import sys
import time

import pytest
import torch

from stages.bench import measurement

CPU = torch.device("cpu")
MIB = 2**20


def blocks(mib: int) -> list[bytearray]:
    """Memory in pieces that come from the heap, each page written."""
    return [bytearray(b"x") * (MIB // 16) for _ in range(16 * mib)]


def test_seconds_are_those_of_what_is_done_inside() -> None:
    with measurement.measured(CPU) as cost:
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say it elsewhere")
def test_memory_that_was_freed_before_counts_where_it_is_used_again() -> None:
    freed = blocks(64)
    pin = blocks(1)  # above it, so that the heap does not shrink by itself
    del freed
    with measurement.measured(CPU) as cost:
        used = blocks(32)
        del used
    del pin
    assert 30 < cost.added_mib < 40
    assert cost.peak_mib > cost.added_mib
