"""Entrainment by a distracting sentence: is the fact said, or the word that stands in the context?

`The capital of Italy is Rome. The capital of France is` → ` Paris`, with ` Rome` as the wrong answer: a token that
was said before is likelier whatever it says. In the counterfactual the sentence is about a third country (`The
capital of Spain is Madrid.`), so that the question is the same and the wrong answer was not said. With the option
`context=counterfactual` the sentence is false and about the country that is asked for (`The capital of France is
Rome.`).

SmolLM2-135M: 99.5 % of 200 test prompts right, so that the distraction is seen in the logits, not in the choice.

References:
    Niu et al. 2025, "Llama See, Llama Do: A Mechanistic Perspective on Contextual Entrainment and Distraction in LLMs"
    (arXiv 2505.09338), whose contexts these two are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

CONTEXTS = ("related", "counterfactual")
SENTENCES = (
    ("The capital of {} is {}. ", "The capital of {} is"),
    ("{} has its capital in {}. ", "The capital city of {} is"),
)


@register_task(
    "entrainment",
    description="Which city is the capital, after a sentence on another? Counterfactual: a sentence on a third.",
    options={"context": "related"},
)
def entrainment(context: TaskContext) -> Iterator[PromptPair]:
    """Go through sentences, countries and distracting cities; the third country is drawn."""
    kind = str(context.options.get("context", "related"))
    if kind not in CONTEXTS:
        raise UnknownNameError.of("context", kind, CONTEXTS)
    countries, cities = context.token_counts(CAPITALS), context.token_counts(CAPITALS.values())
    alike: dict[tuple[int, int], list[str]] = defaultdict(list)
    for country, city in CAPITALS.items():
        alike[countries[country], cities[city]].append(country)
    usable = max(alike.values(), key=len)
    if len(usable) < 3:
        raise ConfigurationError(
            f"task {context.task!r} needs three countries whose names and capitals have the same token counts; this "
            f"tokenizer has {len(usable)}"
        )
    for (said, asked), country, distractor in context.product(SENTENCES, usable, usable):
        if country == distractor:
            continue
        others = [one for one in usable if one not in (country, distractor)]
        third = others[int(context.rng.integers(len(others)))]
        about = (country, country) if kind == "counterfactual" else (distractor, third)
        question = asked.format(country)
        yield PromptPair(
            clean=said.format(about[0], CAPITALS[distractor]) + question,
            corrupted=said.format(about[1], CAPITALS[third]) + question,
            answer=f" {CAPITALS[country]}",
            wrong_answer=f" {CAPITALS[distractor]}",
            corrupted_answer=f" {CAPITALS[country]}",
            group=country,
        )
