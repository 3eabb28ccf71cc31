"""Indirect object identification: who gets the thing?

`When Mary and John went to the store, John gave a drink to` → ` Mary`. The clean prompt names two people and
one of them again. The counterfactual has three other names in those places, so that it is the same sentence
without an answer; with the option `counterfactual=exchanged` it is the other of the two who is named again, so that
the two change parts and the other answer is right, as in MIB's `s2_io_flip_counterfactual`. Fifteen sentences, each in
the order ABBA (the repeated name second) and BABA (first).

Every prompt names the same five spans of positions: `start`, what stands before the first name; `name1`, from the first
name on; `name2`, from the second name on; `subject`, the repeated name; `end`, all behind it.

References:
    Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2
    small", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.names import NAMES
from pruning.tasks.registry import register_task

# {a} and {b} are the first two names, {s} the repeated one.
TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "After {a} and {b} went to the {place}, {s} gave a {object} to",
    "While {a} and {b} were working at the {place}, {s} gave a {object} to",
    "Then, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Then, {a} and {b} were thinking about going to the {place}. {s} wanted to give a {object} to",
    "Yesterday {a} and {b} met at the {place}, and {s} gave a {object} to",
    "This morning {a} and {b} walked to the {place}, and {s} handed the {object} to",
    "Since {a} and {b} often meet at the {place}, {s} gave a {object} to",
    "It was raining when {a} and {b} reached the {place}, so {s} gave a {object} to",
    "On the way to the {place}, {a} and {b} stopped for a rest, and {s} gave a {object} to",
    "As {a} and {b} walked past the {place}, {s} handed the {object} to",
    "Afterwards, {a} and {b} went to the {place}. {s} gave a {object} to",
    "As {a} and {b} were waiting outside the {place}, {s} lent a {object} to",
    "Last week {a} and {b} had a long talk at the {place}, and {s} sent a {object} to",
    "Because {a} and {b} were late for the {place}, {s} gave the {object} to",
)

PLACES = (
    "store", "garden", "restaurant", "school", "hospital", "office", "house", "station", "park", "library",
    "market", "museum", "church", "beach", "farm", "theater", "hotel", "bank", "bridge", "lake",
)  # fmt: skip

OBJECTS = (
    "ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack", "book", "letter", "key",
    "coin", "ticket", "map", "phone", "gift", "cup", "hat", "camera", "pen",
)  # fmt: skip

_SIZES = {"train": 200, "validation": 200, "test": 400}
_SIZES_T1 = {"train": 50, "validation": 50, "test": 50}
_OPTIONS = {"counterfactual": "fresh"}
_COUNTERFACTUALS = ("fresh", "exchanged")


@register_task(
    "ioi",
    description="Who gets the thing? 15 sentences, two orders of names; counterfactual: three fresh names.",
    sizes=_SIZES,
    options=_OPTIONS,
)
def ioi(context: TaskContext) -> Iterator[PromptPair]:
    """Make prompts from all fifteen sentences in both orders."""
    return _prompts(context, TEMPLATES, ("ABBA", "BABA"))


@register_task(
    "ioi-t1",
    description="Who gets the thing? One sentence in one order of names (ABBA).",
    sizes=_SIZES_T1,
    options=_OPTIONS,
)
def ioi_t1(context: TaskContext) -> Iterator[PromptPair]:
    """Make prompts from the first sentence, in the order ABBA."""
    return _prompts(context, TEMPLATES[:1], ("ABBA",))


def _prompts(context: TaskContext, templates: tuple[str, ...], orders: tuple[str, ...]) -> Iterator[PromptPair]:
    """Go through sentences, orders, places, objects and names; the names of the counterfactual are drawn."""
    kind = context.options.get("counterfactual", "fresh")
    if kind not in _COUNTERFACTUALS:
        raise UnknownNameError.of("counterfactual", str(kind), _COUNTERFACTUALS)
    names = context.same_length(NAMES, "names")
    if len(names) < 5:
        raise ConfigurationError(
            f"task {context.task!r} needs 5 names of the same token count, this tokenizer knows {len(names)}"
        )
    numbers = range(len(templates))
    for number, order, place, thing, subject, other in context.product(numbers, orders, PLACES, OBJECTS, names, names):
        if subject == other:
            continue
        free = [name for name in names if name not in (subject, other)]
        fresh = [free[int(at)] for at in context.rng.choice(len(free), size=3, replace=False)]
        first, second = (other, subject) if order == "ABBA" else (subject, other)
        sentence = templates[number].replace("{place}", place).replace("{object}", thing)
        spans = _spans(sentence, (first, second, subject))
        corrupted = _spans(sentence, (first, second, other) if kind == "exchanged" else tuple(fresh))
        yield PromptPair(
            clean="".join(piece for _, piece in spans),
            corrupted="".join(piece for _, piece in corrupted),
            spans=spans,
            corrupted_spans=corrupted,
            answer=f" {other}",
            wrong_answer=f" {subject}",
            corrupted_answer=f" {subject}" if kind == "exchanged" else None,
            group=f"{order}-{number + 1}",
        )


def _spans(sentence: str, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Five spans: up to the first name; from it to the second; from there to the repeated one; it; the rest.

    Examples:
        >>> _spans("When {a} and {b} went, {s} gave", ("Ann", "Bob", "Ann"))
        (('start', 'When '), ('name1', 'Ann and '), ('name2', 'Bob went, '), ('subject', 'Ann'), ('end', ' gave'))
    """
    start, rest = sentence.split("{a}")
    one, rest = rest.split("{b}")
    two, end = rest.split("{s}")
    first, second, subject = names
    return ("start", start), ("name1", first + one), ("name2", second + two), ("subject", subject), ("end", end)
