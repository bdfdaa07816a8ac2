"""Stage `finetune`: what is left out of it stays as the base has it, and a pattern of nothing is refused."""

from __future__ import annotations

import pytest

from flows.line import workspace
from otmf import checkpoints
from otmf.data import gathering
from otmf.runtime import layout
from stages import extract, finetune, pretrained
from stages.context import current_line
from tests import makers


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> layout.Layout:
    """A line of one task whose base is trained."""
    folder = tmp_path_factory.mktemp("finetune")
    line = layout.Layout(makers.line(folder / "line"))
    card = workspace.cards.read(makers.card(folder / "cards", "first", seed=1))
    gathering.gather(card, folder / "cards", line.raw("first"))
    pretrained.main(fine_tuned_with(line))
    return line


def fine_tuned_with(line: layout.Layout, **values: object) -> current_line.Line:
    document = workspace.read_params(line)
    document["tasks"] = {"first": {"finetune": {"epochs": 1, "batch_size": 8, **values}}}
    workspace.write_params(line, document)
    return current_line.read(line.root)


def test_what_is_left_out_is_the_base_s_and_has_no_part_in_a_merge(line) -> None:
    full = fine_tuned_with(line, left_out=["ln_*", "*.bias"])
    finetune.main(full, "first")
    extract.main(full, "first")
    base = checkpoints.load(full.pretrained / "model.safetensors")
    tuned = checkpoints.load(full.finetuned("first") / "model.safetensors")
    vector = checkpoints.load(full.task_vector("first") / "vector.safetensors")
    left = [key for key in vector if key.startswith("ln_") or key.endswith(".bias")]
    assert left
    assert all((tuned[key] == base[key]).all() and not vector[key].any() for key in left)
    assert all(vector[key].any() for key in vector if key not in left)


def test_pattern_of_nothing_is_refused(line) -> None:
    with pytest.raises(
        ValueError, match="expected finetune.left_out to name tensors of the encoder; received 'embeddings"
    ):
        finetune.main(fine_tuned_with(line, left_out=["embeddings.*"]), "first")
