"""Encoding text: BOS once and never lost, and what a tokenizer does not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.encoder import PromptEncoder
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

WORDS = {"<unk>": 0, "<s>": 1, "The": 2, "capital": 3, "of": 4, "is": 5, "France": 6, "Italy": 7, "Paris": 8, "Rome": 9}
PAIR = PromptPair(clean="The capital of France is", corrupted="The capital of Italy is", answer=" Paris")


def words(*, bos: bool, unk: str = "<unk>") -> PreTrainedTokenizerFast:
    """One id a word, spaces ignored; the ids are in `WORDS`."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unk, bos_token="<s>", pad_token="<s>")


def bases(*, eos: bool = False) -> PreTrainedTokenizerFast:
    """One id for each of A, C, G, T; all else is dropped. It puts `<s>` before a text, and `</s>` after it if asked."""
    vocabulary = {"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, "T": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    single = "<s> $A </s>" if eos else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("bos", ["auto", "yes", "no"])
def test_a_line_that_begins_with_bos_gets_no_second_one(own, bos):
    tokenizer = words(bos=own)
    written = replace(PAIR, clean="<s> " + PAIR.clean, corrupted="<s> " + PAIR.corrupted)
    data = encode_pairs([written, PAIR], tokenizer, bos=bos)
    assert data.clean_ids[0].tolist() == [1, 2, 3, 4, 6, 5]
    assert data.corrupted_ids[0].tolist() == [1, 2, 3, 4, 7, 5]
    put = bos == "yes" or (own and bos == "auto")
    assert data.clean_ids[1].tolist() == ([1] if put else []) + [2, 3, 4, 6, 5]
    note = "1 of 2 prompts begin with BOS themselves: it is not put before them again"
    assert data.notes == ((note,) if put else ())


def test_bos_on_one_side_only_is_refused_where_it_would_shift_the_other():
    # Both sides have six tokens; the other side's are one position earlier.
    shifted = PromptPair(clean="<s> The capital of France is", corrupted="The The capital of Italy is", answer=" Paris")
    for tokenizer, bos in ((words(bos=False), "auto"), (words(bos=True), "no")):
        with pytest.raises(PromptFormatError, match="only the clean side begins with the BOS token '<s>'"):
            encode_pairs([shifted], tokenizer, bos=bos)
        with pytest.raises(PromptFormatError, match="only the corrupted side begins"):
            encode_pairs([replace(shifted, clean=shifted.corrupted, corrupted=shifted.clean)], tokenizer, bos=bos)
    with pytest.raises(PromptFormatError, match="the clean side has 6 tokens and the corrupted side 7"):
        encode_pairs([shifted], words(bos=True))
    # Where BOS is put before every prompt, a side that has it already is as long as the other.
    harmless = replace(PAIR, clean="<s> " + PAIR.clean)
    data = encode_pairs([harmless], words(bos=True))
    assert (data.clean_ids[0] == data.corrupted_ids[0]).tolist() == [True] * 4 + [False, True]


def test_bos_written_twice_is_refused():
    twice = replace(PAIR, clean="<s> <s> " + PAIR.clean, corrupted="<s> <s> " + PAIR.corrupted)
    for bos in ("auto", "no"):
        with pytest.raises(PromptFormatError, match="begins with the BOS token '<s>' 2 times"):
            encode_pairs([twice], words(bos=True), bos=bos)


def test_a_message_may_not_bring_the_templates_bos():
    chat = word_tokenizer(["User: The capital of France Italy is\nReply:", "Paris"])
    chat.chat_template = "<s>User: {{ messages[0]['content'] }}\nReply:"
    assert encode_pairs([PAIR], chat, chat_template=True, bos="yes").clean_ids[0].tolist().count(1) == 1
    with pytest.raises(PromptFormatError, match="the message begins with the BOS token '<s>', but the chat template"):
        encode_pairs(
            [replace(PAIR, clean="<s>" + PAIR.clean, corrupted="<s>" + PAIR.corrupted)], chat, chat_template=True
        )


def test_a_chat_template_that_fails_is_an_error_with_its_words():
    chat = word_tokenizer(["a"])
    chat.chat_template = "{{ raise_exception('a system message must come first') }}"
    with pytest.raises(
        ConfigurationError, match="cannot be applied .*a system message must come first.*chat_template=F"
    ):
        encode_pairs([PAIR], chat, chat_template=True)


@pytest.mark.parametrize("eos", [False, True])
def test_bos_is_found_where_the_tokenizer_knows_no_letter_a(eos):
    data = encode_pairs([PromptPair(clean="ACG", corrupted="ATG", answer="T")], bases(eos=eos))
    assert data.clean_ids[0].tolist() == [0, 2, 3, 4]
    assert data.corrupted_ids[0].tolist() == [0, 2, 5, 4]


def test_bos_is_found_where_it_is_the_unknown_token_too():
    data = encode_pairs([PAIR], words(bos=True, unk="<s>"))
    assert data.clean_ids[0].tolist() == [1, 2, 3, 4, 6, 5]
    assert data.unknown == (0,)


def test_a_tokenizer_that_says_nothing_about_bos_is_asked_about():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>"))
    empty = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<s>", bos_token="<s>")
    with pytest.raises(ConfigurationError, match="cannot tell what this tokenizer puts before a prompt; say bos='yes'"):
        _ = PromptEncoder(tokenizer=empty).bos_ids


def test_unknown_words_and_dropped_characters_are_counted():
    pairs = [
        PAIR,
        replace(PAIR, clean="The capital of Peru is"),
        replace(PAIR, clean="The town of Peru is", corrupted="The capital of Cuba is"),
        replace(PAIR, clean="The <unk> of France is"),
    ]
    assert encode_pairs(pairs, words(bos=True)).unknown == (0, 1, 3, 0)
    dropped = [
        PromptPair(clean="AxCG", corrupted="ATGxyx", answer="T"),
        PromptPair(clean="A", corrupted="C", answer="T"),
    ]
    assert encode_pairs(dropped, bases()).unknown == (4, 0)


def test_an_answer_that_the_tokenizer_does_not_know_is_refused():
    for field in ("answer", "wrong_answer"):
        with pytest.raises(PromptFormatError, match="does not know all of the answer ' Lima'"):
            encode_pairs([replace(PAIR, **{field: " Lima"})], words(bos=False))
    with pytest.raises(PromptFormatError, match="does not know all of the answer 'Tx'"):
        encode_pairs([PromptPair(clean="A", corrupted="C", answer="Tx")], bases())


def test_half_a_surrogate_pair_is_an_error_wherever_text_comes_from():
    with pytest.raises(PromptFormatError, match="holds half a surrogate pair"):
        PromptEncoder(tokenizer=words(bos=False)).ids(["a\ud83d"])


# ---------------------------------------------------------------- what tokens tell of a data set


def test_a_data_set_tells_which_pairs_differ_its_lengths_and_its_largest_ids():
    same = replace(PAIR, clean="The capital of Peru is", corrupted="The  capital of Cuba is", wrong_answer=" Rome")
    longer = PromptPair(clean="is", corrupted="of", answer=" Paris Rome", source="p.jsonl, line 7")
    data = encode_pairs([PAIR, same, longer], words(bos=True))
    assert data.differs.tolist() == [True, False, True]
    assert (data.longest, data.lengths.tolist()) == (6, [6, 6, 3])
    assert data.prompt_lengths == (6, 6, 2)
    assert data.highest_input_ids.tolist() == [7, 5, 8]
    assert data.highest_output_ids.tolist() == [8, 9, 9]
    assert data.where(0) == "prompt 'The capital of France is'"
    assert data.where(2) == "p.jsonl, line 7"
    part = data.subset([2, 0])
    assert (part.sources, part.prompt_lengths, part.unknown) == (("p.jsonl, line 7", ""), (2, 6), (0, 0))
    assert data.subset([]).longest == 0
    assert data.subset([]).highest_input_ids.tolist() == []


def test_numbers_that_can_be_no_tokens_are_refused():
    ids, at = (np.array([1, 2]),), (np.array([1]),)
    with pytest.raises(PromptFormatError, match="clean_ids must hold whole numbers, got float64"):
        EncodedPairs(clean_ids=(np.array([1.0, 2.5]),), corrupted_ids=ids, predict_positions=at)
    with pytest.raises(PromptFormatError, match="answer_ids holds -1; ids and positions are 0 or more"):
        EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=at, answer_ids=(np.array([-1]),))
    with pytest.raises(PromptFormatError, match="answer_values holds NaN or infinity"):
        EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=at, answer_values=(np.array([np.nan]),))
