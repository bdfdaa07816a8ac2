"""Tokenisers of encoders of texts, by tokenizers."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from otmf.runtime import foreign_parsers


def read(path: Path, *, vocabulary: int, length: int, pad: int) -> Tokenizer:
    """The tokeniser of an encoder: it cuts texts and fills none up.

    Args:
        path: tokenizer.json.
        vocabulary: how many tokens the encoder knows.
        length: tokens to cut a text to.
        pad: the token with which the encoder's configuration pads.

    Raises:
        ValueError: if there is none, or it is not one for that encoder.
    """
    if not path.is_file():
        raise ValueError(f"expected a tokenizer.json at {path}; received none; put it there")
    tokeniser = opened(path)
    highest = max(tokeniser.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= vocabulary:
        raise ValueError(
            f"expected a tokeniser for an encoder of {vocabulary} tokens; received one with token {highest}; take the one "
            "that was saved with the weights"
        )
    word = tokeniser.id_to_token(pad) if 0 <= pad < 2**32 else "none"
    declared = (tokeniser.padding or {}).get("pad_id", pad)
    if declared != pad or (word is not None and "pad" not in word.lower()):
        raise ValueError(
            f"expected token {pad}, with which the encoder's configuration pads, to be the tokeniser's; received {word!r} there and token "
            f"{declared} for padding; take the tokeniser that was saved with the weights"
        )
    tokeniser.no_padding()
    tokeniser.enable_truncation(length)
    return tokeniser


def opened(path: Path) -> Tokenizer:
    """A tokeniser as its file has it.

    Raises:
        ValueError: if it is not such a file.
    """
    with foreign_parsers.reading(
        lambda reason: ValueError(
            f"expected a tokenizer.json as tokenizers writes it; received {path.name} ({reason}); save it anew"
        )
    ):
        return Tokenizer.from_file(str(path))
