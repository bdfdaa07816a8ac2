"""Fine-tuned encoders in any form: the encoder alone, refused before it is read if it is another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel

from otmf import checkpoints, formats
from otmf.checkpoints.deferred import Deferred
from tests import makers
from tests.otmf.formats.examples import bert, clip, index, other, same


def unread(deferred: Deferred, meta: torch.Tensor, make: Callable[[], torch.Tensor]) -> None:
    deferred.meta, deferred.make = meta, lambda: pytest.fail("a tensor was read")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "image_encoder.model."])
def test_open_clip_models_are_their_vision_tower_under_any_wrapper(base, tmp_path, prefix) -> None:
    model = clip()
    save_file(
        {f"{prefix}{key}": value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "m.safetensors"
    )
    found = formats.read(tmp_path / "m.safetensors", base=base)
    assert same(found.state, dict(sorted(model.visual.state_dict().items())))
    assert any("token_embedding" in key for key in found.left_out)


def test_what_does_not_fit_is_refused_before_a_tensor_is_loaded(base, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Deferred, "__init__", unread)
    state = {**other(base), "more": torch.ones(1)}
    save_file(state, tmp_path / "x.safetensors")
    many = index(tmp_path, {key: "one.safetensors" for key in state}, one=state)
    for path in (tmp_path / "x.safetensors", many):
        with pytest.raises(checkpoints.CheckpointError, match=r"and 1 extra \(more\)"):
            formats.read(path, base=base)


def test_precision_that_is_not_known_is_refused(base, tmp_path) -> None:
    save_file({**other(base), "proj": base["proj"].to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="received F8_E4M3; convert the checkpoint"):
        formats.read(tmp_path / "x.safetensors", base=base)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "meta", "float8"],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path, tensor) -> None:
    torch.save({"a": tensor}, tmp_path / "m.pt")
    with pytest.raises(checkpoints.CheckpointError, match=r"expected (plain tensors in m|a pickle of tensors alone)"):
        checkpoints.read_foreign(tmp_path / "m.pt")


def test_classification_head_of_its_own_is_refused_and_can_be_left_out(tmp_path) -> None:
    _, base = bert(tmp_path)
    whole = BertForSequenceClassification(BertConfig(**makers.BERT, num_labels=3))
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(checkpoints.CheckpointError, match="received one with a classification head"):
        formats.read(tmp_path / "whole", base=base)
    found = formats.read(tmp_path / "whole", base=base, ignored=["classifier.*"])
    assert same(found.state, dict(sorted(whole.bert.state_dict().items())))
    assert found.left_out == ("classifier.bias", "classifier.weight")


def test_added_tokens_are_named_as_the_reason(tmp_path) -> None:
    _, base = bert(tmp_path)
    BertModel(BertConfig(**{**makers.BERT, "vocab_size": 203})).save_pretrained(tmp_path / "more")
    with pytest.raises(
        checkpoints.CheckpointError,
        match="an expert with added tokens; bring a checkpoint of the same encoder and vocabulary",
    ):
        formats.read(tmp_path / "more", base=base)


def test_part_of_an_encoder_is_refused_unless_a_pattern_says_otherwise(base, tmp_path) -> None:
    state = other(base)
    part = {key: value for key, value in state.items() if not key.startswith("ln_")}
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match=r"received 4 missing \(ln_post.bias"):
        formats.read(tmp_path / "part.safetensors", base=base)
    found = formats.read(tmp_path / "part.safetensors", base=base, missing=["ln_*"]).state
    assert torch.equal(found["ln_pre.weight"], base["ln_pre.weight"])
    assert torch.equal(found["proj"], state["proj"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_in_the_bases(base, tmp_path, dtype) -> None:
    state = {key: value.to(dtype) for key, value in other(base).items()}
    save_file(state, tmp_path / "half.safetensors")
    found = formats.read(tmp_path / "half.safetensors", base=base)
    assert found.form == f"safetensors, {str(dtype).removeprefix('torch.')}"
    assert all(value.dtype == torch.float32 for value in found.state.values())
    assert torch.equal(found.state["proj"], state["proj"].float())


def test_tensors_of_another_shape_are_refused(base, tmp_path) -> None:
    save_file({**other(base), "conv1.weight": torch.ones(16, 3, 4, 4)}, tmp_path / "x.safetensors")
    message = r"expected conv1.weight of shape \(16, 3, 8, 8\); received \(16, 3, 4, 4\); bring"
    with pytest.raises(checkpoints.CheckpointError, match=message):
        formats.read(tmp_path / "x.safetensors", base=base)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, (2**60).to_bytes(8, "little") + b"{}", b"\x08" + bytes(7) + b'{"a":1}']
)
def test_files_that_are_not_safetensors_are_refused(base, tmp_path, content) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match="expected a whole safetensors file"):
        formats.read(tmp_path / "m.safetensors", base=base)
