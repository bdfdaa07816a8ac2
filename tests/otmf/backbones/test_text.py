"""Encoders of texts: transformers' own numbers, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LongformerConfig,
    MPNetConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaXLConfig,
)

from otmf import backbones, heads
from otmf.data import cards, texts
from tests import makers

WORDS = ("what a good film", "the bank lost my card", "good", "where is the nearest bank and how do i get there")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return makers.tokeniser(tmp_path_factory.mktemp("tokens"))


def bert(folder, **keys) -> backbones.Backbone:
    config = BertConfig(**{**makers.BERT, **keys})
    return backbones.build(
        {"transformers": config.to_dict(), "tokenizer": "tokenizer.json", "length": 16, "pooling": "mean"}, folder
    )


def t5(folder, **keys) -> backbones.Backbone:
    config = T5Config(vocab_size=200, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, **keys)
    return backbones.build({"transformers": config.to_dict(), "tokenizer": "tokenizer.json", "length": 16}, folder)


def tokens(backbone: backbones.Backbone) -> np.ndarray:
    return backbone.read(texts.TextSet(WORDS, None), range(len(WORDS)))


def test_encoder_computes_what_transformers_computes(folder) -> None:
    backbone = bert(folder)
    assert all(value.is_meta for value in backbone.skeleton.state_dict().values())
    state = backbone.initial_state(seed=0)
    own = BertModel(BertConfig(**makers.BERT)).eval()
    own.load_state_dict(state)
    read = tokens(backbone)
    assert read.shape == (4, 16)
    assert read.dtype == np.int32
    features = backbone.features(state, backbone.prepare(read))
    for row, text in zip(features, WORDS, strict=True):
        ids = torch.tensor([backbone.tokeniser.encode(text).ids])
        torch.testing.assert_close(row, own(input_ids=ids).last_hidden_state.mean(dim=1)[0])


def test_first_token_stands_for_the_text_where_that_is_asked_for(folder) -> None:
    backbone = backbones.build({**bert(folder).config, "pooling": "first"}, folder)
    state = backbone.initial_state(seed=0)
    own = BertModel(BertConfig(**makers.BERT)).eval()
    own.load_state_dict(state)
    ids = torch.tensor([backbone.tokeniser.encode(WORDS[0]).ids])
    row = backbone.features(state, backbone.prepare(tokens(backbone)[:1]))[0]
    torch.testing.assert_close(row, own(input_ids=ids).last_hidden_state[0, 0])


def test_decoders_first_state_is_that_of_transformers(folder) -> None:
    backbone = t5(folder)
    config = T5Config.from_dict(backbone.config["transformers"])
    own = T5ForConditionalGeneration(config).eval()
    state = backbone.canonical(own.state_dict())
    assert "encoder.embed_tokens.weight" not in state, "tied tensors are one"
    features = backbone.features(state, backbone.prepare(tokens(backbone)))
    for row, text in zip(features, WORDS, strict=True):
        ids = torch.tensor([backbone.tokeniser.encode(text).ids])
        given = own(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long), output_hidden_states=True)
        torch.testing.assert_close(row, given.decoder_hidden_states[-1][0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [bert, t5])
def test_module_of_its_own_computes_the_same(folder, make) -> None:
    backbone = make(folder)
    state = backbone.initial_state(seed=0)
    inputs = backbone.prepare(tokens(backbone))
    torch.testing.assert_close(backbone.module(state)(inputs), backbone.features(state, inputs), atol=1e-5, rtol=1e-5)


def test_features_do_not_depend_on_what_else_is_in_the_batch(folder) -> None:
    for backbone in (bert(folder), t5(folder)):
        state, read = backbone.initial_state(seed=1), tokens(backbone)
        whole = backbone.features(state, backbone.prepare(read))
        alone = torch.cat([backbone.features(state, backbone.prepare(read[[row]])) for row in range(len(read))])
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [bert, t5])
def test_texts_of_unlike_lengths_are_computed_apart(folder, make, monkeypatch) -> None:
    backbone = make(folder)
    state = {key: value.requires_grad_() for key, value in backbone.initial_state(seed=1).items()}
    inputs = backbone.prepare(np.tile(tokens(backbone), (16, 1)))[
        torch.randperm(64, generator=torch.Generator().manual_seed(0))
    ]
    seen = []
    pooled = type(backbone).pooled
    monkeypatch.setattr(
        type(backbone), "pooled", lambda self, call, part: seen.append(part.shape) or pooled(self, call, part)
    )

    def found() -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        features = backbone.features(state, inputs)
        return features, torch.autograd.grad(features.square().mean(), list(state.values()), allow_unused=True)

    apart = found()
    lengths = (inputs != backbone.pad).sum(dim=1)
    assert len(seen) > 1
    assert sum(rows for rows, _ in seen) == len(inputs)
    assert sum(rows * columns for rows, columns in seen) < 0.8 * len(inputs) * int(lengths.max())
    monkeypatch.setattr("otmf.backbones.length_groups.WORTH", 10**9)
    seen.clear()
    together = found()
    assert seen == [(len(inputs), int(lengths.max()))]
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_state(folder) -> None:
    for backbone in (bert(folder), t5(folder)):
        state = {key: value.requires_grad_() for key, value in backbone.initial_state(seed=1).items()}
        backbone.features(state, backbone.prepare(tokens(backbone))).sum().backward()
        reached = [key for key, value in state.items() if value.grad is not None]
        assert len(reached) >= len(state) - 3, set(state) - set(reached)


def test_labels_embeddings_are_the_encoders_own_of_the_prompts(folder) -> None:
    backbone = bert(folder)
    state = backbone.initial_state(seed=0)
    embeddings, scale = backbone.class_embeddings({}, state, ("good", "bank"), ("{}", "the {}"))
    assert scale is None
    assert embeddings.shape == (2, 2, 16)
    one = backbone.features(state, backbone.prepare(backbone.decode([b"the bank"])))
    torch.testing.assert_close(embeddings[1, 1], one[0], atol=1e-5, rtol=1e-5)
    assert heads.zero_shot(embeddings, scale=10.0).weight.shape == (2, 16)


def test_label_words_of_a_decoder_are_rows_of_its_output_matrix(folder) -> None:
    backbone = t5(folder, tie_word_embeddings=False)
    own = T5ForConditionalGeneration(T5Config.from_dict(backbone.config["transformers"]))
    state = backbone.canonical(own.state_dict())
    embeddings, _ = backbone.class_embeddings({}, state, ("good", "bank"), ("{}",))
    word = backbone.tokeniser.encode("bank", add_special_tokens=False).ids
    torch.testing.assert_close(embeddings[1, 0], own.lm_head.weight[word].mean(dim=0))


def test_tensors_that_ought_to_be_tied_and_differ_are_refused(folder) -> None:
    backbone = t5(folder)
    state = backbone.initial_state(seed=0)
    with pytest.raises(ValueError, match=r"expected encoder.embed_tokens.weight to be shared.weight, to which"):
        backbone.canonical({**state, "encoder.embed_tokens.weight": state["shared.weight"] + 1})


def test_buffers_that_no_state_dict_has_are_filled(folder) -> None:
    config = RobertaConfig(**{**makers.BERT, "max_position_embeddings": 40, "pad_token_id": 0})
    backbone = backbones.build({"transformers": config.to_dict(), "tokenizer": "tokenizer.json", "length": 16}, folder)
    state = backbone.initial_state(seed=0)
    own = RobertaModel(config).eval()
    own.load_state_dict(state)
    ids = torch.tensor([backbone.tokeniser.encode(WORDS[1]).ids])
    row = backbone.features(state, backbone.prepare(tokens(backbone)[1:2]))[0]
    torch.testing.assert_close(row, own(input_ids=ids).last_hidden_state.mean(dim=1)[0], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_together_is_refused(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="expected the configuration of an encoder that transformers has"):
        backbones.build({"transformers": {"model_type": "none"}, "tokenizer": "tokenizer.json"}, folder)
    with pytest.raises(
        ValueError, match="expected at most 32 tokens, for which the encoder has positions; received length 99"
    ):
        backbones.build({**bert(folder).config, "length": 99}, folder)
    with pytest.raises(ValueError, match="expected a tokeniser for an encoder of 20 tokens; received one with token"):
        bert(folder, vocab_size=20)
    with pytest.raises(ValueError, match="expected a tokenizer.json at .*; received none"):
        bert(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}), encoding="utf-8")
    with pytest.raises(ValueError, match="expected a tokenizer.json as tokenizers writes it"):
        bert(tmp_path)


@pytest.mark.parametrize(
    "given",
    [[1], {"num_attention_heads": 0}, {"pad_token_id": 999}, {"pad_token_id": -1}, {"hidden_size": "16"}, {"hidden_size": -16},
     {"max_position_embeddings": 10**12}],
)  # fmt: skip
def test_configurations_that_do_not_build_get_one_sentence(folder, given) -> None:
    config = {**BertConfig(**makers.BERT).to_dict(), **given} if isinstance(given, dict) else given
    with pytest.raises(ValueError, match="expected ") as caught:
        backbones.build({"transformers": config, "tokenizer": "tokenizer.json", "length": 16}, folder)
    assert "\n" not in str(caught.value)


def test_token_that_pads_is_the_tokenisers(folder, tmp_path) -> None:
    """Of another one every occurrence in a text would be left out."""
    with pytest.raises(ValueError, match="expected token 7, with which the encoder's .* received 'film' there"):
        bert(folder, pad_token_id=7)
    content = json.loads((folder / "tokenizer.json").read_text())
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3,
               "pad_type_id": 0, "pad_token": "[SEP]"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "padding": padding}))
    with pytest.raises(ValueError, match="token 3 for padding"):
        bert(tmp_path)


@pytest.mark.parametrize(
    ("config", "most"), [(RobertaConfig, 17), (MPNetConfig, 16), (XLMRobertaXLConfig, 17), (LongformerConfig, 17)]
)
def test_positions_that_begin_after_the_padding_token_are_not_there_for_tokens(folder, config, most) -> None:
    given = {**makers.BERT, "max_position_embeddings": 18, "pad_token_id": 0}
    given |= {"attention_window": 4} if config is LongformerConfig else {}
    content = {"transformers": config(**given).to_dict(), "tokenizer": "tokenizer.json"}
    backbone = backbones.build({**content, "length": most}, folder)
    state = backbone.initial_state(seed=0)
    assert backbone.features(state, torch.full((1, most), 5)).isfinite().all()
    with pytest.raises(ValueError, match=f"expected at most {most} tokens"):
        backbones.build({**content, "length": most + 1}, folder)


def test_texts_that_are_none_are_refused(folder) -> None:
    backbone = bert(folder)
    with pytest.raises(cards.CardError, match="expected a text in UTF-8; received text 2, which is not"):
        backbone.decode([b"good", b"\xff\xfe"])
    with pytest.raises(cards.CardError, match="expected a text with something in it; received text 1"):
        backbone.decode([b"  "])
    assert backbone.decode([b"good " * 10_000]).shape == (1, 16), "long texts are cut"


def test_configuration_chooses_neither_code_nor_precision(folder) -> None:
    plain = bert(folder)
    said = {
        "auto_map": {"AutoModel": "evil.Model"},
        "_attn_implementation": "someone/kernel",
        "dtype": "float16",
        "torch_dtype": "float16",
    }
    config = {**plain.config, "transformers": {**plain.config["transformers"], **said}}
    found = backbones.build(config, folder)
    assert {value.dtype for value in found.skeleton.state_dict().values()} == {torch.float32}
    state = plain.initial_state(seed=0)
    read = tokens(plain)
    torch.testing.assert_close(found.features(state, found.prepare(read)), plain.features(state, plain.prepare(read)))
