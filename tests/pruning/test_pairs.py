"""Prompt pairs as text, and every way a JSONL file can be wrong."""

from __future__ import annotations

import json

import pytest

from circuitgraph.errors import PromptFormatError
from pruning.pairs import PromptPair, PromptPairs

GOOD = {"clean": "The capital of France is<predict> Paris</predict>", "corrupted": "The capital of Spain is"}


def write(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines),
        encoding="utf-8",
    )
    return path


def test_a_line_is_read_into_a_pair(tmp_path):
    path = write(
        tmp_path,
        {
            **GOOD,
            "split": "test",
            "wrong_answer": [" Rome", " Bern"],
            "correct_answers": [" Paris"],
            "group": "g",
        },
        "",
        {**GOOD, "split": "test", "wrong_answer": " Rome"},
    )
    first, second = PromptPairs.from_jsonl(path)
    assert (first.clean, first.corrupted, first.answer) == (
        "The capital of France is",
        "The capital of Spain is",
        " Paris",
    )
    assert first.all_wrong == (" Rome", " Bern")
    assert first.correct_answers == (" Paris",)
    assert (first.split, first.group) == ("test", "g")
    assert first.source.endswith("prompts.jsonl, line 1")
    assert (second.wrong_answer, second.all_wrong) == (" Rome", (" Rome",))
    assert second.source.endswith("line 3")


def test_writing_and_reading_give_the_same_pairs(tmp_path):
    pairs = PromptPairs(
        (
            PromptPair(clean="é\n“a”", corrupted="b", answer=" c d", wrong_answers=(" e", " f"), group="g"),
            PromptPair(clean="x", corrupted="y", answer="1", wrong_answer="2", split="train"),
            PromptPair(clean="z", corrupted="y", answer="1", correct_answers=("1", "3"), split=None),
        )
    )
    path = tmp_path / "out.jsonl"
    pairs.to_jsonl(path)
    assert PromptPairs.from_jsonl(path) == pairs
    assert pairs[1].split == "train"
    assert list(pairs[1:]) == list(pairs)[1:]
    assert isinstance(pairs[1:], PromptPairs)


def test_a_span_on_the_corrupted_side_must_hold_the_same_answer(tmp_path):
    same = {**GOOD, "corrupted": "The capital of Spain is<predict> Paris</predict>"}
    assert PromptPairs.from_jsonl(write(tmp_path, same))[0].corrupted == "The capital of Spain is"
    other = {**GOOD, "corrupted": "The capital of Spain is<predict> Madrid</predict>"}
    with pytest.raises(PromptFormatError, match=r"line 1: 'corrupted' marks ' Madrid' .*'wrong_answer'"):
        PromptPairs.from_jsonl(write(tmp_path, other))


BAD = {
    "bad JSON": ('{"clean": ', r"line 2: not JSON \(.* column \d+\); each line must be one JSON object"),
    "not an object": ("[1]", "line 2: expected a JSON object, got list"),
    "twice": ('{"clean": "a", "clean": "b"}', "line 2: a field is given twice"),
    "missing": ({"clean": GOOD["clean"]}, "line 2: the field 'corrupted' is missing; add it"),
    "unknown": ({**GOOD, "corupted": "x"}, "line 2: unknown field 'corupted'; did you mean 'corrupted'?"),
    "type": ({**GOOD, "group": 3}, "line 2: 'group' must be a string, got 3"),
    "null": ({**GOOD, "corrupted": None}, "line 2: 'corrupted' must be a string, got null"),
    "list type": ({**GOOD, "correct_answers": " Paris"}, "'correct_answers' must be a list of strings"),
    "split": ({**GOOD, "split": "tests"}, "line 2: unknown split 'tests'; did you mean 'test'?"),
    "no span": ({**GOOD, "clean": "x"}, "line 2: no <predict>…</predict> in 'clean'; mark the answer"),
    "two spans": (
        {**GOOD, "clean": "a<predict>b</predict><predict>c</predict>"},
        "line 2: expected one <predict>…</predict> in 'clean', got <predict> </predict> <predict> </predict>",
    ),
    "open span": ({**GOOD, "clean": "a<predict>b"}, "line 2: expected one .* got <predict>; mark one answer"),
    "after": ({**GOOD, "clean": "a<predict>b</predict> c"}, "line 2: text after </predict> in 'clean': ' c'"),
    "empty answer": ({**GOOD, "clean": "a<predict> </predict>"}, "line 2: the answer is empty"),
    "empty side": ({**GOOD, "corrupted": ""}, "line 2: the corrupted side has no text"),
    "space": (
        {**GOOD, "wrong_answer": "Rome"},
        "line 2: the answer is ' Paris' but an alternative is 'Rome'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_an_error_with_file_line_and_fix(tmp_path, name):
    line, message = BAD[name]
    path = write(tmp_path, GOOD, line)
    with pytest.raises(PromptFormatError, match=message) as caught:
        PromptPairs.from_jsonl(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(PromptFormatError, match=r"prompts\.jsonl: the file is empty; write one JSON object"):
        PromptPairs.from_jsonl(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(PromptFormatError, match="cannot be read .*check the path"):
        PromptPairs.from_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(PromptFormatError, match="not UTF-8"):
        PromptPairs.from_jsonl(tmp_path / "latin.jsonl")


def test_a_prompt_in_two_splits_is_an_error_that_names_both_lines(tmp_path):
    path = write(tmp_path, {**GOOD, "split": "train"}, {**GOOD, "split": "test"})
    with pytest.raises(PromptFormatError, match=r"line 2: .*'test' and also in 'train' \(.*line 1\).*remove one"):
        PromptPairs.from_jsonl(path)
    # Within one split a prompt may come again, with another counterfactual.
    assert len(PromptPairs.from_jsonl(write(tmp_path, GOOD, {**GOOD, "corrupted": "The capital of Peru is"}))) == 2


def test_both_forms_of_wrong_answers_at_once_are_refused():
    with pytest.raises(PromptFormatError, match="not both"):
        PromptPair(clean="a", corrupted="b", answer="c", wrong_answer="d", wrong_answers=("e",))
