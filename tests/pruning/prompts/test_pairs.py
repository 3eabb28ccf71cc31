"""Prompt pairs as text, and every way a JSONL file can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jaxtyping import config as checks

from circuitgraph.errors import OutputError, PromptFormatError
from pruning.prompts.pairs import PromptPair, PromptPairs

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
    "twice": ('{"clean": "a", "clean": "b"}', "line 2: the key 'clean' comes twice in one object"),
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


# ---------------------------------------------------------------- what no line and no pair may hold

HALF = "half a surrogate pair, which is no character; write the whole one, or leave it out"
HOSTILE = {
    "half a surrogate": ('{"clean": "a \\ud83d<predict> b</predict>", "corrupted": "c"}', f"'clean': .* holds {HALF}"),
    "half in a group": ('{"clean": "a<predict> b</predict>", "corrupted": "c", "group": "\\udc00"}', "'group'"),
    "nested": ("[" * 100_000, "brackets are nested deeper than 100 levels"),
    "nested in a field": ('{"clean": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 100 levels"),
    "a long number": ('{"clean": ' + "9" * 5000 + "}", r"line 2: Exceeds the limit \(4300 digits\)"),
    "NaN": ('{"clean": NaN, "corrupted": "c"}', "line 2: it holds NaN, which JSON does not know"),
    "twice, nested": ('{"clean": {"a": 1, "a": 2}, "corrupted": "c"}', "line 2: the key 'a' comes twice in one object"),
    "a number": ({**GOOD, "clean": 3}, "line 2: 'clean' must be a string, got 3"),
    "a long list": ({**GOOD, "group": ["a"] * 1000}, r"line 2: 'group' must be a string, got \[(\"a\", )+.{0,5}…$"),
    "a list of numbers": ({**GOOD, "wrong_answer": [1]}, "line 2: 'wrong_answer' must be a string or a list"),
    "a control character": ('{"clean": "a\x00b"}', "line 2: not JSON"),
    "a mark in an alternative": ({**GOOD, "wrong_answer": " <predict>Rome"}, "'wrong_answer' holds <predict>, a mark"),
    "white space": ({**GOOD, "clean": "a<predict>\n\t</predict>"}, "line 2: the answer is empty"),
    "no clean text": ({**GOOD, "clean": "<predict> Paris</predict>"}, "line 2: the clean side has no text before"),
    "another space": ({**GOOD, "wrong_answer": "  Rome"}, "' Paris' but a wrong one is '  Rome': both must"),
    "a line's end": ({**GOOD, "wrong_answer": " Rome\n"}, r"a wrong one is ' Rome\\n': both must have the same spaces"),
    "right answers without the answer": (
        {**GOOD, "correct_answers": [" Rome", " Bern"]},
        r"line 2: 'correct_answers' \(' Rome', ' Bern'\) does not hold the answer ' Paris'; add it",
    ),
    "wrong is right": ({**GOOD, "wrong_answer": " Paris"}, "line 2: the wrong answer ' Paris' is the answer itself"),
    "wrong among right": (
        {**GOOD, "correct_answers": [" Paris", " Rome"], "wrong_answer": [" Bern", " Rome"]},
        "line 2: the wrong answer ' Rome' is among the 'correct_answers' too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_an_error_with_file_and_line(tmp_path, name):
    line, message = HOSTILE[name]
    path = write(tmp_path, GOOD, line)
    with pytest.raises(PromptFormatError, match=message) as caught:
        PromptPairs.from_jsonl(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert len(str(caught.value)) < 500


def test_line_ends_and_a_byte_order_mark_are_no_part_of_a_line(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(GOOD) + "\r\n").encode() * 2)
    assert [pair.answer for pair in PromptPairs.from_jsonl(path)] == [" Paris", " Paris"]


def test_a_prompt_is_the_same_on_either_side_of_a_space(tmp_path):
    spaced = {**GOOD, "clean": "The capital of France is <predict>Paris</predict>", "split": "test"}
    with pytest.raises(PromptFormatError, match=r"line 2: .*'test' and also in 'train' \(.*line 1\)"):
        PromptPairs.from_jsonl(write(tmp_path, {**GOOD, "split": "train"}, spaced))


PAIR = PromptPair(clean="a", corrupted="b", answer=" c")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "tests"}, "unknown split 'tests'; did you mean 'test'"),
        ({"answer": " \udc00"}, f"'answer': .* holds {HALF}"),
        ({"clean": "a<predict> c</predict>"}, "'clean' holds <predict>, a mark of JSON lines"),
    ],
)
def test_pairs_in_memory_keep_the_same_rules(wrong, message):
    with pytest.raises(PromptFormatError, match=f"prompt .*: {message}"):
        replace(PAIR, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clean": None}, "'clean' must be a string, got None"),
        ({"answer": 3}, "'answer' must be a string, got 3"),
        ({"wrong_answers": " d"}, "'wrong_answers' must be a list of strings, got ' d'"),
        ({"correct_answers": (" c", 3)}, r"'correct_answers' must be a list of strings, got \(' c', 3\)"),
        ({"group": 3}, "'group' must be a string or None, got 3"),
    ],
)
def test_a_value_of_another_type_is_an_error(untyped, wrong, message):
    with pytest.raises(PromptFormatError, match=message):
        replace(PAIR, **wrong)


def test_lists_of_answers_and_pairs_are_taken_as_tuples(untyped):
    assert replace(PAIR, wrong_answers=[" d", " e"]).wrong_answers == (" d", " e")
    assert PromptPairs([PAIR]) == PromptPairs((PAIR,))  # pyright: ignore[reportArgumentType]
    with pytest.raises(PromptFormatError, match="pair 1: expected a PromptPair; got 3"):
        PromptPairs((PAIR, 3))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def untyped():
    """The checks of types are the tests' own: a user has none."""
    checks.update("jaxtyping_disable", True)
    yield
    checks.update("jaxtyping_disable", False)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "good.jsonl"
    PromptPairs((PAIR,)).to_jsonl(path)
    before = path.read_bytes()
    with pytest.raises(PromptFormatError, match="there are no pairs to write"):
        PromptPairs(()).to_jsonl(path)
    with pytest.raises(PromptFormatError, match="splits must share no prompt"):
        PromptPairs((replace(PAIR, split="train"), replace(PAIR, split="test"))).to_jsonl(path)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        PromptPairs((replace(PAIR, clean="z"),)).to_jsonl(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["good.jsonl"]
