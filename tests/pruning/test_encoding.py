"""Encoding: which tokens a pair becomes, and how prompts are padded into a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.encoding import EncodedPairs, encode_pairs
from pruning.pairs import PromptPair
from tests.pruning.tiny_tokenizers import word_tokenizer

FRANCE = PromptPair(
    clean="The capital of France is",
    corrupted="The capital of Spain is",
    answer=" Paris",
    wrong_answer=" Madrid",
    group="france",
)
CHILE = PromptPair(clean="A town in Chile:", corrupted="A town in Spain:", answer=" Puerto Montt")
TEXTS = [FRANCE.clean, FRANCE.corrupted, " Paris Madrid", CHILE.clean, CHILE.corrupted, " Puerto Montt", "a"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS)


def words(tokenizer, ids):
    return [tokenizer.convert_ids_to_tokens(int(token)) for token in ids]


def test_a_pair_becomes_the_prompt_and_the_answer_but_its_last_token(tokenizer):
    data = encode_pairs([FRANCE, CHILE], tokenizer)
    assert words(tokenizer, data.clean_ids[0]) == ["The", " capital", " of", " France", " is"]
    assert words(tokenizer, data.corrupted_ids[0]) == ["The", " capital", " of", " Spain", " is"]
    assert words(tokenizer, data.clean_ids[1]) == ["A", " town", " in", " Chile", ":", " Puerto"]
    assert words(tokenizer, data.corrupted_ids[1]) == ["A", " town", " in", " Spain", ":", " Puerto"]
    assert [at.tolist() for at in data.predict_positions] == [[4], [4, 5]]
    assert words(tokenizer, data.answer_ids[0]) == [" Paris"]
    assert words(tokenizer, data.answer_ids[1]) == [" Puerto", " Montt"]
    assert words(tokenizer, data.correct_ids[1]) == [" Puerto"]
    assert words(tokenizer, data.wrong_ids[0]) == [" Madrid"]
    assert data.wrong_ids[1].tolist() == []
    assert data.groups == ("france", None)
    assert data.lengths.tolist() == [5, 6]


def test_batch_pads_on_either_side_and_points_at_the_asked_tokens(tokenizer):
    data = encode_pairs([FRANCE, CHILE], tokenizer)
    right = data.batch([0, 1], pad_id=2)
    assert right.clean.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert right.clean.input_ids[0, 5] == 2
    assert right.clean.predict_index.tolist() == [4, 10, 11]
    assert right.clean.predict_prompt.tolist() == [0, 1, 1]
    left = data.batch([0, 1], pad_id=2, side="left")
    assert left.clean.attention_mask.tolist()[0] == [0, 1, 1, 1, 1, 1]
    assert left.clean.predict_index.tolist() == [5, 10, 11]
    for batch in (right, left):
        asked = batch.clean.input_ids.flatten()[batch.clean.predict_index]
        assert words(tokenizer, asked) == [" is", ":", " Puerto"]
        assert words(tokenizer, batch.answer_ids) == [" Paris", " Puerto", " Montt"]
        assert batch.wrong_ids.tolist()[1] == [-1]
        assert batch.index.tolist() == [0, 1]
        assert batch.clean.input_ids.dtype == torch.int64


def test_subset_keeps_order_and_changes_the_hash(tokenizer):
    data = encode_pairs([FRANCE, CHILE], tokenizer)
    swapped = data.subset([1, 0])
    assert swapped.texts == (CHILE.clean, FRANCE.clean)
    assert swapped.data_hash != data.data_hash
    assert swapped.subset([1, 0]).data_hash == data.data_hash
    assert swapped.batch([1]).clean.input_ids.tolist() == [data.clean_ids[0].tolist()]


def test_unequal_lengths_are_an_error_or_are_dropped(tokenizer):
    longer = PromptPair(
        clean=FRANCE.clean, corrupted="The capital of of Spain is", answer=" Paris", source="f, line 3"
    )
    with pytest.raises(PromptFormatError, match=r"f, line 3: the clean side has 5 tokens .* 6; .*drop"):
        encode_pairs([longer, FRANCE], tokenizer)
    data = encode_pairs([longer, FRANCE], tokenizer, align="drop")
    assert len(data) == 1
    assert data.notes[0].startswith("dropped: f, line 3: the clean side has 5 tokens")
    with pytest.raises(PromptFormatError):
        encode_pairs([longer], tokenizer, align="drop")
    with pytest.raises(ConfigurationError):
        encode_pairs([FRANCE], tokenizer, align="pad")


def test_columns_that_do_not_fit_are_refused():
    ids = (np.array([1, 2, 3]),)
    with pytest.raises(PromptFormatError, match="both sides"):
        EncodedPairs(clean_ids=ids, corrupted_ids=(np.array([1, 2]),), predict_positions=(np.array([2]),))
    with pytest.raises(PromptFormatError, match="asked positions"):
        EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([3]),))
    with pytest.raises(PromptFormatError, match="2 answers for 1"):
        EncodedPairs(
            clean_ids=ids,
            corrupted_ids=ids,
            predict_positions=(np.array([2]),),
            answer_ids=(np.array([1, 2]),),
        )
