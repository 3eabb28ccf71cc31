"""Negative polarity: ever or never?

`We know that no author has` → ` ever`; `We know that some author has` → ` never`. *Ever* has to stand under a
negation; without one *never* fits, and *ever* does not. The counterfactual exchanges the two determiners, on which
alone it depends.

SmolLM2-135M: 100 % of 200 test prompts right. With a clause or a place between subject and
verb (`no author in the town has`) *never* stays the likelier, so there is none here.

References:
    Warstadt et al. 2020, "BLiMP", TACL; Hanna, Pezzelle, Belinkov 2025 (arXiv 2503.11302) ask *ever* of circuits.
"""

from __future__ import annotations

from collections.abc import Iterator

from pruning.prompts.pairs import PromptPair
from pruning.tasks.agreement import PEOPLE
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

OPENINGS = ("We know that", "I think that", "It is clear that", "Everyone says that", "They told us that")
OTHERS = ("some", "one", "the", "this")
ADJECTIVES = ("", "young ", "old ", "good ")
VERBS = ("has", "had")


@register_task(
    "negative-polarity",
    description="Ever or never? It depends on a no before the noun; counterfactual: another determiner.",
)
def negative_polarity(context: TaskContext) -> Iterator[PromptPair]:
    """Go through openings, determiners, adjectives, nouns and verbs."""
    nouns = [word.split("/")[0] for word in PEOPLE]
    for opening, other, adjective, noun, verb, place in context.product(
        OPENINGS, OTHERS, ADJECTIVES, nouns, VERBS, (0, 1)
    ):
        sides = [f"{opening} {determiner} {adjective}{noun} {verb}" for determiner in ("no", other)]
        answers = (" ever", " never")
        yield PromptPair(
            clean=sides[place],
            corrupted=sides[1 - place],
            answer=answers[place],
            wrong_answer=answers[1 - place],
            corrupted_answer=answers[1 - place],
            group=("no", "another determiner")[place],
        )
