"""TracrTokenizer: ids, output columns, and messages for bad prompts."""

from __future__ import annotations

import pytest

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from circuitgraph.tracr.tokenizer import TracrTokenizer

REVERSE = TracrTokenizer(
    tokens=("1", "2", "3", "BOS", "compiler_pad"),
    bos_token="BOS",
    pad_token="compiler_pad",
    output_symbols=("2", "1"),
    max_seq_len=3,
)
NUMERIC = TracrTokenizer(
    tokens=("BOS", "a", "pad", "x"), bos_token="BOS", pad_token="pad", output_symbols=(), max_seq_len=3
)


def test_bos_comes_first() -> None:
    assert REVERSE.encode_tokens(["3", "1"]) == [3, 2, 0]
    assert NUMERIC.encode_tokens(["x", "a", "x"]) == [0, 3, 1, 3]


def test_numbers_are_tokens_too() -> None:
    assert REVERSE.encode_tokens([3, 1]) == [3, 2, 0]
    assert REVERSE.output_id(1) == 1


def test_special_ids_and_sizes() -> None:
    assert (REVERSE.bos_token_id, REVERSE.pad_token_id, REVERSE.vocab_size) == (3, 4, 5)
    assert NUMERIC.program_tokens == ("a", "x")


def test_decoding_undoes_encoding() -> None:
    assert [NUMERIC.decode_token(i) for i in NUMERIC.encode_tokens(["x", "a"])] == ["BOS", "x", "a"]


@pytest.mark.parametrize("token_id", [-1, 5])
def test_unknown_id(token_id: int) -> None:
    with pytest.raises(UnknownNameError, match="unknown token id"):
        REVERSE.decode_token(token_id)


def test_output_columns_are_not_token_ids() -> None:
    assert (REVERSE.output_id("2"), REVERSE.encode_tokens(["2"])[1]) == (0, 1)


@pytest.mark.parametrize("token", ["4", "BOS", "compiler_pad"])
def test_unknown_or_reserved_token(token: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown token '{token}'.*put before the prompt by itself"):
        REVERSE.encode_tokens(["1", token])


def test_prompt_longer_than_the_model() -> None:
    with pytest.raises(PromptFormatError, match="at most 3 tokens.*got 4"):
        REVERSE.encode_tokens(["1"] * 4)


def test_unknown_symbol() -> None:
    with pytest.raises(UnknownNameError, match="unknown output symbol '3'; valid: 2, 1"):
        REVERSE.output_id("3")


def test_symbols_of_a_numeric_program() -> None:
    with pytest.raises(ConfigurationError, match="output is a number"):
        NUMERIC.output_id("x")
