"""Swapped tasks ask what is right after the counterfactual: looked up by its text, not taken from the generator."""

from __future__ import annotations

import pytest

from circuitgraph.models import load_model
from pruning.tasks import load_task
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.names import MALE


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("smollm2-135m").tokenizer


def verb_after(text: str) -> str:
    """Of the subject that stands before the preposition, in English whose plurals end in s."""
    opening, preposition = text.split(" the ", 1)[0], text.split(" the ", 1)[1]
    if opening == "So far,":
        opening = "So far"
    plural = preposition.split()[0].endswith("s")
    verbs = {"Last year we heard that": (" was", " were"), "So far": (" has", " have")}
    return verbs.get(opening, (" is", " are"))[plural]


def pronoun_after(text: str) -> str:
    return " he" if set(text.replace(",", "").split()) & set(MALE) else " she"


def capital_after(text: str) -> str:
    asked = text.splitlines()[-2] if text.endswith("Capital:") else text.splitlines()[-1]
    named = [country for country in CAPITALS if country in asked]
    return f" {CAPITALS[max(named, key=len)]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "right"),
    [
        ("subject-verb-agreement", verb_after),
        ("gendered-pronoun", pronoun_after),
        ("capitals:instruction", capital_after),
    ],
)
def test_the_answer_is_right_on_either_side(tokenizer, task: str, right) -> None:
    pairs = load_task(task, tokenizer, sizes={"train": 30, "validation": 2, "test": 2}).split("train")
    other = pairs.swapped()
    for found in (pairs, other):
        for text, answer, length, ids in zip(
            found.texts, found.answer_ids, found.prompt_lengths, found.clean_ids, strict=True
        ):
            assert tokenizer.decode(answer) == right(text)
            assert ids[length:].tolist() == answer[:-1].tolist()
    wrong = [tokenizer.decode(ids[0]) for ids in other.wrong_ids]
    assert all(right(text).startswith(first) for text, first in zip(pairs.texts, wrong, strict=True))
    assert pairs.texts == other.corrupted_texts


def test_a_counterfactual_without_an_answer(tokenizer) -> None:
    fresh = load_task("ioi", tokenizer, sizes={"train": 2, "validation": 0, "test": 0}).swapped().split("train")
    assert fresh.answer_ids is None and fresh.wrong_ids is None
    options = {"counterfactual": "exchanged"}
    exchanged = load_task("ioi", tokenizer, sizes={"train": 9, "validation": 0, "test": 0}, options=options)
    other = exchanged.swapped().split("train")
    for text, answer in zip(other.texts, other.answer_ids, strict=True):
        words = text.replace(",", " ").replace(".", " ").split()
        # Who is named once gets the thing.
        name = tokenizer.decode(answer).strip()
        assert words.count(name) == 1
