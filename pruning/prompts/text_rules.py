# ruff: noqa: D102 - the attributes are described in the class that is meant
"""What one pair of prompts must satisfy as text, and how texts are written in messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.spans import check_span_names

SPLITS = ("train", "validation", "test")


TAG = re.compile(r"</?predict>")


_SHOWN = 60


@runtime_checkable
class PairText(Protocol):
    """A pair as text, as `pruning.prompts.pairs.PromptPair` is one."""

    @property
    def clean(self) -> str: ...
    @property
    def corrupted(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def wrong_answer(self) -> str | None: ...
    @property
    def wrong_answers(self) -> tuple[str, ...]: ...
    @property
    def correct_answers(self) -> tuple[str, ...]: ...
    @property
    def clean_after(self) -> str: ...
    @property
    def corrupted_after(self) -> str: ...
    @property
    def all_wrong(self) -> tuple[str, ...]: ...
    @property
    def corrupted_answer(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def spans(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def corrupted_spans(self) -> tuple[tuple[str, str], ...]: ...


def pair_problem(pair: PairText) -> str | None:
    """Find what is wrong with a pair that text alone can tell.

    Args:
        pair: The pair.

    Returns:
        What is wrong and how to mend it, or None.
    """
    checks = (_wrong_type, _wrong_text, _wrong_split, _empty, _wrong_spaces, _wrong_sets, _wrong_spans)
    return next((problem for check in checks if (problem := check(pair)) is not None), None)


def _wrong_type(pair: PairText) -> str | None:
    texts = ("clean", "corrupted", "answer", "clean_after", "corrupted_after")
    for name in (*texts, "wrong_answer", "corrupted_answer", "split", "group", "source"):
        value = getattr(pair, name)
        optional = name in ("wrong_answer", "corrupted_answer", "split", "group")
        if not isinstance(value, str) and not (optional and value is None):
            return f"{name!r} must be a string{' or None' * optional}, got {shown(value)}"
    for name in ("wrong_answers", "correct_answers"):
        value = getattr(pair, name)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            return f"{name!r} must be a list of strings, got {shown(value)}"
    return None


def _texts(pair: PairText) -> Iterator[tuple[str, str]]:
    """Every text of a pair with its field."""
    for name in ("clean", "corrupted", "answer", "clean_after", "corrupted_after"):
        yield name, getattr(pair, name)
    yield from (("wrong_answer", text) for text in pair.all_wrong)
    yield from (("correct_answers", text) for text in pair.correct_answers)
    if pair.corrupted_answer is not None:
        yield "corrupted_answer", pair.corrupted_answer


def _wrong_text(pair: PairText) -> str | None:
    for name, text in (*_texts(pair), ("group", pair.group or "")):
        if (problem := not_unicode(text)) is not None:
            return f"{name!r}: {problem}"
    for name, text in _texts(pair):
        if (mark := TAG.search(text)) is not None:
            return f"{name!r} holds {mark.group()}, a mark of JSON lines; give the text without it"
    return None


def _wrong_split(pair: PairText) -> str | None:
    if pair.split is None or pair.split in SPLITS:
        return None
    return str(UnknownNameError.of("split", pair.split, SPLITS))


def _empty(pair: PairText) -> str | None:
    if not pair.answer.strip():
        return "the answer is empty; put its text between <predict> and </predict>"
    for side in ("clean", "corrupted"):
        if not getattr(pair, side).strip() and not getattr(pair, f"{side}_after").strip():
            return f"the {side} side has no text before the answer"
    if pair.wrong_answer is not None and pair.wrong_answers:
        return "give wrong_answer or wrong_answers, not both"
    if not all(other.strip() for other in (*pair.all_wrong, *pair.correct_answers)):
        return "an alternative answer is empty"
    if pair.corrupted_answer is not None and not pair.corrupted_answer.strip():
        return "the counterfactual's own answer (corrupted_answer) is empty; leave it out where there is none"
    return None


def _wrong_spaces(pair: PairText) -> str | None:
    for other in (*pair.all_wrong, *pair.correct_answers):
        if other[0].isspace() != pair.answer[0].isspace():
            return (
                f"the answer is {pair.answer!r} but an alternative is {other!r}: both or neither must "
                "start with a space"
            )
    for other in pair.all_wrong:
        if _margins(other) != _margins(pair.answer):
            return (
                f"the answer is {pair.answer!r} but a wrong one is {other!r}: both must have the same spaces around "
                "them, or the spaces are what is compared"
            )
    return None


def _margins(text: str) -> tuple[str, str]:
    """The white space before and after a text."""
    bare = text.strip()
    start = text.index(bare)
    return text[:start], text[start + len(bare) :]


def _wrong_sets(pair: PairText) -> str | None:
    if pair.correct_answers and pair.answer not in pair.correct_answers:
        listed = ", ".join(map(repr, pair.correct_answers[:5]))
        return f"'correct_answers' ({listed}) does not hold the answer {pair.answer!r}; add it"
    for wrong in pair.all_wrong:
        if wrong == pair.answer or wrong in pair.correct_answers:
            which = "the answer itself" if wrong == pair.answer else "among the 'correct_answers' too"
            return f"the wrong answer {wrong!r} is {which}; give another, or none"
    return None


def _wrong_spans(pair: PairText) -> str | None:
    for field, side in (("spans", "clean"), ("corrupted_spans", "corrupted")):
        spans, text = getattr(pair, field), getattr(pair, side)
        if not spans:
            continue
        try:
            check_span_names([name for name, _ in spans], field)
        except ConfigurationError as error:
            return str(error)
        joined = "".join(piece for _, piece in spans)
        if joined.rstrip(" ") != text.rstrip(" "):
            return f"the pieces of {field!r} together are {shown(joined)}, and the {side} side is {shown(text)}"
    if pair.corrupted_spans and [name for name, _ in pair.spans] != [name for name, _ in pair.corrupted_spans]:
        return "'spans' and 'corrupted_spans' must have the same names in the same order"
    return None


def not_unicode(text: str) -> str | None:
    r"""Say what is wrong with a text that UTF-8 cannot hold.

    Examples:
        >>> not_unicode("é"), not_unicode("\ud83d!")
        (None, "'\\ud83d!' holds half a surrogate pair, which is no character; write the whole one, or leave it out")
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        part = shown(text[max(0, error.start - 20) :])
        return f"{part} holds half a surrogate pair, which is no character; write the whole one, or leave it out"
    return None


def shown(value: object) -> str:
    """Write a value for a message, at most so much of it.

    Examples:
        >>> shown("a" * 100) == repr("a" * 60) + "…", shown(3)
        (True, '3')
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
    try:
        written = repr(value)
    except (RecursionError, ValueError):  # nested without end, or an integer of thousands of digits
        return type(value).__name__
    return written if len(written) <= _SHOWN else f"{type(value).__name__} {written[:_SHOWN]}…"
