"""Induction: what followed this letter before?

` q d k a m k` → ` a`. In the counterfactual the letter's first place is exchanged with that of another earlier letter
(` k d q a m k`), so that what followed it is another one; the prompts end alike. The circuit has to find the earlier
place by the letter *before* each position, which the heads of one layer cannot do alone: a head that looks one back
writes what a later head's key reads.

Prompts name two spans of positions: `letters`, all that come first, and `again`, the letter that is asked for.

References:
    Olsson et al., "In-context Learning and Induction Heads", 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_letters

from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

LETTERS = tuple(ascii_letters)
_LENGTHS = (10, 12, 14)
_DRAWN = 4000


@register_task(
    "induction",
    description="What followed this letter before? Counterfactual: its first place exchanged with another's.",
    sizes={"train": 200, "validation": 100, "test": 200},
)
def induction(context: TaskContext) -> Iterator[PromptPair]:
    """Draw letters in random order, the letter that is asked for, and the one that it changes places with."""
    letters = [f" {letter}" for letter in context.same_length(LETTERS, "letters")]
    seen: set[str] = set()
    for _ in range(_DRAWN):
        length = int(context.rng.choice(_LENGTHS))
        drawn = [letters[index] for index in context.rng.permutation(len(letters))[:length]]
        # Two places that are no neighbours, each with a letter after it; the asked letter is said again at the end.
        first, other = sorted(context.rng.choice(length - 1, size=2, replace=False).tolist())
        if other - first < 2:
            continue
        if context.rng.integers(2):
            first, other = other, first
        exchanged = list(drawn)
        exchanged[first], exchanged[other] = drawn[other], drawn[first]
        clean, corrupted = ("".join([*row, drawn[first]]) for row in (drawn, exchanged))
        if clean in seen:
            continue
        seen.add(clean)
        again = ("again", drawn[first])
        yield PromptPair(
            clean=clean,
            corrupted=corrupted,
            spans=(("letters", "".join(drawn)), again),
            corrupted_spans=(("letters", "".join(exchanged)), again),
            answer=drawn[first + 1],
            wrong_answer=drawn[other + 1],
            corrupted_answer=drawn[other + 1],
            group=str(length),
        )
