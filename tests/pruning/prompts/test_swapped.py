"""Prompts the other way round: by hand, and swapped as tokens against swapped as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuitgraph.errors import PromptFormatError
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair, PromptPairs
from pruning.prompts.swapped import both_ways
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

FRANCE = PromptPair(
    clean="The capital of France is", corrupted="The capital of Chile is", answer=" Paris", wrong_answer=" Oslo",
    corrupted_answer=" Puerto Montt", group="france",
)  # fmt: skip
SPAIN = PromptPair(
    clean="A town in Spain:", corrupted="A town in Norway:", answer=" Rio Tinto", corrupted_answer=" Oslo"
)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [FRANCE.clean, FRANCE.corrupted, SPAIN.clean, SPAIN.corrupted, " Paris Oslo Puerto Montt Rio Tinto"]
    return word_tokenizer(texts)


def words(tokenizer, ids) -> list[str]:
    return [tokenizer.convert_ids_to_tokens(int(token)) for token in ids]


def test_sides_answers_and_asked_places_change(tokenizer) -> None:
    found = encode_pairs([FRANCE, SPAIN], tokenizer).swapped()
    assert words(tokenizer, found.clean_ids[0]) == ["The", " capital", " of", " Chile", " is", " Puerto"]
    assert words(tokenizer, found.corrupted_ids[0]) == ["The", " capital", " of", " France", " is", " Puerto"]
    assert words(tokenizer, found.clean_ids[1]) == ["A", " town", " in", " Norway", ":"]
    assert [at.tolist() for at in found.predict_positions] == [[4, 5], [4]]
    assert words(tokenizer, found.answer_ids[0]) == [" Puerto", " Montt"]
    # The answer is the wrong one now, where there was one: Oslo was wrong of France, and is no more.
    assert [words(tokenizer, ids) for ids in found.wrong_ids] == [[" Paris"], [" Rio"]]
    assert found.texts == (FRANCE.corrupted, SPAIN.corrupted) and found.groups == ("france", None)


def test_swapped_as_tokens_or_as_text_is_the_same(tokenizer) -> None:
    pairs = PromptPairs((FRANCE, replace(SPAIN, wrong_answer=" Paris")))
    as_tokens, as_text = encode_pairs(pairs, tokenizer).swapped(), encode_pairs(pairs.swapped(), tokenizer)
    assert as_tokens.data_hash == as_text.data_hash
    assert as_tokens.swapped().data_hash == as_text.swapped().data_hash
    assert [ids.tolist() for ids in as_tokens.swapped().clean_ids] == [
        ids.tolist() for ids in encode_pairs(pairs, tokenizer).clean_ids
    ]


def test_without_an_answer_of_its_own_nothing_is_right(tokenizer) -> None:
    pairs = encode_pairs([FRANCE, replace(SPAIN, corrupted_answer=None)], tokenizer)
    found = pairs.swapped()
    assert (found.answer_ids, found.correct_ids, found.wrong_ids) == (None, None, None)
    # The same places are asked, after the tokens of the answer that both sides were run with.
    assert words(tokenizer, found.clean_ids[1]) == ["A", " town", " in", " Norway", ":", " Rio"]
    back = found.swapped()
    assert [ids.tolist() for ids in back.answer_ids] == [ids.tolist() for ids in pairs.answer_ids]
    with pytest.raises(PromptFormatError, match="A town in Spain.*no answer of its own.*corrupted_answer"):
        PromptPairs((FRANCE, replace(SPAIN, corrupted_answer=None))).swapped()


def test_numbers() -> None:
    ids = (np.array([3, 0]), np.array([3, 1])), (np.array([3, 2]), np.array([3, 2]))
    pairs = EncodedPairs(
        clean_ids=ids[0], corrupted_ids=ids[1], predict_positions=(np.array([1]),) * 2,
        answer_values=(np.array([1.0]), np.array([2.0])), corrupted_answers=(np.array([0.0]), np.array([0.5])),
    )  # fmt: skip
    assert [values.tolist() for values in pairs.swapped().answer_values] == [[0.0], [0.5]]
    assert pairs.swapped().swapped().data_hash == pairs.data_hash
    with pytest.raises(PromptFormatError, match="answers are numbers"):
        replace(pairs, corrupted_answers=None).swapped()


def test_both_ways_are_the_pairs_then_the_swapped_ones(tokenizer) -> None:
    pairs = encode_pairs([FRANCE, SPAIN], tokenizer)
    found = both_ways(pairs)
    assert len(found) == 4
    assert found.subset([0, 1]).data_hash == pairs.data_hash
    assert found.subset([2, 3]).data_hash == pairs.swapped().data_hash
    without = both_ways(encode_pairs([replace(SPAIN, corrupted_answer=None)], tokenizer))
    assert len(without) == 2 and without.answer_ids is None


def test_the_own_answer_of_a_counterfactual_is_kept_in_files(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    PromptPairs((FRANCE, SPAIN)).to_jsonl(path)
    assert tuple(PromptPairs.from_jsonl(path)) == (FRANCE, SPAIN)
    with pytest.raises(PromptFormatError, match="own answer.*is empty"):
        replace(FRANCE, corrupted_answer=" ")
