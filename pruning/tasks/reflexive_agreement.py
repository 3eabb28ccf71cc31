"""Reflexive agreement: himself, herself or themselves?

`The kings near the boy admired` → ` themselves`. Between the reflexive and what it refers to stands another noun, of
the same number or of the other; groups tell the two apart. The counterfactual has the subject in the other number and
all else alike. The wrong answer is that of the other number: gender is not asked.

SmolLM2-135M: 81 % of 200 test prompts right, 98 % where the other noun has the
same number, 64 % where it has the other.

References:
    Warstadt et al. 2020, "BLiMP", TACL (anaphor number agreement); asked of circuits in arXiv 2505.10039.
"""

from __future__ import annotations

from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext, shortened
from pruning.tasks.registry import register_task

# Singular, plural, and the reflexive of the singular.
NOUNS = (
    "boy/boys/himself", "girl/girls/herself", "king/kings/himself", "queen/queens/herself", "father/fathers/himself",
    "mother/mothers/herself", "brother/brothers/himself", "sister/sisters/herself", "uncle/uncles/himself",
    "aunt/aunts/herself", "husband/husbands/himself", "son/sons/himself", "daughter/daughters/herself",
    "actress/actresses/herself", "prince/princes/himself", "princess/princesses/herself", "man/men/himself",
    "woman/women/herself", "monk/monks/himself", "nun/nuns/herself", "gentleman/gentlemen/himself",
    "lord/lords/himself", "grandmother/grandmothers/herself", "grandfather/grandfathers/himself",
    "priest/priests/himself",
)  # fmt: skip
VERBS = (
    "admired", "blamed", "hurt", "saw", "praised", "introduced", "defended", "helped", "taught", "described", "found",
    "protected",
)  # fmt: skip
BETWEEN = ("near the", "behind the", "beside the")
OPENINGS = ("The", "We know that the", "Later the")


@register_task(
    "reflexive-agreement",
    description="Himself, herself or themselves? Counterfactual: the subject in the other number.",
)
def reflexive_agreement(context: TaskContext) -> Iterator[PromptPair]:
    """Go through sentences, verbs, nouns and their numbers."""
    nouns = _paired(context)
    if len(nouns) < 2:
        raise ConfigurationError(
            f"task {context.task!r} needs nouns whose singular and plural have the same token count; this tokenizer "
            f"has {len(nouns)}"
        )
    for opening, between, verb, subject, near, number, near_number in context.product(
        OPENINGS, BETWEEN, VERBS, nouns, nouns, (0, 1), (0, 1)
    ):
        if subject == near:
            continue
        sides = [f"{opening} {form} {between} {near[near_number]} {verb}" for form in subject[:2]]
        reflexives = (f" {subject[2]}", " themselves")
        yield PromptPair(
            clean=sides[number],
            corrupted=sides[1 - number],
            answer=reflexives[number],
            wrong_answer=reflexives[1 - number],
            corrupted_answer=reflexives[1 - number],
            group="attractor agrees" if number == near_number else "attractor differs",
        )


def _paired(context: TaskContext) -> list[tuple[str, ...]]:
    """Keep the nouns whose two forms have the same token count, and note the others."""
    forms: list[tuple[str, ...]] = [tuple(word.split("/")) for word in NOUNS]
    counts = context.token_counts([form for word in forms for form in word[:2]])
    kept = [word for word in forms if counts[word[0]] == counts[word[1]]]
    if dropped := [word[0] for word in forms if word not in kept]:
        context.note(f"nouns: singular and plural differ in token count; dropped {shortened(dropped)}")
    return kept
