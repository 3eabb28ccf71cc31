"""Plurals of words that there are not: is an s added?

`This is a dax. Here are two dax` → `s`; `This is a dax. Here is one dax` → `.`. The word is made up, so that its
plural was never seen. Right and wrong are sets: endings of a plural on one side, on the other what may follow a
singular word that ends the sentence. The counterfactual exchanges *one* and *two*. Words whose plural has other
tokens than the word and an ending are left out.

SmolLM2-135M: 97.5 % of 80 test prompts right.

References:
    Berko 1958, "The child's learning of English morphology", Word; Hanna, Pezzelle, Belinkov 2025 (arXiv 2503.11302).
"""

from __future__ import annotations

from collections.abc import Iterator

from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext, shortened
from pruning.tasks.registry import register_task

WORDS = (
    "dax", "wug", "blick", "tev", "zup", "fep", "gorp", "plon", "snarp", "trell", "vorn", "rund", "spem", "kiv",
    "lorp", "drem", "crull", "brimp", "gled", "hask", "jorn", "kem", "lunt", "merk", "norp", "pell", "stam", "vell",
    "wem", "yorp", "zill", "cren", "dorl", "frib", "korb", "murn", "pank", "rell", "slib", "tolk", "vunk", "yelm",
    "zorn", "clome", "drike", "frone", "wib", "jat", "gub", "fap", "sut", "plok", "trib", "vib", "zot", "wep",
    "lub", "nam", "pim", "teb", "yat", "brog", "clib", "drup", "flim", "grut", "krim", "plen", "skib", "slon",
    "stib", "twop", "zib", "zeb", "kib", "gop", "jup", "mub", "nuk", "pob", "rab", "tig", "yab", "zad", "quib",
    "thib", "frad", "glab", "krob", "prib", "slad", "snib", "spab", "trob", "twib", "vreb", "clab", "fram", "zob",
    "wob", "dreb", "plig",
)  # fmt: skip
# What stands before one word, and before several.
SENTENCES = (
    ("This is a {}. Here is one {}", "This is a {}. Here are two {}"),
    ("Here is a {}. Now there is one {}", "Here is a {}. Now there are two {}"),
    ("I have a {}. You have one {}", "I have a {}. You have two {}"),
    ("She drew a {}. He drew one {}", "She drew a {}. He drew three {}"),
    ("Look at this {}. There is one {}", "Look at this {}. There are four {}"),
)
_EXAMPLE = tuple(sentence.format(WORDS[0], WORDS[0]) for sentence in SENTENCES[0])
ENDINGS = ((".", ",", "!"), ("s", "es"))


@register_task(
    "nonce-plurals",
    description="Is an s added to a made-up word? Right and wrong are sets; counterfactual: one for two.",
    sizes={"train": 80, "validation": 40, "test": 80},
    example=f"{_EXAMPLE[1]}<predict>s</predict>\ncounterfactual: {_EXAMPLE[0]}",
)
def nonce_plurals(context: TaskContext) -> Iterator[PromptPair]:
    """Go through sentences, words and numbers."""
    asked = [(sentences, word) for sentences in SENTENCES for word in WORDS]
    fits = [context.fit([_pair(*one, number) for one in asked]) for number in (0, 1)]
    usable = [one for one, *both in zip(asked, *fits, strict=True) if all(both)]
    if dropped := sorted(set(WORDS) - {word for _, word in usable}):
        context.note(f"words: another token in the plural; dropped {shortened(dropped)}")
    for (sentences, word), number in context.product(usable, (0, 1)):
        yield _pair(sentences, word, number)


def _pair(sentences: tuple[str, str], word: str, number: int) -> PromptPair:
    """Ask for one of a word, or for several."""
    right, wrong = ENDINGS[number], ENDINGS[1 - number]
    return PromptPair(
        clean=sentences[number].format(word, word),
        corrupted=sentences[1 - number].format(word, word),
        answer=right[0],
        correct_answers=right,
        wrong_answers=wrong,
        corrupted_answer=wrong[0],
        group=("one", "several")[number],
    )
