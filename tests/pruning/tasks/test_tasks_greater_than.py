"""Greater-than under the three ways in which tokenizers write a year."""

from __future__ import annotations

import re

import pytest

from circuitgraph.errors import ConfigurationError
from pruning.tasks import load_task
from pruning.tasks.greater_than import NOUNS
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

SIZES = {"train": 30, "validation": 20, "test": 50}
SENTENCE = "The {} lasted from the year {} to the year"
WORDS = r" ?[^\W\d]+"
EVERY_YEAR = [f" {number}" for number in range(1000, 2000)]
FORMS = {
    # Two digits a token, the first pair with its space, as GPT-2 writes most years.
    "year": rf"{WORDS}| ?\d\d|\s",
    # A digit a token.
    "decade": rf"{WORDS}|\d|\s",
    # Up to three digits a token.
    "last digit": rf"{WORDS}|\d{{1,3}}|\s",
}


def load(form):
    texts = [SENTENCE.format(noun, 1000) for noun in NOUNS] + EVERY_YEAR + [f" {n}" for n in range(100, 200)]
    tokenizer = word_tokenizer([*texts, *map(str, range(100)), *(f"{n:02}" for n in range(100))], pattern=FORMS[form])
    return tokenizer, load_task("greater-than", tokenizer, sizes=SIZES)


def asked_years(pairs, i):
    found = re.fullmatch(r"The \w+ lasted from the year (\d{4}) to the year (\d+)", pairs.texts[i])
    other = re.fullmatch(r"The \w+ lasted from the year (\d{4}) to the year (\d+)", pairs.corrupted_texts[i])
    assert found is not None
    assert other is not None
    return (*found.groups(), *other.groups())


@pytest.mark.parametrize("form", FORMS)
def test_the_counterfactual_has_another_century_and_year(form):
    _, data = load(form)
    given = 3 if form == "last digit" else 2
    for pairs in data.splits.values():
        for i in range(len(pairs)):
            year, prefix, other, other_prefix = asked_years(pairs, i)
            assert prefix == year[:given]
            assert other_prefix == other[:given]
            assert other[:2] != year[:2]
            assert other[2:] != year[2:]


def test_with_two_digit_tokens_every_later_year_is_right_and_the_others_wrong():
    tokenizer, data = load("year")
    pairs = data.splits["test"]
    assert data.notes[0] == "years: two digits are one token; the year is asked"
    for i in range(len(pairs)):
        last = int(asked_years(pairs, i)[0][2:])
        right = [int(tokenizer.decode(token)) for token in pairs.correct_ids[i]]
        wrong = [int(tokenizer.decode(token)) for token in pairs.wrong_ids[i]]
        assert right == list(range(last + 1, 100))
        assert wrong == list(range(last + 1))
        assert len(pairs.predict_positions[i]) == 1
        assert int(tokenizer.decode(pairs.answer_ids[i])) > last


def test_with_digit_tokens_an_equal_tens_digit_counts_neither_way():
    tokenizer, data = load("decade")
    pairs = data.splits["test"]
    tens = set()
    for i in range(len(pairs)):
        digit = int(asked_years(pairs, i)[0][2])
        tens.add(digit)
        assert [int(tokenizer.decode(t)) for t in pairs.correct_ids[i]] == list(range(digit + 1, 10))
        assert [int(tokenizer.decode(t)) for t in pairs.wrong_ids[i]] == list(range(digit))
        assert len(pairs.predict_positions[i]) == 1
        assert pairs.answer_ids[i][0] in pairs.correct_ids[i]
    assert tens <= set(range(1, 9))
    assert len(tens) > 4


def test_with_three_digit_tokens_the_last_digit_is_asked():
    tokenizer, data = load("last digit")
    pairs = data.splits["test"]
    for i in range(len(pairs)):
        digit = int(asked_years(pairs, i)[0][3])
        assert [int(tokenizer.decode(t)) for t in pairs.correct_ids[i]] == list(range(digit + 1, 10))
        assert [int(tokenizer.decode(t)) for t in pairs.wrong_ids[i]] == list(range(digit + 1))


def test_a_tokenizer_that_cannot_write_part_of_a_year_is_refused():
    whole = word_tokenizer([SENTENCE.format(noun, 1000) for noun in NOUNS] + EVERY_YEAR, pattern=rf"{WORDS}| ?\d+|\s")
    with pytest.raises(ConfigurationError, match="no part of a year can be asked; choose another task"):
        load_task("greater-than", whole, sizes=SIZES)
