"""Greater-than: which years may follow?

`The war lasted from the year 1732 to the year 17` → a number above 32. The counterfactual has another century
and another year.

Right and wrong are sets of first tokens, and depend on how the tokenizer writes a year; this file finds out
and notes it:

- *year* (GPT-2): two digits are one token. Right: every two-digit number above the year's; wrong: the others,
  the year itself among them, as in the reference.
- *decade* (SmolLM2, Llama 2, Gemma): a digit is a token, so the first digit alone is asked. Right: every
  digit above the year's tens digit; wrong: every digit below. The same digit may begin either (1731 or 1739
  after 1732) and is in neither set. Tens digits 0 and 9 leave one set empty and are not used.
- *last digit* (Llama 3): three digits are one token, so the prompt ends in `the year 173` and the last digit
  is asked. Right: above the year's; wrong: the others.

The answer is one right continuation, drawn at random, and only its first token is asked: an exact match with
it means little here, membership in the right set and the probability difference are what counts.

References:
    Hanna et al., "How does GPT-2 compute greater-than?", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from circuitgraph.errors import ConfigurationError
from pruning.prompts.encoded_rows import continuation
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task

NOUNS = (
    "war", "siege", "campaign", "conflict", "dispute", "rebellion", "revolt", "uprising", "strike", "boycott",
    "reign", "dynasty", "alliance", "treaty", "truce", "peace", "reform", "crisis", "famine", "plague",
    "drought", "epidemic", "voyage", "expedition", "journey", "pilgrimage", "mission", "project", "program",
    "construction", "restoration", "excavation", "investigation", "trial", "case", "debate", "experiment",
    "study", "survey", "search", "tour", "festival", "tournament", "contest", "competition", "partnership",
    "marriage", "friendship", "career", "apprenticeship", "exile", "captivity", "occupation", "colonization",
    "migration", "settlement", "expansion", "decline", "recession", "boom", "trade", "blockade", "embargo",
    "ban", "curfew", "emergency", "regime", "government", "administration", "presidency", "term", "period",
)  # fmt: skip

CENTURIES = tuple(str(century) for century in range(11, 19))
_SENTENCE = "The {noun} lasted from the year {year} to the year {prefix}"


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How years are asked with one tokenizer.

    Attributes:
        name: `year`, `decade` or `last digit`.
        given: How many digits of the second year the prompt holds.
        note: What the user is told.
    """

    name: str
    given: int
    note: str

    def value(self, year: str) -> int:
        """Give the number that the first asked token is compared with."""
        return int({"year": year[2:], "decade": year[2], "last digit": year[3]}[self.name])

    def answers(self) -> tuple[str, ...]:
        """List the first tokens that may be said, in order."""
        if self.name == "year":
            return tuple(f"{number:02}" for number in range(100))
        return tuple("0123456789")

    def sets(self, year: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Give the right and the wrong first tokens after a year."""
        right = tuple(text for text in self.answers() if int(text) > self.value(year))
        limit = self.value(year) - (self.name == "decade")
        return right, tuple(text for text in self.answers() if int(text) <= limit)


_YEAR = _Form(name="year", given=2, note="years: two digits are one token; the year is asked")
_DECADE = _Form(
    name="decade",
    given=2,
    note="years: each digit is a token; the tens digit is asked, and an equal one counts neither way",
)
_LAST = _Form(name="last digit", given=3, note="years: three digits are one token; the last digit is asked")


@register_task(
    "greater-than",
    description="Which years may follow? Right and wrong are sets; counterfactual: another century and year.",
    sizes={"train": 150, "validation": 150, "test": 400},
)
def greater_than(context: TaskContext) -> Iterator[PromptPair]:
    """Go through nouns and years; the year of the counterfactual is drawn."""
    form = _form(context)
    context.note(form.note)
    nouns = context.same_length(NOUNS, "nouns")
    years = _years(context, form)
    if len({year[:2] for year in years}) < 2:
        raise ConfigurationError(
            f"task {context.task!r}: this tokenizer writes too few years in the same way (form "
            f"{form.name!r}, {len(years)} years of one century at most); choose another task"
        )
    for noun, year in context.product(nouns, years):
        others = [other for other in years if other[:2] != year[:2] and other[2:] != year[2:]]
        if not others:
            continue
        other = others[int(context.rng.integers(len(others)))]
        right, wrong = form.sets(year)
        yield PromptPair(
            clean=_SENTENCE.format(noun=noun, year=year, prefix=year[: form.given]),
            corrupted=_SENTENCE.format(noun=noun, year=other, prefix=other[: form.given]),
            answer=right[int(context.rng.integers(len(right)))],
            correct_answers=right,
            wrong_answers=wrong,
            group=year[:2],
        )


def _form(context: TaskContext) -> _Form:
    """Find how the tokenizer writes the end of a year, from what follows `17` and `173` in a sentence."""
    year = _continuations(context, "17", _YEAR.answers())
    if len(set(year.values())) > 50:
        return _YEAR
    if len(set(_continuations(context, "17", _DECADE.answers()).values())) == 10:
        return _DECADE
    if len(set(_continuations(context, "173", _LAST.answers()).values())) == 10:
        return _LAST
    raise ConfigurationError(
        f"task {context.task!r}: this tokenizer neither writes two digits as one token nor single digits, so "
        "no part of a year can be asked; choose another task"
    )


def _continuations(context: TaskContext, prefix: str, answers: Sequence[str]) -> dict[str, int]:
    """Give the first token of each answer after a year's first digits, where it is kept apart from them."""
    prompt = context.encoder.prompt_text(_SENTENCE.format(noun="war", year="1732", prefix=prefix))
    ids = context.encoder.ids([prompt, *(prompt + answer for answer in answers)])
    added = {answer: continuation(ids[prompt], ids[prompt + answer]) for answer in answers}
    return {answer: tokens[0] for answer, tokens in added.items() if tokens}


def _years(context: TaskContext, form: _Form) -> list[str]:
    """List the years that leave both sets filled and that the tokenizer writes like the commonest."""
    years = [f"{century}{number:02}" for century in CENTURIES for number in range(100)]
    usable = [year for year in years if all(form.sets(year))]
    if form is _YEAR:
        usable = [year for year in usable if 2 <= int(year[2:]) <= 98]
    return context.same_length(usable, "years")
