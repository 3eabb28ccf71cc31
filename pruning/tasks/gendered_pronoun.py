"""Gendered pronoun: he or she?

`So Evan is such a great friend, isn't` → ` he`. The counterfactual has a name of the other gender.

References:
    Mathwin et al., "Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.names import FEMALE, MALE, NAMES
from pruning.tasks.registry import register_task

TEMPLATES = (
    "So {name} is such a great {noun}, isn't",
    "So {name} is a really good {noun}, isn't",
    "I think {name} is a great {noun}, isn't",
    "Well, {name} has become a wonderful {noun}, hasn't",
)

NOUNS = (
    "friend", "cook", "singer", "teacher", "neighbor", "leader", "student", "writer", "dancer", "driver",
    "player", "doctor", "artist", "speaker", "listener", "colleague", "swimmer", "runner",
)  # fmt: skip


@register_task(
    "gendered-pronoun",
    description="He or she? Counterfactual: a name of the other gender.",
    sizes={"train": 150, "validation": 150, "test": 378},
)
def gendered_pronoun(context: TaskContext) -> Iterator[PromptPair]:
    """Go through sentences, nouns and names; the other name is drawn among those of the other gender."""
    names = context.same_length(NAMES, "names")
    by_pronoun = {"he": [n for n in names if n in MALE], "she": [n for n in names if n in FEMALE]}
    if not all(by_pronoun.values()):
        raise ConfigurationError(
            f"task {context.task!r} needs names of both genders of the same token count; this tokenizer has none"
        )
    for template, noun, name in context.product(TEMPLATES, NOUNS, names):
        pronoun, opposite = ("he", "she") if name in MALE else ("she", "he")
        others = by_pronoun[opposite]
        other = others[int(context.rng.integers(len(others)))]
        yield PromptPair(
            clean=template.format(name=name, noun=noun),
            corrupted=template.format(name=other, noun=noun),
            answer=f" {pronoun}",
            wrong_answer=f" {opposite}",
            corrupted_answer=f" {opposite}",
            group=pronoun,
        )
