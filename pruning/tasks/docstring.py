'''Docstring-like retrieval: which argument comes next?

    def open(self, color, size, table, river):
        """
        :param color: the first part
        :param size: a second part
        :param

→ ` table`: the argument that follows in the list the one that was described last. In the counterfactual this argument
and the next one have changed places in the list, so that the next one is right there; it is the wrong answer. All
names are one token each.

SmolLM2-135M: 97 % of 200 test prompts right, all of these with the right name on top of the whole
vocabulary.

References:
    Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer". Words, and a
    counterfactual that only exchanges two of them, are ours.
'''

from __future__ import annotations

from collections.abc import Iterator

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

FUNCTIONS = ("open", "load", "update", "check", "create", "remove", "find", "send", "print", "build", "start", "count")
ARGUMENTS = (
    "color", "size", "table", "river", "window", "paper", "house", "music", "story", "water", "machine", "garden",
    "market", "letter", "number", "bridge", "camera", "engine", "island", "metal", "planet", "road", "school", "ship",
    "stone", "summer", "tree", "village", "weather", "wheel", "field", "glass", "horse", "king", "light", "mountain",
    "night", "ocean", "picture", "queen", "rain", "silver", "train", "wall", "winter", "bird", "bread", "church",
    "dog", "fire",
)  # fmt: skip
WORDS = ("first", "second", "old", "new", "large", "small", "good", "whole", "usual", "next", "last", "main")
_DRAWN = 5_000
_TEXT = """def {name}(self, {0}, {1}, {2}, {3}):
    \"\"\"
    :param {0}: the {a} part
    :param {1}: the {b} part
    :param"""


@register_task(
    "docstring",
    description="Which argument comes next in a docstring? Counterfactual: it and the next have changed places.",
)
def docstring(context: TaskContext) -> Iterator[PromptPair]:
    """Draw a function's name, four arguments, and the words that describe two of them."""
    names = context.same_length(ARGUMENTS, "arguments")
    if len(names) < 4:
        raise ConfigurationError(
            f"task {context.task!r} needs four names of the same token count; this tokenizer knows {len(names)}"
        )
    rng = context.rng
    for _ in range(_DRAWN):
        first, second, third, fourth = (names[int(at)] for at in rng.choice(len(names), size=4, replace=False))
        a, b = (WORDS[int(at)] for at in rng.choice(len(WORDS), size=2, replace=False))
        named = {"name": FUNCTIONS[int(rng.integers(len(FUNCTIONS)))], "a": a, "b": b}
        yield PromptPair(
            clean=_TEXT.format(first, second, third, fourth, **named),
            corrupted=_TEXT.format(first, second, fourth, third, **named),
            answer=f" {third}",
            wrong_answer=f" {fourth}",
            corrupted_answer=f" {fourth}",
        )
