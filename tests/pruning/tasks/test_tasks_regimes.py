"""Tasks in two regimes: the same items, aligned counterfactuals, true answers, and no item in two splits."""

from __future__ import annotations

import pytest

from circuitgraph.errors import ConfigurationError
from pruning.tasks import load_task
from pruning.tasks.antonyms import ANTONYMS
from pruning.tasks.antonyms import WORDINGS as ANTONYM_WORDINGS
from pruning.tasks.boolean import _random, text_of, value_of
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.capitals import WORDINGS as CAPITAL_WORDINGS
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer

pytestmark = pytest.mark.slow

SIZES = {"train": 40, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def tokenizer():
    words = [*ANTONYMS, *ANTONYMS.values(), *CAPITALS, *CAPITALS.values(), "True", "False", "not", "and", "or"]
    return piece_tokenizer(f" {word}" for word in words * 3)


@pytest.mark.parametrize("task", ["antonyms", "capitals", "boolean-expressions", "languages"])
def test_both_regimes_ask_the_same_items_in_the_same_order(tokenizer, task):
    plain, instruction, in_context = (
        load_task(task + suffix, tokenizer, sizes=SIZES, seed=5) for suffix in ("", ":instruction", ":in-context")
    )
    assert plain.data_hash == instruction.data_hash
    for split in SIZES:
        one, other = instruction.splits[split], in_context.splits[split]
        assert one.groups == other.groups
        assert None not in one.groups
        assert one.texts != other.texts
        for i in range(len(one)):
            assert tokenizer.decode(one.answer_ids[i]) == tokenizer.decode(other.answer_ids[i])
            assert one.wrong_ids[i].tolist() == other.wrong_ids[i].tolist()


@pytest.mark.parametrize("task", ["antonyms", "capitals", "boolean-expressions"])
def test_no_item_is_in_two_splits(tokenizer, task):
    data = load_task(task, tokenizer, sizes=SIZES)
    groups = [set(pairs.groups) for pairs in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize(
    ("task", "items", "wordings"),
    [("antonyms", ANTONYMS, ANTONYM_WORDINGS), ("capitals", CAPITALS, CAPITAL_WORDINGS)],
)
def test_listed_items_have_their_answers_and_no_example_is_asked(tokenizer, task, items, wordings):
    shown = {word for wording in wordings for example in wording.examples for word in example}
    assert all(items[item] == answer for wording in wordings for item, answer in wording.examples)
    for suffix in (":instruction", ":in-context"):
        for pairs in load_task(task + suffix, tokenizer, sizes=SIZES).splits.values():
            for i, item in enumerate(pairs.groups):
                assert item not in shown
                assert tokenizer.decode(pairs.answer_ids[i]) == f" {items[item]}"
                assert f" {item}" in pairs.texts[i]
                others = set(pairs.corrupted_texts[i].split()) - set(pairs.texts[i].split())
                assert len(others) == 1
                (other,) = others
                assert tokenizer.encode(f" {items[other]}")[0] == pairs.wrong_ids[i][0]
                examples = pairs.texts[i].count(" ".join(wordings[0].examples[0]))
                assert examples <= 1


def test_the_lists_are_long_and_ask_each_pair_in_one_direction():
    assert len(ANTONYMS) >= 100
    assert len(CAPITALS) >= 80
    both = {word for word in ANTONYMS if ANTONYMS.get(ANTONYMS[word]) == word}
    assert both == set()
    assert len(set(CAPITALS.values())) == len(CAPITALS)


def test_few_items_are_asked_in_several_wordings_and_too_many_prompts_are_refused(tokenizer):
    data = load_task("capitals", tokenizer, sizes={"train": 100, "validation": 50, "test": 50})
    test = data.splits["test"]
    assert len(set(test.groups)) == 25
    assert len(set(test.texts)) == 50
    with pytest.raises(ConfigurationError, match=r"'capitals' has \d+ countries in 3 wordings .* ask for fewer"):
        load_task("capitals", tokenizer, sizes={"train": 1000})


def test_boolean_expressions_have_pythons_value_and_half_are_true(tokenizer):
    data = load_task("boolean-expressions:in-context", tokenizer, sizes=SIZES)
    for pairs in data.splits.values():
        answers = []
        for i, expression in enumerate(pairs.groups):
            *worked, asked = pairs.texts[i].split("\n")
            assert asked == f"{expression} is"
            for line in worked:
                question, answer = line.split(" is ")
                assert str(eval(question)) == answer
                assert question != expression
            answers.append(eval(expression))
            assert tokenizer.decode(pairs.answer_ids[i]) == f" {answers[-1]}"
            other = pairs.corrupted_texts[i].split("\n")[-1].removesuffix(" is")
            assert eval(other) != answers[-1]
            assert expression.count("True") + expression.count("False") <= 6
            shape = [piece in "()" or piece == "not" for piece in expression.split()]
            assert shape == [piece in "()" or piece == "not" for piece in other.split()]
        assert sum(answers) == len(answers) / 2


def test_expressions_are_written_as_python_reads_them():
    import numpy as np

    rng = np.random.default_rng(0)
    for literals in [2, 3, 4, 5, 6] * 20:
        expression = _random(rng, literals, 3)
        text = text_of(expression)
        assert eval(text) == value_of(expression)
        assert text.count("True") + text.count("False") == literals
        assert max(text[:end].count("(") - text[:end].count(")") for end in range(len(text))) <= 3
