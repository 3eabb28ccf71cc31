"""Spans of prompts: from pieces of text to a label for each token, and every way in which they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuitgraph import compile_model, load_model
from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from pruning import load_task
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair, PromptPairs
from pruning.prompts.runnable import require_runnable
from pruning.prompts.spans import asked_spans, divided, span_labels
from pruning.prompts.swapped import both_ways

LETTERS: dict[str, Any] = {
    "clean": " a b c a",
    "corrupted": " b a c a",
    "answer": " b",
    "spans": (("first", " a b"), ("rest", " c a")),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model("induction-neox").tokenizer


def test_pieces_of_text_become_positions(tokenizer: Any) -> None:
    pairs = divided(encode_pairs([PromptPair(**LETTERS)], tokenizer), "task")
    assert [tokenizer.decode([int(i)]) for i in pairs.clean_ids[0]] == ["<bos>", "a", "b", "c", "a"]
    assert pairs.divided_by == ("first", "rest")
    assert span_labels(pairs, 0).tolist() == [0, 0, 0, 1, 1]  # BOS belongs to the first
    assert asked_spans(pairs) == {"rest"}


def test_batches_say_which_token_is_in_which_span(tokenizer: Any) -> None:
    longer = {
        **LETTERS,
        "clean": " a b d c a",
        "corrupted": " b a d c a",
        "spans": (("first", " a b d"), ("rest", " c a")),
    }
    pairs = divided(encode_pairs([PromptPair(**LETTERS), PromptPair(**longer)], tokenizer), "task")
    batch = pairs.batch([0, 1], side="left")
    assert batch.clean.span_ids is not None
    assert batch.clean.span_ids.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert pairs.batch([0], side="left").clean.to("cpu").span_ids.tolist() == [[0, 0, 0, 1, 1]]  # type: ignore[union-attr]
    assert pairs.subset([1]).batch([0]).clean.span_ids.tolist() == [[0, 0, 0, 0, 1, 1]]  # type: ignore[union-attr]
    assert encode_pairs([PromptPair(**LETTERS)], tokenizer).batch([0]).clean.span_ids is None
    assert divided(pairs.subset([0]), "positions").divided_by == ("p0", "p1", "p2", "p3", "p4")
    assert [span_labels(both_ways(pairs), n).tolist() for n in (0, 2)] == [[0, 0, 0, 1, 1]] * 2


def test_files_hold_spans(tmp_path: Any, tokenizer: Any) -> None:
    pair = PromptPair(**LETTERS, corrupted_spans=(("first", " b a"), ("rest", " c a")))
    PromptPairs((pair,)).to_jsonl(tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text())["spans"] == [["first", " a b"], ["rest", " c a"]]
    assert tuple(PromptPairs.from_jsonl(tmp_path / "a.jsonl")) == (pair,)
    (tmp_path / "b.jsonl").write_text('{"clean": "a<predict> b</predict>", "corrupted": "b", "spans": [["x", 1]]}')
    with pytest.raises(PromptFormatError, match=r"'spans' must be a list of \[name, text\]"):
        PromptPairs.from_jsonl(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spans": (("first", " a b"), ("rest", " c"))}, "the pieces of 'spans' together are"),
        ({"spans": (("x", " a b"), ("x", " c a"))}, "'x' comes twice"),
        ({"spans": (("1", " a b c a"),)}, "begins with a letter"),
        ({"corrupted_spans": (("other", " b a c a"),)}, "the same names in the same order"),
        ({"spans": (("first", " a b c a"), ("rest", ""))}, "span 'rest' has no token"),
        (
            {"corrupted_spans": (("first", " b"), ("rest", " a c a"))},
            "begins at token 3 of the clean side and at token 2",
        ),
    ],
)
def test_pieces_that_do_not_fit_are_refused(change: dict[str, Any], words: str, tokenizer: Any) -> None:
    with pytest.raises(PromptFormatError, match=words):
        encode_pairs([PromptPair(**{**LETTERS, **change})], tokenizer)


def test_a_span_begins_where_a_token_does() -> None:
    tokenizer = load_model("smollm2-135m").tokenizer
    pair = PromptPair(
        clean="unbelievable", corrupted="unbelievable", answer=" x", spans=(("a", "unbeliev"), ("b", "able"))
    )
    with pytest.raises(PromptFormatError, match="merges the beginning of span 'b' with the text before it"):
        encode_pairs([pair], tokenizer)
    names = load_task("ioi", tokenizer, sizes={"train": 40, "validation": 0, "test": 0}).split("train")
    for index in range(len(names)):
        starts = [start for _, start in names.spans[index]]
        words = [tokenizer.decode([int(names.clean_ids[index][at])]).strip() for at in starts]
        assert words[3] in (words[1], words[2])  # the repeated name is one of the two
        assert words[1] != words[2] and names.texts[index].index(words[1]) < names.texts[index].index(words[2])


def test_prompts_that_are_not_aligned_are_refused(tokenizer: Any) -> None:
    others = PromptPair(**{**LETTERS, "spans": (("first", " a b c"), ("end", " a"))})
    pairs = encode_pairs([PromptPair(**LETTERS), others], tokenizer)
    with pytest.raises(PromptFormatError, match="its spans are first, end, and those of .* are first, rest"):
        divided(pairs, "task")
    with pytest.raises(PromptFormatError, match="name no spans"):
        divided(encode_pairs([PromptPair(**{**LETTERS, "spans": ()})], tokenizer), "task")
    with pytest.raises(UnknownNameError, match="way to divide"):
        divided(pairs, "tsk")
    task = load_task("induction", tokenizer)
    with pytest.raises(PromptFormatError, match="all prompts need one length"):
        task.with_spans("positions")
    assert task.with_spans().spans == ("letters", "again") and task.with_spans().asked_spans == ("again",)
    with pytest.raises(ConfigurationError, match="divided into spans already"):
        task.with_spans().with_spans()


def test_a_model_and_its_prompts_need_the_same_spans(tokenizer: Any) -> None:
    compiled = compile_model(load_model("induction-neox"), verify=False)
    plain = load_task("induction", tokenizer).split("test")
    pairs = divided(plain, "task")

    def refuses(universe: Any, prompts: EncodedPairs, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            require_runnable(universe, prompts)

    refuses(compiled, pairs, "the model's edges are not")
    refuses(compiled.with_spans(["letters", "again"], asked=["again"]), plain, "the prompts are not divided")
    refuses(compiled.with_spans(["a", "b"], asked=["b"]), pairs, "the model has the spans a, b, and the prompts have")
    refuses(compiled.with_spans(["letters", "again"], asked=["letters"]), pairs, "asked at span 'again'")
    require_runnable(compiled.with_spans(["letters", "again"], asked=["again"]), pairs)
    assert np.array_equal(plain.clean_ids[0], pairs.clean_ids[0]) and plain.data_hash == pairs.data_hash
    assert replace(pairs, divided_by=()).batch([0]).clean.span_ids is None
