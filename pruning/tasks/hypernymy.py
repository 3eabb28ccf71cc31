"""Hypernymy: of which kind are both?

`Sparrows and eagles are two kinds of` → ` birds`. Right answers are a set, since some kinds have several names (`
fruit`, ` fruits`); wrong are those of the counterfactual's kind. The counterfactual names two words of another kind,
with the same token counts. Our own lists.

SmolLM2-135M: 100 % of 200 test prompts right (the kinds' names together likelier than those of the other kind).

References:
    Hanna, Pezzelle, Belinkov 2025, "Are formal and functional linguistic mechanisms dissociated in language models?"
    (arXiv 2503.11302) ask hypernyms so, with sets of answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

# The names of each kind, the commonest first; and words of the kind, as they begin a sentence.
KINDS = {
    ("birds",): "Sparrows Eagles Robins Crows Pigeons Owls Swans Hawks Parrots Penguins Ducks",
    ("fish", "fishes"): "Salmon Trout Sharks Carp Herring Cod Sardines",
    ("insects", "bugs"): "Ants Bees Wasps Beetles Flies Butterflies Mosquitoes Grasshoppers",
    ("fruit", "fruits"): "Apples Bananas Pears Cherries Peaches Grapes Plums Mangoes Lemons Oranges",
    ("vegetables", "vegetable"): "Carrots Cabbage Spinach Broccoli Onions Lettuce Cauliflower",
    ("trees",): "Oaks Pines Maples Birches Willows Firs Elms",
    ("flowers",): "Roses Tulips Lilies Daisies Violets Orchids Daffodils",
    ("musical", "instruments", "music"): "Pianos Violins Guitars Flutes Trumpets Drums Cellos Harps",
    ("vehicles", "transportation"): "Cars Trucks Buses Motorcycles Vans Taxis",
    ("furniture",): "Chairs Tables Sofas Desks Beds Cupboards",
    ("clothing", "clothes", "garments"): "Shirts Trousers Jackets Dresses Coats Skirts Socks",
    ("metals", "metal"): "Iron Copper Gold Silver Zinc Aluminum Tin Lead",
    ("sports", "sport"): "Football Tennis Basketball Baseball Hockey Swimming Volleyball",
    ("languages", "language"): "French German Spanish Italian Russian Chinese Japanese",
    ("colors", "color", "colours"): "Red Blue Green Yellow Purple Orange Pink",
    ("tools", "tool"): "Hammers Saws Screwdrivers Pliers Drills Wrenches",
    ("diseases", "disease"): "Malaria Cholera Measles Influenza Tuberculosis Cancer Diabetes",
    ("planets",): "Mars Venus Jupiter Saturn Mercury Neptune",
}

TEMPLATES = (
    "{a} and {b} are two kinds of",
    "{a} and {b} are both types of",
    "{a}, {b} and other kinds of",
)


@register_task(
    "hypernymy",
    description="Of which kind are both? Right and wrong are sets; counterfactual: two words of another kind.",
)
def hypernymy(context: TaskContext) -> Iterator[PromptPair]:
    """Go through sentences and words; the other word of the kind, and the counterfactual's two, are drawn."""
    words = {word: names for names, listed in KINDS.items() for word in listed.split()}
    first, second = context.token_counts(words, "{}"), context.token_counts([word.lower() for word in words])
    alike: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
    for listed in KINDS.values():
        for one in listed.split():
            for other in listed.split():
                if other != one:
                    alike[first[one], second[other.lower()]].append((one, other))
    kinds = {counts: {words[one] for one, _ in pairs} for counts, pairs in alike.items()}
    usable = [(counts, pair) for counts, pairs in alike.items() if len(kinds[counts]) > 1 for pair in pairs]
    if not usable:
        raise ConfigurationError(
            f"task {context.task!r} needs words of several kinds with the same token counts; this tokenizer has none"
        )
    for template, (counts, (one, other)) in context.product(TEMPLATES, usable):
        right = words[one]
        others = [pair for pair in alike[counts] if words[pair[0]] != right]
        drawn = others[int(context.rng.integers(len(others)))]
        sides = [template.format(a=a, b=_inside(words[a], b)) for a, b in ((one, other), drawn)]
        yield PromptPair(
            clean=sides[0],
            corrupted=sides[1],
            answer=f" {right[0]}",
            correct_answers=tuple(f" {name}" for name in right),
            wrong_answers=tuple(f" {name}" for name in words[drawn[0]]),
            corrupted_answer=f" {words[drawn[0]][0]}",
            group=right[0],
        )


def _inside(names: tuple[str, ...], word: str) -> str:
    """A word within a sentence: in small letters, but for names of languages and planets."""
    return word if names[0] in ("languages", "planets") else word.lower()
