"""Tasks of word lists and patterns: the answer follows from the prompt, and the counterfactual has another."""

from __future__ import annotations

import re

import pytest

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.tasks import load_task
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.docstring import ARGUMENTS
from pruning.tasks.facts import ITEMS, WORDINGS
from pruning.tasks.hypernymy import KINDS
from pruning.tasks.nonce_plurals import WORDS
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer, word_tokenizer

pytestmark = pytest.mark.slow

SIZES = {"train": 10, "validation": 10, "test": 40}
FEMALE = {"girl", "queen", "mother", "sister", "daughter", "woman", "nun", "grandmother", "aunt", "actress", "princess"}


@pytest.fixture(scope="module")
def tokenizer():
    """A small byte-level BPE that knows most, not all, of the tasks' words."""
    hyponyms = " ".join(KINDS.values())
    words = [*CAPITALS, *CAPITALS.values(), *ARGUMENTS, *hyponyms.lower().split(), "himself", "herself", "themselves"]
    words += [word for items in ITEMS.values() for pair in items.items() for word in pair]
    return piece_tokenizer([f" {word}" for word in words * 3] + [f" {word}" for word in WORDS * 3], vocabulary=3000)


def prompts(task, tokenizer, **options):
    pairs = load_task(task, tokenizer, sizes=SIZES, options=options).split("test")
    for i, (clean, corrupted) in enumerate(zip(pairs.texts, pairs.corrupted_texts, strict=True)):
        right, wrong = ({tokenizer.decode([token]) for token in ids[i]} for ids in (pairs.correct_ids, pairs.wrong_ids))
        yield clean, corrupted, tokenizer.decode(pairs.answer_ids[i]), right, wrong


def changed(clean: str, corrupted: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(clean.split(), corrupted.split(), strict=True) if a != b]


def test_hypernyms_are_those_of_both_words(tokenizer):
    def kind(text):
        found = set(re.findall(r"\w+", text.lower()))
        (names,) = [names for names, words in KINDS.items() if len(found & set(words.lower().split())) == 2]
        return names

    for clean, corrupted, answer, _, _ in prompts("hypernymy", tokenizer):
        assert answer == f" {kind(clean)[0]}" and not set(kind(clean)) & set(kind(corrupted))
    assert len({name for names in KINDS for name in names}) == sum(map(len, KINDS))


def test_the_reflexive_agrees_with_the_subject_and_not_with_what_stands_between(tokenizer):
    for clean, corrupted, answer, _, (wrong,) in prompts("reflexive-agreement", tokenizer):
        ((was, becomes),) = changed(clean, corrupted)
        words = clean.split()
        assert words.index(was) == words.index("the" if words[0] != "The" else "The") + 1
        one = min(was, becomes, key=lambda word: (word.endswith("men"), len(word)))
        singular = " herself" if one in FEMALE else " himself"
        assert answer == (singular if was == one else " themselves") != wrong


def test_ever_stands_under_a_no(tokenizer):
    for clean, corrupted, answer, _, _ in prompts("negative-polarity", tokenizer):
        ((was, becomes),) = changed(clean, corrupted)
        assert answer == (" ever" if was == "no" else " never") and "no" in (was, becomes)
        assert clean.split().count("no") == (answer == " ever")


def test_a_plural_after_a_number_above_one(tokenizer):
    seen = set()
    for clean, corrupted, answer, right, wrong in prompts("nonce-plurals", tokenizer):
        ((was, becomes),) = changed(clean, corrupted)
        assert answer == ("." if was == "one" else "s") and answer in right and answer not in wrong
        word = clean.split()[-1]
        assert word in WORDS and clean.count(f" {word}") == 2
        seen.add(answer)
    assert seen == {".", "s"}


@pytest.mark.parametrize("task", ITEMS)
def test_facts_have_their_answers_and_no_example_is_asked(tokenizer, task):
    items, wordings = ITEMS[task], WORDINGS[task]
    shown = {word for wording in wordings for example in wording.examples for word in example}
    assert all(items[item] == answer for wording in wordings for item, answer in wording.examples)
    for suffix in ("", ":in-context"):
        pairs = load_task(task + suffix, tokenizer, sizes={"train": 10, "validation": 5, "test": 20}).split("test")
        for i, item in enumerate(pairs.groups):
            assert item not in shown and tokenizer.decode(pairs.answer_ids[i]) == f" {items[item]}"
            ((was, becomes),) = changed(pairs.texts[i], pairs.corrupted_texts[i])
            assert was == item and items[becomes] != items[item]
            assert tokenizer.encode(f" {items[becomes]}")[0] == pairs.wrong_ids[i][0]


def test_the_argument_that_comes_next(tokenizer):
    for clean, corrupted, answer, _, _ in prompts("docstring", tokenizer):
        listed, other = (re.search(r"self, (.*)\)", text)[1].split(", ") for text in (clean, corrupted))
        described = re.findall(r":param (\w+):", clean)
        assert described == listed[:2] == other[:2] == re.findall(r":param (\w+):", corrupted)
        assert answer == f" {listed[2]}" and other[2:] == listed[:1:-1]


@pytest.mark.parametrize("context", ["related", "counterfactual"])
def test_the_wrong_city_was_said_and_the_right_one_was_not(tokenizer, context):
    for clean, corrupted, answer, _, _ in prompts("entrainment", tokenizer, context=context):
        said, asked = clean.split(". ")
        (country,) = [one for one in CAPITALS if f" {one} " in f" {asked} "]
        (city,) = [one for one in CAPITALS.values() if f" {one} " in f" {said} "]
        assert answer == f" {CAPITALS[country]}" != f" {city}"
        assert (country in said.split()) == (context == "counterfactual")
        assert corrupted.endswith(asked) and city not in corrupted and answer.strip() not in corrupted


def test_unknown_contexts_and_tokenizers_without_the_words_are_refused(tokenizer):
    with pytest.raises(UnknownNameError, match="related"):
        load_task("entrainment", tokenizer, options={"context": "relatd"})
    for task in ("docstring", "hypernymy", "nonce-plurals"):
        with pytest.raises(ConfigurationError, match=f"task '{task}'"):
            load_task(task, word_tokenizer(["x"]))
