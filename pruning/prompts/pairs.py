"""Prompt pairs as text: a prompt, its counterfactual, and the answer asked for.

First step of the flow: task generators and JSONL files give `PromptPairs`; `pruning.prompts.encoding` turns them
into token ids.

The JSONL form has one object a line. `clean` marks the answer `<predict>…</predict>`, at its end as a rule;
`corrupted` holds the counterfactual's text up to the same place (a span there is allowed if it holds the
same answer: the corrupted side is always run with the clean side's answer tokens). For a model that fills in masked
tokens, text may follow `</predict>` on either side. Optional: `split`
(train, validation or test), `group`, `wrong_answer` (a string or a list), `correct_answers` (a list) and
`corrupted_answer`, the counterfactual's own answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from circuitgraph.errors import PromptFormatError, UnknownNameError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.strict_json import parse_strictly
from pruning.prompts.json_fields import expected, well_typed, written
from pruning.prompts.text_rules import TAG, pair_problem, shown

FIELDS = (
    "clean", "corrupted", "split", "wrong_answer", "correct_answers", "corrupted_answer", "group", "spans",
    "corrupted_spans",
)  # fmt: skip
_SPAN = re.compile(r"<predict>(.*?)</predict>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """One prompt and its counterfactual.

    Attributes:
        clean: The prompt's text before the answer.
        corrupted: The counterfactual's text before the answer.
        answer: The answer's text, with its leading space where there is one; may be several tokens.
        wrong_answer: The wrong answer that the right one is compared with.
        wrong_answers: All wrong answers, where there are several; give this or `wrong_answer`.
        correct_answers: All right answers, the answer among them, where there are several; the answer itself if empty.
        corrupted_answer: The right answer after the counterfactual, where it has one: what is asked where the two
            sides are swapped.
        split: `train`, `validation` or `test`, or None where it is not decided yet.
        group: A label that metrics may be grouped by, or that pairs up items of two data sets.
        clean_after: The prompt's text after the answer: read by models that fill in masked tokens, refused for others.
        corrupted_after: The counterfactual's text after the answer.
        spans: Names of the spans that the clean prompt is made of, each with its piece of the text; together they are
            `clean`. Empty where nothing is said of spans.
        corrupted_spans: The same of the counterfactual; empty, its spans have as many tokens as those of the prompt.
        source: Where the pair came from, for messages; not compared.

    Raises:
        PromptFormatError: What `pruning.prompts.text_rules.pair_problem` finds: an empty side or answer, alternatives
            that begin or end with other spaces than the answer, right answers without the answer or with a wrong one,
            an unknown split, a value of another type, a text that is no Unicode text or holds a mark.

    Examples:
        >>> pair = PromptPair(clean="Ann met Bob. Bob thanked", corrupted="Ann met Bob. Ann thanked", answer=" Ann",
        ...     wrong_answer=" Bob")
        >>> pair.answer, pair.all_wrong
        (' Ann', (' Bob',))
    """

    clean: str
    corrupted: str
    answer: str
    wrong_answer: str | None = None
    wrong_answers: tuple[str, ...] = ()
    correct_answers: tuple[str, ...] = ()
    corrupted_answer: str | None = None
    split: str | None = None
    group: str | None = None
    clean_after: str = ""
    corrupted_after: str = ""
    spans: tuple[tuple[str, str], ...] = ()
    corrupted_spans: tuple[tuple[str, str], ...] = ()
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check what would otherwise fail much later, as an odd token."""
        for name in ("wrong_answers", "correct_answers"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        problem = pair_problem(self)
        if problem is not None:
            raise self.error(problem)

    @property
    def all_wrong(self) -> tuple[str, ...]:
        """Every wrong answer, none if there are none."""
        return self.wrong_answers if self.wrong_answer is None else (self.wrong_answer,)

    def swapped(self) -> PromptPair:
        """The pair the other way round: the counterfactual as the prompt, with its own answer.

        The answer becomes the wrong one, where the pair had any. Further right and wrong answers stay behind: they
        are those of the prompt that is now the counterfactual.

        Raises:
            PromptFormatError: The counterfactual's own answer is not known (`corrupted_answer`).

        Examples:
            >>> pair = PromptPair(
            ...     clean="Ann met Bob. Bob thanked", corrupted="Ann met Bob. Ann thanked", answer=" Ann",
            ...     wrong_answer=" Bob", corrupted_answer=" Bob",
            ... )
            >>> pair.swapped().marked(), pair.swapped().wrong_answer, pair.swapped().swapped() == pair
            ('Ann met Bob. Ann thanked<predict> Bob</predict>', ' Ann', True)
        """
        if self.corrupted_answer is None:
            raise self.error(
                "the sides cannot be swapped as text: the counterfactual has no answer of its own; give its "
                "'corrupted_answer', or encode the pairs and swap them then (EncodedPairs.swapped), for measures that "
                "ask for no answer"
            )
        wrong = self.answer if self.all_wrong and self.answer != self.corrupted_answer else None
        return replace(
            self, clean=self.corrupted, corrupted=self.clean, answer=self.corrupted_answer, wrong_answer=wrong,
            wrong_answers=(), correct_answers=(), corrupted_answer=self.answer, clean_after=self.corrupted_after,
            corrupted_after=self.clean_after, spans=self.corrupted_spans,
            corrupted_spans=self.spans if self.corrupted_spans else (),
        )  # fmt: skip

    def error(self, message: str) -> PromptFormatError:
        """Make an error that says which pair it is about.

        Args:
            message: What is wrong and how to mend it.

        Returns:
            The error, ready to raise.
        """
        where = self.source or f"prompt {shown(self.clean)}"
        return PromptFormatError(f"{where}: {message}")

    def marked(self) -> str:
        """Write the clean side with its answer marked, as in JSONL.

        Examples:
            >>> PromptPair(clean="1 + 1 =", corrupted="1 + 2 =", answer=" 2").marked()
            '1 + 1 =<predict> 2</predict>'
        """
        return f"{self.clean}<predict>{self.answer}</predict>{self.clean_after}"


@dataclass(frozen=True)
class PromptPairs(Sequence[PromptPair]):
    """An immutable sequence of prompt pairs.

    Attributes:
        pairs: The pairs, in order.

    Examples:
        >>> pair = PromptPair(clean="Ann met Bob. Bob thanked", corrupted="Ann met Bob. Ann thanked", answer=" Ann")
        >>> len(PromptPairs((pair,)))
        1
    """

    pairs: tuple[PromptPair, ...]

    def __post_init__(self) -> None:
        """Check that the pairs are pairs."""
        object.__setattr__(self, "pairs", tuple(self.pairs))
        for number, pair in enumerate(self.pairs):
            if not isinstance(pair, PromptPair):
                raise PromptFormatError(f"pair {number}: expected a PromptPair; got {shown(pair)}")

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[PromptPair]:
        """Go through the pairs in order."""
        return iter(self.pairs)

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...
    @overload
    def __getitem__(self, index: slice) -> PromptPairs: ...
    def __getitem__(self, index: int | slice) -> PromptPair | PromptPairs:
        """Take one pair, or a slice of them."""
        return PromptPairs(self.pairs[index]) if isinstance(index, slice) else self.pairs[index]

    def swapped(self) -> PromptPairs:
        """All pairs the other way round, see `PromptPair.swapped`.

        Raises:
            PromptFormatError: The counterfactual's own answer is not known of a pair.
        """
        return PromptPairs(tuple(pair.swapped() for pair in self.pairs))

    @classmethod
    def from_jsonl(cls, path: str | Path) -> PromptPairs:
        """Read prompt pairs; blank lines are skipped.

        Args:
            path: A JSONL file, UTF-8.

        Returns:
            The pairs, each knowing its file and line.

        Raises:
            PromptFormatError: Anything wrong, naming the file, the line and the fix.
        """
        pairs = tuple(_parse_line(text, source) for text, source in _lines(Path(path)))
        if not pairs:
            raise PromptFormatError(f"{path}: the file is empty; write one JSON object a line")
        refuse_shared_prompts(pairs)
        return cls(pairs)

    def to_jsonl(self, path: str | Path) -> None:
        """Write the pairs so that `from_jsonl` gives them back.

        Args:
            path: The file to write; overwritten if it exists, once all is there.

        Raises:
            PromptFormatError: Pairs that no file can hold: none, or one clean prompt in two splits. An old file stays.
            OutputError: The file cannot be written. An old file stays.
        """
        if not self.pairs:
            raise PromptFormatError(f"{path}: there are no pairs to write, and a file of none cannot be read")
        refuse_shared_prompts(self.pairs)
        lines = [json.dumps(_to_object(pair), ensure_ascii=False) for pair in self.pairs]
        write_atomically(Path(path), "".join(line + "\n" for line in lines))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is not blank with its `file, line n`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFormatError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error
    except OSError as error:
        raise PromptFormatError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a path with a NUL in it
        raise PromptFormatError(f"{str(path)!r}: cannot be read ({error}); check the path") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line, f"{path}, line {number}"


def _parse_line(text: str, source: str) -> PromptPair:
    """Turn one JSONL line into a pair."""
    record = _parse_object(text, source)
    wrong = record.get("wrong_answer")
    right = record.get("correct_answers")
    split, group, other = record.get("split"), record.get("group"), record.get("corrupted_answer")
    clean, answer, clean_after = _split_answer(record["clean"], "clean", source)
    corrupted, corrupted_after = _around_answer(record["corrupted"], answer, source)
    return PromptPair(
        clean=clean,
        corrupted=corrupted,
        answer=answer,
        clean_after=clean_after,
        corrupted_after=corrupted_after,
        wrong_answer=wrong if isinstance(wrong, str) else None,
        wrong_answers=tuple(wrong) if isinstance(wrong, list) else (),
        correct_answers=tuple(right) if isinstance(right, list) else (),
        corrupted_answer=other if isinstance(other, str) else None,
        split=split if isinstance(split, str) else None,
        group=group if isinstance(group, str) else None,
        spans=_spans(record.get("spans")),
        corrupted_spans=_spans(record.get("corrupted_spans")),
        source=source,
    )


def _spans(value: object) -> tuple[tuple[str, str], ...]:
    """Names and pieces of spans, whose form was checked."""
    return tuple((name, piece) for name, piece in value) if isinstance(value, list) else ()


def _parse_object(text: str, source: str) -> dict[str, object]:
    """Parse and check one JSON object: its fields' names and types."""
    try:
        record = parse_strictly(text)
    except json.JSONDecodeError as error:
        raise PromptFormatError(
            f"{source}: not JSON ({error.msg} at column {error.colno}); each line must be one JSON object"
        ) from error
    except ValueError as error:
        raise PromptFormatError(f"{source}: {error}") from error
    if not isinstance(record, dict):
        raise PromptFormatError(f"{source}: expected a JSON object, got {type(record).__name__}")
    _check_fields(record, source)
    return record


def _check_fields(record: dict[str, object], source: str) -> None:
    """Refuse missing and unknown fields and values of the wrong type."""
    for name in record:
        if name not in FIELDS:
            raise PromptFormatError(f"{source}: {UnknownNameError.of('field', name[:60], FIELDS)}")
    for name in ("clean", "corrupted"):
        if name not in record:
            raise PromptFormatError(f"{source}: the field {name!r} is missing; add it")
    for name, value in record.items():
        if not well_typed(name, value):
            raise PromptFormatError(f"{source}: {name!r} must be {expected(name)}, got {written(value)}")


def _split_answer(text: object, side: str, source: str) -> tuple[str, str, str]:
    """Cut a marked side into the text before the answer, the answer, and the text after it."""
    assert isinstance(text, str)
    tags = [match.group() for match in TAG.finditer(text)]
    if not tags:
        raise PromptFormatError(
            f"{source}: no <predict>…</predict> in {side!r}; mark the answer, for example "
            '"The capital of France is<predict> Paris</predict>"'
        )
    if tags != ["<predict>", "</predict>"]:
        raise PromptFormatError(
            f"{source}: expected one <predict>…</predict> in {side!r}, got {' '.join(tags[:5])}; "
            "mark one answer a prompt"
        )
    match = _SPAN.search(text)
    assert match is not None
    after = text[match.end() :]
    return text[: match.start()], match.group(1), after if after.strip() else ""


def _around_answer(text: object, answer: str, source: str) -> tuple[str, str]:
    """Give the corrupted side's text before and after the answer; a span must hold the clean side's answer."""
    assert isinstance(text, str)
    if not TAG.search(text):
        return text, ""
    before, other, after = _split_answer(text, "corrupted", source)
    if other != answer:
        raise PromptFormatError(
            f"{source}: 'corrupted' marks {other!r} but 'clean' marks {answer!r}; the corrupted prompt is "
            "run with the clean one's answer: end it before <predict>, and put its own answer in "
            "'wrong_answer' (what the right one is compared with) or 'corrupted_answer' (asked where sides are swapped)"
        )
    return before, after


def refuse_shared_prompts(pairs: Iterable[PromptPair]) -> None:
    """Refuse a clean prompt that stands in two splits, as far as its text tells; `prompt_rules` compares tokens.

    Args:
        pairs: The pairs.

    Raises:
        PromptFormatError: There is one; the message names both places.
    """
    seen: dict[tuple[str, str], PromptPair] = {}
    for pair in pairs:
        first = seen.setdefault((pair.clean.rstrip(" "), pair.clean_after), pair)
        if first.split != pair.split:
            raise pair.error(
                f"this clean prompt is in split {pair.split!r} and also in {first.split!r} "
                f"({first.source or 'an earlier pair'}); splits must share no prompt: remove one of the two"
            )


def _to_object(pair: PromptPair) -> dict[str, object]:
    """Give a pair's JSON object, without empty fields."""
    corrupted = pair.corrupted
    if pair.corrupted_after:
        corrupted = f"{corrupted}<predict>{pair.answer}</predict>{pair.corrupted_after}"
    record: dict[str, object] = {"clean": pair.marked(), "corrupted": corrupted}
    if pair.split is not None:
        record["split"] = pair.split
    if pair.wrong_answer is not None:
        record["wrong_answer"] = pair.wrong_answer
    elif pair.wrong_answers:
        record["wrong_answer"] = list(pair.wrong_answers)
    if pair.correct_answers:
        record["correct_answers"] = list(pair.correct_answers)
    if pair.corrupted_answer is not None:
        record["corrupted_answer"] = pair.corrupted_answer
    if pair.group is not None:
        record["group"] = pair.group
    for name in ("spans", "corrupted_spans"):
        if pieces := getattr(pair, name):
            record[name] = [list(piece) for piece in pieces]
    return record
