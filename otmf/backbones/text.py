"""Encoders of texts: the BERT family and encoder-decoders such as T5, of transformers; tokens by tokenizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from otmf import task_vectors
from otmf.backbones import length_groups, tokenisers
from otmf.backbones.backbone import Backbone, Foreign
from otmf.data import cards, datasets, texts

BUFFERS = ("position_ids", "token_type_ids")
HEAD = "lm_head.weight"
# What a configuration may say that would fetch or run other code than transformers' own, or build in another precision.
LEFT_OUT = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config",
            "dtype", "torch_dtype")  # fmt: skip
# What a configuration says of training, of heads and of whoever wrote it.
_IDLE = re.compile(
    r"_.+|.*(dropout|label|classifier|initializer|gradient).*|architectures|transformers_version|use_cache|problem_type|"
    r"finetuning_task|task_specific_params|output_.+|return_dict|chunk_size.*|is_decoder|n_positions"
)


@dataclass(frozen=True)
class Text(Backbone):
    """A transformer over tokens.

    Of an encoder, a text's features are the mean of its tokens' last hidden states, or the first of them; of an
    encoder-decoder, the decoder's at the first position, from which it would say its first word.

    Attributes:
        settings: of the model, as transformers has them.
        tokeniser: cuts texts to `length` tokens.
        tokens: the tokeniser's file.
        length: columns of what is read.
        pad: the token that fills short texts up; it is never attended to.
        pooling: `mean` or `first`.
        start: the token that a decoder begins with.
    """

    settings: PreTrainedConfig
    tokeniser: tokenisers.Tokenizer
    tokens: Path
    length: int
    pad: int
    pooling: str
    start: int

    reads = datasets.TEXTS

    @property
    def files(self) -> dict[str, Path]:
        return {self.config["tokenizer"]: self.tokens}

    @property
    def optional(self) -> task_vectors.State:
        """The matrix from a decoder's output to words, where it is not tied to that of the tokens."""
        if not hasattr(self.skeleton, "shared") or getattr(self.settings, "tie_word_embeddings", False):
            return {}
        return {HEAD: torch.empty_like(self.skeleton.shared.weight, device="meta")}

    def read(self, source: texts.TextSet, positions: Sequence[int] | NDArray[np.int64]) -> np.ndarray:
        """Tokens (n, length) int32."""
        return self._tokens(source.read(positions))

    def decode(self, contents: Sequence[bytes], names: Sequence[str] | None = None) -> np.ndarray:
        """Tokens (n, length) int32 of texts in UTF-8."""
        names, found = names or [f"text {number}" for number in range(1, len(contents) + 1)], []
        for content, name in zip(contents, names, strict=True):
            try:
                found.append(content.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise cards.CardError(
                    f"expected a text in UTF-8; received {name}, which is not ({error.reason}); convert it"
                ) from error
            texts.check(found[-1], name)
        return self._tokens(found)

    def _tokens(self, found: Sequence[str]) -> np.ndarray:
        rows = np.full((len(found), self.length), self.pad, np.int32)
        for row, encoded in zip(rows, self.tokeniser.encode_batch(list(found)), strict=True):
            row[: len(encoded.ids)] = encoded.ids
        if bool((rows == self.pad).all(axis=1).any()):
            raise cards.CardError(
                "expected texts with at least one token each; received one of which the tokeniser leaves nothing; remove it"
            )
        return rows

    def blank(self) -> np.ndarray:
        return self._tokens(["a"])

    def prepare(self, found: np.ndarray, where: torch.device | None = None) -> Tensor:
        """Tokens (n, length) int64."""
        return torch.from_numpy(np.ascontiguousarray(found)).to(where).long()

    def lengths(self, found: np.ndarray) -> NDArray[np.int64]:
        """Tokens of each text."""
        return (found != self.pad).sum(axis=1)

    def features(self, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """As `Backbone.features`; texts of like length are computed together, without the columns in which all of them are over."""
        own = {key: value for key, value in state.items() if key != HEAD}
        places = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
        ends = ((inputs != self.pad) * places).amax(dim=1).clamp(min=1)

        def computed(rows: Tensor) -> Tensor:
            return self.pooled(
                lambda given: torch.func.functional_call(self.skeleton, own, (), given),
                inputs[rows, : int(ends[rows].max())],
            )

        order = ends.argsort(stable=True)
        cuts = length_groups.cuts(ends[order].tolist()) if inputs.device.type == "cpu" else []
        if not cuts:
            return computed(torch.arange(len(inputs), device=inputs.device))
        return torch.cat([computed(rows) for rows in order.tensor_split(cuts)])[order.argsort()]

    def pooled(self, call: Callable[[dict[str, Any]], Any], inputs: Tensor) -> Tensor:
        """Features (n, d) of tokens (n, any length), by a function that runs the model."""
        attended = (inputs != self.pad).long()
        given = {"input_ids": inputs, "attention_mask": attended, "return_dict": True}
        if self.settings.is_encoder_decoder:
            given["decoder_input_ids"] = torch.full_like(inputs[:, :1], self.start)
            given["use_cache"] = False
        hidden = call(given).last_hidden_state
        if self.settings.is_encoder_decoder or self.pooling == "first":
            return hidden[:, 0]
        weights = attended.to(hidden.dtype)[..., None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    def initial_state(self, *, seed: int) -> task_vectors.State:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModel.from_config(self.settings, dtype=torch.float32)
        return self.canonical(model.state_dict())

    def canonical(self, state: Mapping[str, Tensor]) -> task_vectors.State:
        """A state dict with each tied tensor once, sorted.

        Raises:
            ValueError: if tensors that are tied in this architecture have different values.
        """
        aliases = tied(self.skeleton)
        if not getattr(self.settings, "tie_word_embeddings", False):
            aliases = {key: name for key, name in aliases.items() if key != HEAD}
        found: dict[str, Tensor] = {}
        for key in sorted(state, key=lambda key: (key in aliases, key)):
            name = aliases.get(key, key)
            if name in found and not state[key].is_meta and not torch.equal(found[name], state[key]):
                raise ValueError(
                    f"expected {key} to be {name}, to which this architecture ties it; received two different tensors; "
                    "save the model with tied weights"
                )
            found.setdefault(name, state[key].detach().clone())
        return dict(sorted(found.items()))

    def check_beside(self, folder: Path) -> None:
        super().check_beside(folder)
        path = folder / "tokenizer.json"
        if path.is_file() and tokenisers.opened(path).get_vocab(with_added_tokens=True) != self.tokeniser.get_vocab(
            with_added_tokens=True
        ):
            raise ValueError(
                f"expected the tokens of this line's encoder; received a {path.name} with others beside the weights; bring an expert of the "
                "same vocabulary"
            )

    def differing(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        theirs, ours = _settings(config).to_dict(), self.settings.to_dict()
        return {
            key: (theirs.get(key), value)
            for key, value in ours.items()
            if theirs.get(key) != value and key not in LEFT_OUT and not _IDLE.fullmatch(key)
        }

    def zero_shot(self, base: Mapping[str, Any]) -> bool:
        """Always: an encoder reads the names of classes as it reads other texts."""
        return True

    def class_embeddings(
        self,
        base: Mapping[str, Any],
        state: Mapping[str, Tensor],
        classes: Sequence[str],
        prompts: Sequence[str],
    ) -> tuple[Tensor, float | None]:
        """Of an encoder its own features of the prompts; of an encoder-decoder the rows for the label words' tokens, averaged,
        of the matrix that turns its output into words."""
        if self.settings.is_encoder_decoder:
            words = state.get(HEAD, state.get("shared.weight"))
            rows = [
                torch.stack([words[self._label(prompt.replace("{}", name))].mean(dim=0) for prompt in prompts])
                for name in classes
            ]
            return torch.stack(rows).float(), None
        with torch.no_grad():
            rows = [
                self.features(state, self.prepare(self._tokens([prompt.replace("{}", name) for prompt in prompts])))
                for name in classes
            ]
        return torch.stack(rows), None

    def _label(self, word: str) -> list[int]:
        ids = self.tokeniser.encode(word, add_special_tokens=False).ids
        if not ids:
            raise ValueError(f"expected a class name with a word in it; received {word!r}; name the class")
        return ids

    def module(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The encoder as a module from tokens (n, length) to features (n, d)."""
        own = {key: value for key, value in state.items() if key != HEAD}
        own |= {alias: own[name] for alias, name in tied(self.skeleton).items() if alias != HEAD}
        return _Whole(self, super().module(own))

    def foreign(self, state: Mapping[str, Tensor]) -> Foreign:
        return self.hugging_face(state)

    def hugging_face(self, state: Mapping[str, Tensor]) -> Foreign:
        """As Hugging Face saves a model: config.json, tokenizer.json, model.safetensors; how texts are read beside them."""
        return Foreign(
            documents={
                "config.json": self.config["transformers"],
                "reading.json": {"length": self.length, "pooling": self.pooling, "start": self.start},
            },
            weights={"model.safetensors": dict(state)},
            copies={"tokenizer.json": self.tokens},
        )


class _Whole(nn.Module):
    """A model of transformers with its pooling, for export."""

    def __init__(self, backbone: Text, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.model = backbone, model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.backbone.pooled(lambda given: self.model(**given), inputs)


def build(config: Mapping[str, Any], folder: Path) -> Text:
    """As `otmf.backbones.build`.

    Raises:
        ValueError: if transformers has no such architecture, or the tokeniser is not one for it.
    """
    try:
        found = _settings(config["transformers"])
        with torch.device("meta"):
            skeleton = AutoModel.from_config(found, dtype=torch.float32)
        _fill(skeleton)
    except Exception as error:  # whatever an architecture makes of numbers that it was not made for
        raise ValueError(
            "expected the configuration of an encoder that transformers has, with its model_type; received one that does not "
            f"build ({' '.join(str(error).split())[:200]}); take config.json as it was saved with the weights"
        ) from error
    length, pad = int(config.get("length", 128)), found.pad_token_id or 0
    start = config["transformers"].get("decoder_start_token_id")
    longest = _positions(skeleton)
    if longest is not None and length > longest:
        raise ValueError(
            f"expected at most {longest} tokens, for which the encoder has positions; received length {length}"
        )
    path = folder / config["tokenizer"]
    return Text(
        config=dict(config),
        skeleton=skeleton.eval(),
        settings=found,
        tokeniser=tokenisers.read(path, vocabulary=found.vocab_size, length=length, pad=pad),
        tokens=path,
        length=length,
        pad=pad,
        start=pad if start is None else start,
        pooling=config.get("pooling", "mean"),
    )


def _settings(config: Mapping[str, Any]) -> PreTrainedConfig:
    given = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return AutoConfig.for_model(given.pop("model_type"), **given)


def tied(skeleton: nn.Module) -> dict[str, str]:
    """Key -> the key of the tensor it shares with an earlier one, as the architecture ties them."""
    first: dict[int, str] = {}
    found = {HEAD: "shared.weight"} if hasattr(skeleton, "shared") else {}
    for key, value in skeleton.named_parameters(remove_duplicate=False):
        name = first.setdefault(id(value), key)
        if name != key:
            found[key] = name
    return found


def _fill(skeleton: nn.Module) -> None:
    """Gives values to buffers that no state dict has."""
    kept = set(skeleton.state_dict())
    for name, buffer in list(skeleton.named_buffers()):
        if name in kept or not buffer.is_meta:
            continue
        owner, _, last = name.rpartition(".")
        if last not in BUFFERS:
            raise ValueError(f"a buffer {name} that is computed when weights are loaded")
        value = torch.zeros(buffer.shape, dtype=buffer.dtype)
        if last == "position_ids":
            value += torch.arange(buffer.shape[-1])
        skeleton.get_submodule(owner).register_buffer(last, value, persistent=False)


def _positions(skeleton: nn.Module) -> int | None:
    """How many tokens an encoder has learned positions for; None where it has none. Some begin to count after their padding token."""
    for name, table in skeleton.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return None
