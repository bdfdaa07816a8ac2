"""What is kept of a task between the runs of a comparison."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from otmf import checkpoints
from stages.bench import expert_cache, measurement

EXPERT, INPUTS = {"weight": torch.ones(2, 3)}, np.arange(6).reshape(2, 3)


def test_it_is_computed_once_for_the_same_expert_inputs_and_settings(tmp_path) -> None:
    computed = []

    def recall(**other) -> torch.Tensor:
        asked = {"of": EXPERT, "inputs": INPUTS, "how": "features", **other}

        def compute() -> dict[str, torch.Tensor]:
            computed.append(asked)
            return {"found": torch.tensor([len(computed) / 3])}

        return expert_cache.Kept(tmp_path).recall(**asked, compute=compute)["found"]

    first = recall()
    assert torch.equal(recall(), first)
    assert len(computed) == 1
    others = [{"of": {"weight": torch.zeros(2, 3)}}, {"of": EXPERT | {"head": torch.ones(1)}}, {"inputs": INPUTS + 1},
              {"inputs": INPUTS.astype(np.int32)}, {"how": "curvature"}]  # fmt: skip
    found = [recall(**other) for other in others]
    assert len(computed) == 1 + len(others)
    assert not any(torch.equal(one, first) for one in found)


def test_seconds_that_reading_spares_are_told_until_they_are_forgotten(tmp_path) -> None:
    took = []

    def slow() -> dict[str, torch.Tensor]:
        begun = time.perf_counter()
        time.sleep(0.3)
        took.append(time.perf_counter() - begun)
        return {"found": torch.ones(1)}

    kept = expert_cache.Kept(tmp_path)
    kept.recall(EXPERT, INPUTS, "slow", slow)
    assert kept.saved < 0.1
    kept.forget()
    kept.recall(EXPERT, INPUTS, "slow", slow)
    assert len(took) == 1
    assert kept.saved == pytest.approx(took[0], abs=0.1)
    kept.forget()
    assert kept.saved == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say it elsewhere")
def test_memory_that_computing_would_have_taken_counts_where_it_was_read(tmp_path) -> None:
    def large() -> dict[str, torch.Tensor]:
        return {"found": torch.ones(16 * 2**20).sum().reshape(1)}

    costs, cpu = [], torch.device("cpu")
    for _ in range(2):
        kept = expert_cache.Kept(tmp_path)
        with measurement.measured(cpu) as cost:
            kept.recall(EXPERT, INPUTS, "large", large)
        cost.reached(kept.peak)
        costs.append(cost.added_mib)
    assert costs[0] == pytest.approx(64, abs=8)
    assert costs[1] == pytest.approx(costs[0], abs=8)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": flipped,
    "no metadata": lambda path: checkpoints.save({"found": torch.ones(2)}, path),
    "no number": lambda path: checkpoints.save({"found": torch.ones(2)}, path, seconds="x", above_mib="0"),
    "other tensors": lambda path: checkpoints.save({}, path, seconds="0.1", above_mib="0", digest="0"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_was_kept_and_does_not_read_is_computed_again_and_kept_anew(tmp_path, how) -> None:
    def recall() -> tuple[torch.Tensor, int]:
        computed = []
        found = expert_cache.Kept(tmp_path).recall(EXPERT, INPUTS, "features", lambda: computed.append(1) or {"found": torch.arange(2.0)})  # fmt: skip
        return found["found"], len(computed)

    recall()
    (path,) = tmp_path.iterdir()
    DAMAGE[how](path)
    found, times = recall()
    assert torch.equal(found, torch.arange(2.0))
    assert times == 1
    assert recall()[1] == 0


@pytest.mark.parametrize("what", ["a file", "a dangling link"])
def test_where_nothing_can_be_kept_it_is_computed_each_time(tmp_path, what) -> None:
    folder = tmp_path / "kept"
    folder.write_text("") if what == "a file" else folder.symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        found = expert_cache.Kept(folder).recall(EXPERT, INPUTS, "features", lambda: {"found": torch.ones(1)})
        assert found["found"] == 1
