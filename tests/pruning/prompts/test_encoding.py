"""Encoding: which tokens a pair becomes, and how prompts are padded into a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

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


def test_the_first_prompts_are_all_where_there_are_fewer(tokenizer):
    data = encode_pairs([FRANCE, CHILE], tokenizer)
    assert [data.first(n).texts for n in (0, 1, 2, 3)] == [(), data.texts[:1], data.texts, data.texts]


def test_unequal_lengths_are_an_error_or_are_dropped(tokenizer):
    longer = PromptPair(clean=FRANCE.clean, corrupted="The capital of of Spain is", answer=" Paris", source="f, line 3")
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


def test_a_space_before_the_span_belongs_to_the_answer(tokenizer):
    spaced = PromptPair(clean="The capital of France is ", corrupted=FRANCE.corrupted, answer="Paris")
    plain = PromptPair(clean=FRANCE.clean, corrupted=FRANCE.corrupted, answer=" Paris")
    assert encode_pairs([spaced], tokenizer).data_hash == encode_pairs([plain], tokenizer).data_hash


def test_an_answer_that_the_tokenizer_merges_with_the_prompt_is_refused():
    merging = word_tokenizer(["the year 17", "the year 1742", "the year 16", "the year 1642"])
    pair = PromptPair(clean="the year 17", corrupted="the year 16", answer="42")
    with pytest.raises(PromptFormatError, match="merges the answer '42' with the prompt's end"):
        encode_pairs([pair], merging)
    digits = word_tokenizer(["the year 0123456789"], pattern=r" ?[^\W\d]+|\d|\s")
    data = encode_pairs([pair], digits)
    assert words(digits, data.clean_ids[0]) == ["the", " year", " ", "1", "7", "4"]
    assert words(digits, data.answer_ids[0]) == ["4", "2"]
    assert data.predict_positions[0].tolist() == [4, 5]


def test_an_answer_that_is_other_tokens_after_the_corrupted_prompt_is_refused():
    joined = word_tokenizer(["one two three"], pattern=r"two three| ?[^\W\d]+|\s")
    pair = PromptPair(clean="one", corrupted="two", answer=" three")
    with pytest.raises(PromptFormatError, match="other tokens than after the clean"):
        encode_pairs([pair], joined)


def test_alternatives_are_sets_of_first_tokens_and_may_not_overlap(tokenizer):
    right = PromptPair(
        clean=CHILE.clean,
        corrupted=CHILE.corrupted,
        answer=" Puerto Montt",
        correct_answers=(" Puerto Montt", " Puerto", " Montt"),
        wrong_answers=(" Madrid", " Madrid Paris"),
    )
    data = encode_pairs([right], tokenizer)
    assert words(tokenizer, data.correct_ids[0]) == [" Puerto", " Montt"]
    assert words(tokenizer, data.wrong_ids[0]) == [" Madrid"]
    clash = PromptPair(clean="a", corrupted="a", answer=" Puerto Montt", wrong_answer=" Puerto Madrid")
    with pytest.raises(PromptFormatError, match="begin with the same token"):
        encode_pairs([clash], tokenizer)


def test_alternatives_merged_with_the_prompt_are_left_out_and_counted():
    merging = word_tokenizer(["year 17", "year 1742", "year 16"], pattern=r" ?[^\W\d]+|1742|\d\d|\s")
    pair = PromptPair(clean="year 17", corrupted="year 16", answer="17", wrong_answers=("42", "16"))
    data = encode_pairs([pair], merging)
    assert words(merging, data.wrong_ids[0]) == ["16"]
    assert data.notes[0].startswith("1 alternative answers left out")


def test_bos_is_what_the_tokenizer_puts_unless_asked():
    own = word_tokenizer(TEXTS, bos=True)
    plain = word_tokenizer(TEXTS)
    starts = {
        (name, bos): encode_pairs([FRANCE], tokenizer, bos=bos)
        for name, tokenizer in (("own", own), ("plain", plain))
        for bos in ("auto", "yes", "no")
    }
    with_bos = {key for key, data in starts.items() if data.clean_ids[0][0] == 1}
    assert with_bos == {("own", "auto"), ("own", "yes"), ("plain", "yes")}
    for key, data in starts.items():
        assert data.predict_positions[0].tolist() == [5 if key in with_bos else 4]
        assert len(data.clean_ids[0]) == len(data.corrupted_ids[0])
    with pytest.raises(ConfigurationError, match="'auto', 'yes' or 'no'"):
        encode_pairs([FRANCE], plain, bos="maybe")
    plain.bos_token = None
    with pytest.raises(ConfigurationError, match="has no BOS token"):
        encode_pairs([FRANCE], plain, bos="yes")


def test_a_chat_template_wraps_the_prompt_and_the_answer_begins_the_reply(tokenizer):
    with pytest.raises(ConfigurationError, match="has none"):
        encode_pairs([FRANCE], tokenizer, chat_template=True)
    chat = word_tokenizer(["User: The capital of France Spain is\nReply:", "Paris", "Madrid"])
    chat.chat_template = "User: {{ messages[0]['content'] }}\n{% if add_generation_prompt %}Reply:{% endif %}"
    data = encode_pairs([FRANCE], chat, chat_template=True)
    assert words(chat, data.clean_ids[0]) == [
        "User", ":", " The", " capital", " of", " France", " is", "\n", "Reply", ":",
    ]  # fmt: skip
    assert words(chat, data.answer_ids[0]) == ["Paris"]
    assert words(chat, data.wrong_ids[0]) == ["Madrid"]
    assert data.predict_positions[0].tolist() == [9]
    started = encode_pairs([FRANCE], chat, chat_template=True, bos="yes")
    assert words(chat, started.clean_ids[0])[:2] == ["<s>", "User"]


def test_no_pair_is_an_error(tokenizer):
    with pytest.raises(PromptFormatError, match="no prompt pairs"):
        encode_pairs([], tokenizer)


def test_an_error_without_a_file_names_the_index(tokenizer):
    bad = PromptPair(clean="a", corrupted="a a", answer=" Paris")
    with pytest.raises(PromptFormatError, match=r"pair 1, prompt 'a': .*\(and 1 more pairs\)"):
        encode_pairs([FRANCE, bad, bad], tokenizer)


def test_a_batch_refuses_an_unknown_side_and_no_prompt(tokenizer):
    data = encode_pairs([FRANCE], tokenizer)
    with pytest.raises(ConfigurationError, match="'right' or 'left'"):
        data.batch([0], side="middle")
    with pytest.raises(ConfigurationError, match="at least one prompt"):
        data.batch([])
