"""Subject-verb agreement across an attractor: is or are?

`We know that the keys next to the box` → ` are`. Between subject and verb stands another noun, the
attractor, of the same number or of the other; groups tell the two apart. The counterfactual has the subject
in the other number and all else alike, so that only the subject can say which verb is right.

References:
    Linzen et al., "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies", TACL 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext, shortened
from pruning.tasks.registry import register_task

# What a sentence begins with, and its verb in the singular and the plural.
OPENINGS = (
    ("We know that the", "is", "are"),
    ("Everyone knows that the", "is", "are"),
    ("Last year we heard that the", "was", "were"),
    ("So far, the", "has", "have"),
)

# Both are subjects; only things are attractors, since after a person a possessive is the likelier word.
THINGS = (
    "key/keys", "book/books", "picture/pictures", "letter/letters", "table/tables", "window/windows",
    "door/doors", "chair/chairs", "box/boxes", "bottle/bottles", "lamp/lamps", "ship/ships", "car/cars",
    "machine/machines", "tree/trees", "flower/flowers", "road/roads", "house/houses", "bridge/bridges",
    "report/reports", "painting/paintings", "statue/statues", "engine/engines", "wheel/wheels", "boat/boats",
)  # fmt: skip
PEOPLE = (
    "author/authors", "teacher/teachers", "doctor/doctors", "farmer/farmers", "pilot/pilots",
    "lawyer/lawyers", "manager/managers", "student/students", "singer/singers", "guard/guards",
    "judge/judges", "actor/actors", "writer/writers", "engineer/engineers", "officer/officers",
    "soldier/soldiers", "artist/artists", "player/players", "driver/drivers", "worker/workers",
    "friend/friends", "visitor/visitors",
)  # fmt: skip
PREPOSITIONS = ("near the", "behind the", "next to the", "beside the", "in front of the")


@register_task(
    "subject-verb-agreement",
    description="Is or are, with another noun in between? Counterfactual: the subject in the other number.",
)
def subject_verb_agreement(context: TaskContext) -> Iterator[PromptPair]:
    """Go through openings, prepositions, kinds of nouns, nouns and their numbers."""
    things, people = (_paired(context, words, kind) for words, kind in ((THINGS, "things"), (PEOPLE, "people")))
    nouns = [(subject, near) for subject in (*things, *people) for near in things if subject != near]
    if not nouns:
        raise ConfigurationError(
            f"task {context.task!r} needs nouns whose singular and plural have the same token count; this "
            "tokenizer has none"
        )
    for opening, preposition, (subject, near), number, near_number in context.product(
        OPENINGS, PREPOSITIONS, nouns, (0, 1), (0, 1)
    ):
        start, *verbs = opening
        sides = [f"{start} {form} {preposition} {near[near_number]}" for form in subject]
        yield PromptPair(
            clean=sides[number],
            corrupted=sides[1 - number],
            answer=f" {verbs[number]}",
            wrong_answer=f" {verbs[1 - number]}",
            corrupted_answer=f" {verbs[1 - number]}",
            group="attractor agrees" if number == near_number else "attractor differs",
        )


def _paired(context: TaskContext, words: Sequence[str], kind: str) -> list[tuple[str, str]]:
    """Keep the nouns whose two forms have the same token count, and note the others."""
    forms = [tuple(word.split("/")) for word in words]
    counts = context.token_counts([form for pair in forms for form in pair])
    kept = [(one, many) for one, many in forms if counts[one] == counts[many]]
    if dropped := [one for one, many in forms if counts[one] != counts[many]]:
        context.note(f"{kind}: singular and plural differ in token count; dropped {shortened(dropped)}")
    return kept
