"""Facts about the world, each an item and its answer in three wordings and two regimes (see `regimes`).

- `capital-country`: `Paris is the capital of` → ` France`, the other way round than `capitals`;
- `languages`: `The language that is spoken in Brazil is` → ` Portuguese`.

The counterfactual asks for another item with another answer. Our own lists, of countries with one plain answer.

SmolLM2-135M, 40 test prompts each: capital-country 100 % by instruction and 97.5 % in context, languages 100 %
and 100 %.
"""

from __future__ import annotations

from collections.abc import Iterator

from pruning.prompts.pairs import PromptPair
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.context import TaskContext
from pruning.tasks.regimes import Wording, item_pairs, listed, register_regimes

COUNTRIES = {city: country for country, city in CAPITALS.items() if " " not in city}

LANGUAGES = listed(
    """
Argentina Spanish; Australia English; Austria German; Bangladesh Bengali; Brazil Portuguese; Bulgaria Bulgarian; Chile
Spanish; China Chinese; Colombia Spanish; Croatia Croatian; Cuba Spanish; Denmark Danish; Ecuador Spanish; Egypt
Arabic; England English; Estonia Estonian; Finland Finnish; France French; Georgia Georgian; Germany German; Greece
Greek; Guatemala Spanish; Honduras Spanish; Hungary Hungarian; Iceland Icelandic; Iran Persian; Iraq Arabic; Israel
Hebrew; Italy Italian; Jamaica English; Japan Japanese; Jordan Arabic; Kuwait Arabic; Latvia Latvian; Lebanon Arabic;
Libya Arabic; Lithuania Lithuanian; Mexico Spanish; Mongolia Mongolian; Morocco Arabic; Netherlands Dutch; Nicaragua
Spanish; Norway Norwegian; Panama Spanish; Peru Spanish; Poland Polish; Portugal Portuguese; Qatar Arabic; Romania
Romanian; Russia Russian; Serbia Serbian; Slovakia Slovak; Slovenia Slovenian; Spain Spanish; Sweden Swedish; Syria
Arabic; Thailand Thai; Tunisia Arabic; Turkey Turkish; Ukraine Ukrainian; Uruguay Spanish; Venezuela Spanish; Vietnam
Vietnamese; Yemen Arabic; Angola Portuguese; Mozambique Portuguese; Albania Albanian; Nepal Nepali; Scotland English;
Somalia Somali """
)

WORDINGS = {
    "capital-country": (
        Wording(
            instruction="Complete the sentence with the name of a country.\n{item} is the capital of",
            in_context="{item} is the capital of {answer}",
            examples=(("Lima", "Peru"), ("Budapest", "Hungary"), ("Amman", "Jordan")),
        ),
        Wording(
            instruction="Name the country of which the city is the capital.\nCity: {item}\nCountry:",
            in_context="{item} is the capital city of {answer}",
            examples=(("Budapest", "Hungary"), ("Oslo", "Norway"), ("Lima", "Peru")),
        ),
        Wording(
            instruction="Say in which country the city lies.\nThe city of {item} is the capital of",
            in_context="The country whose capital is {item} is {answer}",
            examples=(("Oslo", "Norway"), ("Amman", "Jordan"), ("Lima", "Peru")),
        ),
    ),
    "languages": (
        Wording(
            instruction="Complete the sentence with the name of a language.\nThe language spoken in {item} is",
            in_context="The language spoken in {item} is {answer}",
            examples=(("Hungary", "Hungarian"), ("Peru", "Spanish"), ("Jordan", "Arabic")),
        ),
        Wording(
            instruction="Name the language of the country.\nCountry: {item}\nLanguage:",
            in_context="In {item}, people speak {answer}",
            examples=(("Peru", "Spanish"), ("Norway", "Norwegian"), ("Jordan", "Arabic")),
        ),
        Wording(
            instruction="Which language is it?\nMost people in {item} speak",
            in_context="Most people in {item} speak {answer}",
            examples=(("Jordan", "Arabic"), ("Hungary", "Hungarian"), ("Norway", "Norwegian")),
        ),
    ),
}
ITEMS = {"capital-country": COUNTRIES, "languages": LANGUAGES}
_TOLD = {
    "capital-country": ("cities", "Which country is a city the capital of? Counterfactual: another city."),
    "languages": ("countries", "Which language is spoken in a country? Counterfactual: another country."),
}


def _register(name: str, kind: str, description: str) -> None:
    """Register one kind of facts in both regimes."""

    def by_instruction(context: TaskContext) -> Iterator[PromptPair]:
        return item_pairs(context, ITEMS[name], WORDINGS[name], in_context=False, kind=kind)

    def from_examples(context: TaskContext) -> Iterator[PromptPair]:
        return item_pairs(context, ITEMS[name], WORDINGS[name], in_context=True, kind=kind)

    register_regimes(
        name, description=description, instruction=by_instruction, in_context=from_examples,
        sizes={"train": 40, "validation": 20, "test": 40},
    )  # fmt: skip


for _name, (_kind, _description) in _TOLD.items():
    _register(_name, _kind, _description)
