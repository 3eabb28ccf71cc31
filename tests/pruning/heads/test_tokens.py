"""Tokens as text: letters of several tokens are found whole, by a byte-level tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.heads.landmarks import _spans
from pruning.heads.tokens import pieces
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer


@pytest.mark.parametrize("text", ["plain words", "é and 日本 here", "🙂🙂 x", "日"])
def test_the_tokens_of_a_prompt_are_its_text(text: str) -> None:
    tokenizer = piece_tokenizer(["plain words here and x"], vocabulary=300)
    ids = tokenizer(text)["input_ids"]
    found = pieces(lambda some: str(tokenizer.decode(some)), ids)
    assert len(found) == len(ids) and "".join(found) == text


def test_a_span_holds_every_token_of_its_letters() -> None:
    tokenizer = piece_tokenizer(["plain words here and x"], vocabulary=300)
    ids = tokenizer("and 日本 x")["input_ids"]
    first = len(tokenizer("and ")["input_ids"])
    row = _spans(pieces(lambda some: str(tokenizer.decode(some)), ids), {"name": "日本"})["name"]
    assert np.flatnonzero(row).tolist() == list(range(first, first + 6))


def test_bytes_that_are_no_letter_stay_by_themselves() -> None:
    assert pieces(lambda ids: bytes(ids).decode(errors="replace"), [0xFF, 0x61]) == ("\N{REPLACEMENT CHARACTER}", "a")
