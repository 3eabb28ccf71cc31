"""Antonyms: what is the opposite?

`The opposite of hot is` → ` cold`, in two regimes over the same items (see `regimes`). The counterfactual
asks for the opposite of another word, and its answer is the wrong one.

Our own list. Each pair is asked in one direction only, from the word with the clearer opposite: asked both
ways, a pair could stand in two splits, and many words have one plain opposite only in one direction.
"""

from __future__ import annotations

from collections.abc import Iterator

from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.regimes import Wording, item_pairs, listed, register_regimes

_PAIRS = """
hot cold; big small; tall short; fast slow; high low; happy sad; good bad; old new; rich poor; strong weak;
heavy light; hard soft; early late; full empty; open closed; clean dirty; wet dry; loud quiet; bright dark;
thick thin; wide narrow; deep shallow; near far; left right; up down; inside outside; above below; over under;
before after; front back; top bottom; first last; begin end; start stop; push pull; give take; buy sell;
win lose; love hate; laugh cry; live die; come go; arrive depart; enter exit; increase decrease; rise fall;
accept reject; agree disagree; allow forbid; attack defend; build destroy; borrow lend; pass fail; find lose;
remember forget; save spend; teach learn; ask answer; sit stand; sleep wake; true false; yes no;
always never; all none; more less; many few; most least; everything nothing; positive negative;
plus minus; maximum minimum; major minor; male female; man woman; boy girl; husband wife; brother sister;
father mother; son daughter; king queen; uncle aunt; day night; morning evening; summer winter; north south;
east west; black white; heaven hell; war peace; friend enemy; hero villain; success failure; victory defeat;
profit loss; birth death; question answer; problem solution; cause effect; input output; import export;
internal external; public private; active passive; alive dead; awake asleep; brave cowardly; cheap expensive;
common rare; easy difficult; simple complex; safe dangerous; sweet bitter; smooth rough; sharp dull;
tight loose; young old; fresh stale; guilty innocent; healthy sick; honest dishonest; legal illegal;
possible impossible; regular irregular; visible invisible; correct incorrect; perfect imperfect;
patient impatient; polite rude; generous selfish; wise foolish; modern ancient; natural artificial;
permanent temporary; horizontal vertical; odd even; optimistic pessimistic; superior inferior;
asset liability; ascend descend; expand contract; absent present; senior junior; wealthy poor; hope despair;
freedom slavery; courage fear; majority minority; urban rural; vague clear; noisy quiet
"""

ANTONYMS = listed(_PAIRS)

WORDINGS = (
    Wording(
        instruction="Complete the sentence with one word.\nThe opposite of {item} is",
        in_context="The opposite of {item} is {answer}",
        examples=(("young", "old"), ("open", "closed"), ("summer", "winter")),
    ),
    Wording(
        instruction="Give the opposite of the word.\nWord: {item}\nOpposite:",
        in_context="either {item} or {answer}",
        examples=(("summer", "winter"), ("easy", "difficult"), ("black", "white")),
        separator=", ",
    ),
    Wording(
        instruction="Write the antonym of the given word. The antonym of {item} is",
        in_context="The antonym of {item} is {answer}",
        examples=(("easy", "difficult"), ("young", "old"), ("before", "after")),
    ),
)


def by_instruction(context: TaskContext) -> Iterator[PromptPair]:
    """Ask with an instruction."""
    return item_pairs(context, ANTONYMS, WORDINGS, in_context=False, kind="words")


def from_examples(context: TaskContext) -> Iterator[PromptPair]:
    """Ask after three examples."""
    return item_pairs(context, ANTONYMS, WORDINGS, in_context=True, kind="words")


register_regimes(
    "antonyms",
    description="What is the opposite of a word? Counterfactual: another word.",
    instruction=by_instruction,
    in_context=from_examples,
    sizes={"train": 80, "validation": 40, "test": 80},
)
