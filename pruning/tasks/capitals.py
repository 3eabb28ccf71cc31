"""Capitals: which city?

`The capital of France is` → ` Paris`, in two regimes over the same items (see `regimes`). The counterfactual
asks for another country's capital, and its answer is the wrong one.

Our own list: countries with one undisputed capital whose name does not hold the country's (no Mexico City).
"""

from __future__ import annotations

from collections.abc import Iterator

from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.regimes import Wording, item_pairs, listed, register_regimes

_PAIRS = """
Afghanistan Kabul; Albania Tirana; Angola Luanda; Argentina Buenos Aires; Armenia Yerevan; Australia
Canberra; Austria Vienna; Azerbaijan Baku; Bahrain Manama; Bangladesh Dhaka; Belarus Minsk; Belgium
Brussels; Bosnia Sarajevo; Botswana Gaborone; Bulgaria Sofia; Cambodia Phnom Penh; Canada Ottawa; Chad
N'Djamena; Chile Santiago; China Beijing; Colombia Bogota; Croatia Zagreb; Cuba Havana; Cyprus Nicosia;
Denmark Copenhagen; Ecuador Quito; Egypt Cairo; Eritrea Asmara; Estonia Tallinn; Ethiopia Addis Ababa; Fiji
Suva; Finland Helsinki; France Paris; Gabon Libreville; Georgia Tbilisi; Germany Berlin; Ghana Accra; Greece
Athens; Guinea Conakry; Haiti Port-au-Prince; Honduras Tegucigalpa; Hungary Budapest; Iceland Reykjavik;
India New Delhi; Indonesia Jakarta; Iran Tehran; Iraq Baghdad; Ireland Dublin; Italy Rome; Jamaica Kingston;
Japan Tokyo; Jordan Amman; Kenya Nairobi; Laos Vientiane; Latvia Riga; Lebanon Beirut; Liberia Monrovia;
Libya Tripoli; Lithuania Vilnius; Madagascar Antananarivo; Malawi Lilongwe; Malaysia Kuala Lumpur; Mali
Bamako; Malta Valletta; Moldova Chisinau; Mongolia Ulaanbaatar; Morocco Rabat; Mozambique Maputo; Namibia
Windhoek; Nepal Kathmandu; Netherlands Amsterdam; Nicaragua Managua; Niger Niamey; Nigeria Abuja; Norway
Oslo; Oman Muscat; Pakistan Islamabad; Paraguay Asuncion; Peru Lima; Philippines Manila; Poland Warsaw;
Portugal Lisbon; Qatar Doha; Romania Bucharest; Russia Moscow; Rwanda Kigali; Senegal Dakar; Serbia
Belgrade; Slovakia Bratislava; Slovenia Ljubljana; Somalia Mogadishu; Spain Madrid; Sudan Khartoum; Sweden
Stockholm; Switzerland Bern; Syria Damascus; Thailand Bangkok; Turkey Ankara; Uganda Kampala; Ukraine Kyiv;
Uruguay Montevideo; Uzbekistan Tashkent; Venezuela Caracas; Vietnam Hanoi; Yemen Sanaa; Zambia Lusaka;
Zimbabwe Harare
"""

CAPITALS = listed(_PAIRS)

WORDINGS = (
    Wording(
        instruction="Name the capital city of the country.\nCountry: {item}\nCapital:",
        in_context="The capital city of {item} is {answer}",
        examples=(("Hungary", "Budapest"), ("Peru", "Lima"), ("Jordan", "Amman")),
    ),
    Wording(
        instruction="Complete the sentence with the name of a city.\nThe capital of {item} is",
        in_context="The capital of {item} is {answer}",
        examples=(("Peru", "Lima"), ("Hungary", "Budapest"), ("Norway", "Oslo")),
    ),
    Wording(
        instruction="Say which city is the capital.\nThe capital city of {item} is",
        in_context="In {item} the capital is {answer}",
        examples=(("Jordan", "Amman"), ("Norway", "Oslo"), ("Cuba", "Havana")),
    ),
)


def by_instruction(context: TaskContext) -> Iterator[PromptPair]:
    """Ask with an instruction."""
    return item_pairs(context, CAPITALS, WORDINGS, in_context=False, kind="countries")


def from_examples(context: TaskContext) -> Iterator[PromptPair]:
    """Ask after three examples."""
    return item_pairs(context, CAPITALS, WORDINGS, in_context=True, kind="countries")


register_regimes(
    "capitals",
    description="Which city is a country's capital? Counterfactual: another country.",
    instruction=by_instruction,
    in_context=from_examples,
    sizes={"train": 60, "validation": 30, "test": 60},
)
