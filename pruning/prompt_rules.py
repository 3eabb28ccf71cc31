"""What a set of prompts must satisfy, whoever made it: a file, pairs in memory, a generator, another package.

Two kinds of rules. Those of one pair's text are `pair_problem`, asked by every `PromptPair`. Those of many prompts
are known only as token ids, since other words may be the same tokens (spaces, case, Unicode forms, words that the
tokenizer does not know): no prompt in two splits (`refuse_shared_prompts`, asked by `load_task`, `task_from_pairs` and
a study's regimes), and sides that differ (`refuse_equal_sides`, asked wherever cut edges carry the counterfactual).
Rules that need a model, such as how many tokens it takes, are the pre-flight's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitgraph.errors import PromptFormatError, UnknownNameError

if TYPE_CHECKING:
    from pruning.encoding import EncodedPairs
    from pruning.pairs import PromptPair

SPLITS = ("train", "validation", "test")
TAG = re.compile(r"</?predict>")
_SHOWN = 60


# ---------------------------------------------------------------- one pair's text


def pair_problem(pair: PromptPair) -> str | None:
    """Find what is wrong with a pair that text alone can tell.

    Args:
        pair: The pair.

    Returns:
        What is wrong and how to mend it, or None.
    """
    checks = (_wrong_type, _wrong_text, _wrong_split, _empty, _wrong_spaces, _wrong_sets)
    return next((problem for check in checks if (problem := check(pair)) is not None), None)


def _wrong_type(pair: PromptPair) -> str | None:
    for name in ("clean", "corrupted", "answer", "wrong_answer", "split", "group", "source"):
        value = getattr(pair, name)
        optional = name in ("wrong_answer", "split", "group")
        if not isinstance(value, str) and not (optional and value is None):
            return f"{name!r} must be a string{' or None' * optional}, got {shown(value)}"
    for name in ("wrong_answers", "correct_answers"):
        value = getattr(pair, name)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            return f"{name!r} must be a list of strings, got {shown(value)}"
    return None


def _texts(pair: PromptPair) -> Iterator[tuple[str, str]]:
    """Every text of a pair with its field."""
    for name in ("clean", "corrupted", "answer"):
        yield name, getattr(pair, name)
    yield from (("wrong_answer", text) for text in pair.all_wrong)
    yield from (("correct_answers", text) for text in pair.correct_answers)


def _wrong_text(pair: PromptPair) -> str | None:
    for name, text in (*_texts(pair), ("group", pair.group or "")):
        if (problem := not_unicode(text)) is not None:
            return f"{name!r}: {problem}"
    for name, text in _texts(pair):
        if (mark := TAG.search(text)) is not None:
            return f"{name!r} holds {mark.group()}, a mark of JSON lines; give the text without it"
    return None


def _wrong_split(pair: PromptPair) -> str | None:
    if pair.split is None or pair.split in SPLITS:
        return None
    return str(UnknownNameError.of("split", pair.split, SPLITS))


def _empty(pair: PromptPair) -> str | None:
    if not pair.answer.strip():
        return "the answer is empty; put its text between <predict> and </predict>"
    for side in ("clean", "corrupted"):
        if not getattr(pair, side).strip():
            return f"the {side} side has no text before the answer"
    if pair.wrong_answer is not None and pair.wrong_answers:
        return "give wrong_answer or wrong_answers, not both"
    if not all(other.strip() for other in (*pair.all_wrong, *pair.correct_answers)):
        return "an alternative answer is empty"
    return None


def _wrong_spaces(pair: PromptPair) -> str | None:
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


def _wrong_sets(pair: PromptPair) -> str | None:
    if pair.correct_answers and pair.answer not in pair.correct_answers:
        listed = ", ".join(map(repr, pair.correct_answers[:5]))
        return f"'correct_answers' ({listed}) does not hold the answer {pair.answer!r}; add it"
    for wrong in pair.all_wrong:
        if wrong == pair.answer or wrong in pair.correct_answers:
            which = "the answer itself" if wrong == pair.answer else "among the 'correct_answers' too"
            return f"the wrong answer {wrong!r} is {which}; give another, or none"
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


# ---------------------------------------------------------------- many prompts, as tokens


@dataclass(frozen=True, kw_only=True)
class SharedPrompt:
    """A prompt that stands in two splits.

    Attributes:
        first: Where it stands first: its file and line, or its text.
        first_split: In which split.
        again: Where it stands again.
        again_split: In which split.
        texts: Both texts; the same tokens, maybe in other words.
    """

    first: str
    first_split: str
    again: str
    again_split: str
    texts: tuple[str, str]


def shared_prompts(splits: Mapping[str, EncodedPairs]) -> list[SharedPrompt]:
    """Find prompts whose tokens stand in two splits.

    Args:
        splits: The prompts by split.

    Returns:
        Each prompt that another split, earlier in the order given, has already.
    """
    homes: dict[bytes, tuple[str, int]] = {}
    found = []
    for split, pairs in splits.items():
        for index, key in enumerate(pairs.prompt_keys):
            home, at = homes.setdefault(key, (split, index))
            if home != split:
                earlier = splits[home]
                texts = (earlier.texts[at] if earlier.texts else "", pairs.texts[index] if pairs.texts else "")
                found.append(
                    SharedPrompt(
                        first=earlier.where(at),
                        first_split=home,
                        again=pairs.where(index),
                        again_split=split,
                        texts=texts,
                    )
                )
    return found


def refuse_shared_prompts(splits: Mapping[str, EncodedPairs]) -> None:
    """Refuse a prompt whose tokens stand in two splits, whatever its words.

    Args:
        splits: The prompts by split, or by a name that says of which split they are.

    Raises:
        PromptFormatError: There is one; the message names both places.
    """
    found = shared_prompts(splits)
    if not found:
        return
    one = found[0]
    more = f" ({len(found) - 1} more prompts are in two splits)" if len(found) > 1 else ""
    words = ""
    if one.texts[0] != one.texts[1]:
        words = (
            f"; {shown(one.texts[1])} and {shown(one.texts[0])} differ only in what the tokenizer does not tell apart, "
            "such as spaces, case, Unicode forms or words that it does not know"
        )
    raise PromptFormatError(
        f"{one.again}: this prompt is in split {one.again_split!r} and has the same tokens as {one.first}, which is in "
        f"{one.first_split!r}{words}; splits must share no prompt: remove one of the two{more}"
    )


def refuse_equal_sides(pairs: EncodedPairs) -> None:
    """Refuse prompts none of which differs from its counterfactual: whatever is cut then, nothing changes.

    Args:
        pairs: The prompts.

    Raises:
        PromptFormatError: All have the same tokens on both sides.
    """
    if not len(pairs) or pairs.differs.any():
        return
    texts = f" ({shown(pairs.texts[0])} and {shown(pairs.corrupted_texts[0])})" if _differ_as_text(pairs) else ""
    which = f"all {len(pairs)} prompts have the same tokens as their" if len(pairs) > 1 else "it has the tokens of its"
    raise PromptFormatError(
        f"{pairs.where(0)}: {which} counterfactual{texts}, so that cutting an edge changes nothing and every circuit, "
        "even the empty one, agrees with the model; give counterfactuals with other tokens, or use another ablation, "
        "such as mean or zero"
    )


def _differ_as_text(pairs: EncodedPairs) -> bool:
    return bool(pairs.texts and pairs.corrupted_texts and pairs.texts[0] != pairs.corrupted_texts[0])


def units(keys: Iterable[object], groups: Sequence[str | None]) -> list[list[int]]:
    """Collect the prompts that must stay in one split: those of one key, or of one group in any spelling.

    Args:
        keys: What tells each prompt from others, such as its token ids.
        groups: Each prompt's group, or None.

    Returns:
        The numbers of the prompts of each unit; units by their first prompt.

    Examples:
        >>> units(["a", "b", "a", "c"], [None, "Chad", "chad ", None])
        [[0, 1, 2], [3]]
    """
    home: dict[object, int] = {}
    found: dict[int, list[int]] = {}
    for number, (key, group) in enumerate(zip(keys, groups, strict=True)):
        marks = [("key", key)] + ([] if group is None else [("group", spelled_alike(group).casefold())])
        known = sorted({home[mark] for mark in marks if mark in home})
        target = known[0] if known else number
        found.setdefault(target, [])
        for merged in known[1:]:
            found[target] += found.pop(merged)
            home = {mark: target if at == merged else at for mark, at in home.items()}
        found[target].append(number)
        home.update(dict.fromkeys(marks, target))
    return list(found.values())


def spelled_alike(text: str) -> str:
    """Write a label in one Unicode form and with single spaces, for comparing.

    Examples:
        >>> spelled_alike(" Sao  Tome ")
        'Sao Tome'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())
