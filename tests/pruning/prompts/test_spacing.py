"""Suspected missing spaces: by hand, and with tokenizers that know spaces, ignore them or have none."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pruning.prompts.encoding import encode_pairs
from pruning.prompts.pairs import PromptPair
from pruning.prompts.spacing import respelled
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer


@pytest.mark.parametrize(
    ("prompt", "answer", "meant"),
    [
        ("The capital of Peru is", "Lima", " Lima"),
        ("The capital of Peru is", " Lima", None),
        ("The capital of Peru is ", "Lima", None),
        ("The capital of Peru is ", " Lima", " Lima"),
        ("The capital of Peru is", "  Lima", " Lima"),
        ("The capital of Peru is", " Lima ", " Lima"),
        ("Peru's capital:", "Lima", " Lima"),
        ("Столица Перу", "Лима", " Лима"),
        ("Q: capital?\nA:\n", " Lima", "Lima"),
        ("Q: capital?\nA:\n", "Lima", None),
        ("f(", "x", None),
        ("f(", " x", "x"),
        ("in the year", "1742", " 1742"),
        ("from 17", "42", None),
        ("x =", "3", None),
        ("12:", "30", None),
        ("the “", "Lima", None),
        ("首都は", "東京", None),
        ("เมืองหลวงคือ", "ลิมา", None),
    ],
)
def test_an_answer_is_respelled_where_its_spaces_look_wrong(prompt, answer, meant):
    assert respelled(prompt, answer) == meant


def test_encoding_finds_suspected_spaces_and_the_token_that_was_meant():
    tokenizer = piece_tokenizer(["is Lima", "isn't Lima Lima Lima"])
    missing = PromptPair(clean="It is", corrupted="At is", answer="Lima", wrong_answer="Rome")
    right = PromptPair(clean="It is", corrupted="At is", answer=" Lima")
    found = encode_pairs([missing, right], tokenizer)
    first, second = found.spacing
    assert second is None
    assert first is not None
    assert found.answer_ids is not None
    assert (first.written, first.meant) == ("Lima", " Lima")
    assert first.first_id == found.answer_ids[1][0] != found.answer_ids[0][0]
    assert found.subset([1]).spacing == (None,)


def test_a_tokenizer_without_spaces_has_no_missing_ones():
    # Where a space has no token it is dropped, so that both spellings are the same to the model.
    letters = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate("abc")}, merges=[]))
    data = encode_pairs(
        [PromptPair(clean="ab", corrupted="ac", answer="c")], PreTrainedTokenizerFast(tokenizer_object=letters)
    )
    assert data.spacing == (None,)


def test_a_chat_template_decides_spaces_itself():
    chat = piece_tokenizer(["User: It is At Reply: Lima"])
    chat.chat_template = "User: {{ messages[0]['content'] }}\nReply:"
    assert encode_pairs(
        [PromptPair(clean="It is", corrupted="At is", answer="Lima")], chat, chat_template=True
    ).spacing == (None,)
