"""Task vectors kept as factors: the same as whole ones, and of this encoder alone."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from otmf import checkpoints, formats, task_vectors
from otmf.checkpoints import extraction, low_rank
from tests.otmf.formats.examples import bert

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's


@pytest.fixture
def found(tmp_path) -> tuple[formats.Found, dict[str, torch.Tensor]]:
    model, base = bert(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["query", "word_embeddings"]))
    torch.manual_seed(1)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return formats.read(tmp_path / "adapter", base=base), base


def products(found: formats.Found) -> dict[str, low_rank.Product]:
    assert found.kept
    return {key: factors.product() for key, factors in found.factors.items()}


def test_factors_stand_for_the_whole_vector(found, tmp_path) -> None:
    adapted, base = found
    kept = extraction.keep(products(adapted), base, tmp_path / "kept", name="x")
    whole = extraction.extract(adapted.state, base, tmp_path / "whole", name="x")
    assert kept.norm == pytest.approx(whole.norm, rel=1e-5)
    assert kept.base_norm == pytest.approx(whole.base_norm, rel=1e-9)
    one, other = (low_rank.load_vector(tmp_path / name, base) for name in ("kept", "whole"))
    assert list(one) == list(other)
    for key in one:
        assert torch.allclose(one[key], other[key], atol=1e-5), key
    assert task_vectors.norm(one) == pytest.approx(kept.norm, rel=1e-6)
    assert (tmp_path / "kept").stat().st_size < (tmp_path / "whole").stat().st_size / 2


def test_factors_of_another_encoder_are_refused(found, tmp_path) -> None:
    adapted, base = found
    low_rank.save(products(adapted), tmp_path / "kept")
    key = next(iter(adapted.factors))
    for other in ({name: value for name, value in base.items() if name != key}, base | {key: base[key][:, :-1]}):
        with pytest.raises(checkpoints.CheckpointError, match=f"received some of {key}"):
            low_rank.load_vector(tmp_path / "kept", other)


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "NaN or infinity"), (0.0, "received an identical one")])
def test_factors_that_say_nothing_are_refused(found, tmp_path, value, message) -> None:
    adapted, base = found
    changed = {key: low_rank.Product(one.up * value, one.down) for key, one in products(adapted).items()}
    with pytest.raises(checkpoints.CheckpointError, match=message):
        extraction.keep(changed, base, tmp_path / "kept", name="x")
    assert not (tmp_path / "kept").exists()
