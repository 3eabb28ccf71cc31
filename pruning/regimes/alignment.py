"""Whether regimes ask for the same items: aligned by `group`, split by split, no item and no prompt in two splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations, permutations

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.prompt_rules import refuse_shared_prompts, spelled_alike
from pruning.prompts.text_rules import SPLITS
from pruning.tasks import TaskData

_SHOWN = 5


def require_aligned(tasks: Mapping[str, TaskData]) -> list[str]:
    """Refuse regimes that do not ask for the same items in the same splits.

    An item is what `group` names. The order of the items, and how often each is asked, may differ; the second is
    told, because it weighs items differently.

    Args:
        tasks: Each regime's prompts, at least two regimes.

    Returns:
        What is worth knowing, one text each.

    Raises:
        ConfigurationError: There are fewer than two regimes.
        PromptFormatError: A prompt without a group, an item or a prompt (by its tokens) in two splits (of one regime
            or of two), or an item that some regime does not ask.
    """
    if len(tasks) < 2:
        raise ConfigurationError(f"regimes are compared with each other: expected at least two; got {len(tasks)}")
    homes: dict[str, tuple[str, str]] = {}
    counts = {name: {split: _items(name, split, task) for split in _splits(task)} for name, task in tasks.items()}
    for name, by_split in counts.items():
        for split, items in by_split.items():
            _require_one_home(name, split, items, homes)
    _require_own_prompts(tasks)
    first, *others = counts
    notes = []
    for other in others:
        notes += _require_same(first, counts[first], other, counts[other])
    return notes


def _splits(task: TaskData) -> list[str]:
    return [split for split in SPLITS if split in task.splits and len(task.splits[split])]


def _items(regime: str, split: str, task: TaskData) -> Counter[str]:
    """How often a split asks for each item."""
    groups = task.splits[split].groups
    lacking = [index for index, group in enumerate(groups) if group is None]
    if lacking:
        texts = task.splits[split].texts
        which = f", such as {texts[lacking[0]]!r}" if texts else ""
        raise PromptFormatError(
            f"regime {regime!r} (task {task.name}): {len(lacking)} of {len(groups)} {split} prompts have no "
            f"group{which}; regimes are aligned by it: give every line a 'group' that names its item, the same in "
            "every regime"
        )
    return Counter(group for group in groups if group is not None)


def _require_own_prompts(tasks: Mapping[str, TaskData]) -> None:
    """Refuse a prompt, whatever its group, that one regime is trained on and another tested on."""
    for (one, first), (other, second) in combinations(tasks.items(), 2):
        if first.shares_prompts or second.shares_prompts:
            continue
        for split, elsewhere in permutations(SPLITS, 2):
            if split in first.splits and elsewhere in second.splits:
                mine, theirs = first.splits[split], second.splits[elsewhere]
                refuse_shared_prompts({f"{split} of regime {one}": mine, f"{elsewhere} of regime {other}": theirs})


def _require_one_home(regime: str, split: str, items: Iterable[str], homes: dict[str, tuple[str, str]]) -> None:
    """Refuse an item that is in another split, of this regime or of one before."""
    for item in items:
        other, home = homes.setdefault(spelled_alike(item), (regime, split))
        if home != split:
            raise PromptFormatError(
                f"item {item!r} is in split {split!r} of regime {regime!r} and in split {home!r} of regime {other!r}: "
                "what one circuit is tested on, another was trained on. Give each line a 'split', the same for an "
                "item everywhere"
            )


def _require_same(
    first: str, mine: Mapping[str, Counter[str]], other: str, theirs: Mapping[str, Counter[str]]
) -> list[str]:
    """Refuse items that only one of two regimes asks for; say where they are asked unequally often."""
    notes = []
    for split in SPLITS:
        one, two = mine.get(split, Counter()), theirs.get(split, Counter())
        lacks = [(first, other, sorted(one.keys() - two.keys())), (other, first, sorted(two.keys() - one.keys()))]
        alike = _spelled_otherwise(one, two)
        told = [f"{len(items)} of {has!r} are not in {lack!r}: {_shown(items)}" for has, lack, items in lacks if items]
        if told:
            if alike is not None:
                told.append(f"{alike[0]!r} and {alike[1]!r} differ in spaces or Unicode form only")
            raise PromptFormatError(
                f"regimes do not ask for the same items: split {split!r}: {'; '.join(told)}. Items are matched by "
                "'group'; add what is missing, or leave it out of both"
            )
        unequal = sorted(item for item in one if one[item] != two[item])
        if unequal:
            notes.append(
                f"split {split}: {len(unequal)} of {len(one)} items are not asked equally often by {first!r} and "
                f"{other!r}, such as {unequal[0]!r} ({one[unequal[0]]} against {two[unequal[0]]} prompts)"
            )
    return notes


def _spelled_otherwise(one: Iterable[str], two: Iterable[str]) -> tuple[str, str] | None:
    """An item that the other regime has in another spelling."""
    theirs = {spelled_alike(item): item for item in two}
    return next(
        ((item, theirs[spelled_alike(item)]) for item in one if theirs.get(spelled_alike(item), item) != item), None
    )


def _shown(items: list[str]) -> str:
    listed = ", ".join(repr(item) for item in items[:_SHOWN])
    return listed if len(items) <= _SHOWN else f"{listed} and {len(items) - _SHOWN} more"
