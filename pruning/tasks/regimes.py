"""Tasks in two regimes over the same items: by instruction, and in context from examples.

`register_regimes` registers three names: `NAME:instruction`, `NAME:in-context`, and `NAME`, which is the
first. A seed gives both regimes the same items in the same order, and `group` names the item, so that a
prompt of one regime can be set beside the other's. An item is kept only if both regimes can tokenise it.

`item_pairs` makes prompts for tasks whose items are listed (capitals, antonyms): few items, so each may be
asked in several wordings; an item stays within one split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.prompts.text_rules import SPLITS
from pruning.tasks.context import TaskContext, shortened
from pruning.tasks.registry import DEFAULT_SIZES, TaskFunction, register_task

_CANDIDATES = 5


def register_regimes(
    name: str,
    *,
    description: str,
    instruction: TaskFunction,
    in_context: TaskFunction,
    sizes: Mapping[str, int] = DEFAULT_SIZES,
) -> None:
    """Register a task's two regimes, and the first once more under the plain name.

    Args:
        name: The plain name.
        description: One sentence that both share.
        instruction: Makes the prompts that say what is asked.
        in_context: Makes the prompts that show examples.
        sizes: The default sizes.
    """
    regimes = (("", "", instruction), (":instruction", " By instruction.", instruction))
    for suffix, remark, function in (*regimes, (":in-context", " From three examples.", in_context)):
        remark = remark or f" The same as {name}:instruction."
        register_task(name + suffix, description=description + remark, sizes=sizes)(function)


def listed(text: str) -> dict[str, str]:
    """Read a list of items and answers: `item answer; item answer`, an item being one word.

    Examples:
        >>> listed("hot cold; Argentina Buenos Aires")
        {'hot': 'cold', 'Argentina': 'Buenos Aires'}
    """
    items = {}
    for pair in text.split(";"):
        item, answer = pair.split(maxsplit=1)
        items[item] = answer.strip()
    return items


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How an item is written in both regimes.

    Attributes:
        instruction: The prompt by instruction, with `{item}`.
        in_context: One example, with `{item}` and, at its end, ` {answer}`.
        examples: The items shown as examples.
        separator: What stands between examples.
    """

    instruction: str
    in_context: str
    examples: tuple[tuple[str, str], ...]
    separator: str = "\n"

    def prompts(self, item: str) -> tuple[str, str]:
        """Write the prompts that ask for an item: by instruction, in context."""
        shown = [self.in_context.format(item=shown, answer=answer) for shown, answer in self.examples]
        asked = self.in_context.format(item=item, answer="").rstrip()
        return self.instruction.format(item=item), self.separator.join((*shown, asked))


def item_pairs(
    context: TaskContext,
    items: Mapping[str, str],
    wordings: Sequence[Wording],
    *,
    in_context: bool,
    kind: str,
) -> Iterator[PromptPair]:
    """Make prompts from listed items; each counterfactual is another item of the same token count.

    1. Items shown as examples are not asked, and items without a counterfactual that fits in every wording
       and both regimes are left out. Answers may be of any length.
    2. The items, in random order, are shared out in proportion to the sizes of the splits.
    3. A split asks its items in the first wording, then in the second, until it is full.

    Args:
        context: The tokenizer, the sizes and the random stream.
        items: Each item's answer.
        wordings: How items are written.
        in_context: Which regime's prompts are given.
        kind: What the items are, in the plural, for notes.

    Yields:
        Pairs with split and group (the item) set.

    Raises:
        ConfigurationError: More prompts are asked for than items and wordings give.
    """
    partners = _partners(context, _askable(items, wordings), wordings, kind)
    for split, (wording, item) in _shared_out(context, list(partners), wordings, kind):
        yield _pairs(wording, (item, items[item]), (partners[item], items[partners[item]]), split)[in_context]


def _askable(items: Mapping[str, str], wordings: Sequence[Wording]) -> dict[str, str]:
    """Leave out the items that are shown as examples, or whose answers are."""
    shown = {word for wording in wordings for example in wording.examples for word in example}
    return {item: answer for item, answer in items.items() if item not in shown and answer not in shown}


def _partners(context: TaskContext, items: Mapping[str, str], wordings: Sequence[Wording], kind: str) -> dict[str, str]:
    """Give each item, in random order, the item of its counterfactual."""
    order = [list(items)[at] for at in context.rng.permutation(len(items))]
    counts = context.token_counts(order)
    alike: dict[int, list[str]] = defaultdict(list)
    for item in order:
        alike[counts[item]].append(item)
    choices = {}
    for item in order:
        others = [other for other in alike[counts[item]] if items[other] not in (items[item], item)]
        choices[item] = [others[at] for at in context.rng.permutation(len(others))[:_CANDIDATES]]
    fitting: dict[str, str] = {}
    for attempt in range(_CANDIDATES):
        tried = {
            item: others[attempt] for item, others in choices.items() if item not in fitting and attempt < len(others)
        }
        fitting.update(_fitting(context, items, wordings, tried))
    partners = {item: fitting[item] for item in order if item in fitting}
    if dropped := [item for item in order if item not in partners]:
        context.note(f"{kind}: no counterfactual of the same token count; dropped {shortened(dropped)}")
    return partners


def _fitting(
    context: TaskContext, items: Mapping[str, str], wordings: Sequence[Wording], tried: Mapping[str, str]
) -> dict[str, str]:
    """Keep the items whose counterfactual fits in every wording and both regimes."""
    pairs = [
        pair
        for item, other in tried.items()
        for wording in wordings
        for pair in _pairs(wording, (item, items[item]), (other, items[other]), None)
    ]
    fit = context.fit(pairs)
    per_item = 2 * len(wordings)
    return {
        item: other for at, (item, other) in enumerate(tried.items()) if all(fit[at * per_item : (at + 1) * per_item])
    }


def _pairs(
    wording: Wording, asked: tuple[str, str], other: tuple[str, str], split: str | None
) -> tuple[PromptPair, PromptPair]:
    """Write an item beside its counterfactual: by instruction, in context."""
    clean, corrupted = wording.prompts(asked[0]), wording.prompts(other[0])

    def pair(regime: int) -> PromptPair:
        return PromptPair(
            clean=clean[regime],
            corrupted=corrupted[regime],
            answer=f" {asked[1]}",
            wrong_answer=f" {other[1]}",
            corrupted_answer=f" {other[1]}",
            split=split,
            group=asked[0],
        )

    return pair(0), pair(1)


def _shared_out(
    context: TaskContext, items: list[str], wordings: Sequence[Wording], kind: str
) -> Iterator[tuple[str, tuple[Wording, str]]]:
    """Share items out to the splits, then ask each split's items in one wording after another."""
    sizes, start = context.sizes, 0
    for per_item in range(1, len(wordings) + 1):
        needed = {split: -(-sizes[split] // per_item) for split in SPLITS}
        if sum(needed.values()) <= len(items):
            break
    else:
        raise ConfigurationError(
            f"task {context.task!r} has {len(items)} {kind} in {len(wordings)} wordings with this tokenizer, "
            f"{len(items) * len(wordings)} prompts at most, and each of them stays within one split; "
            f"{sum(sizes.values())} prompts were asked for: ask for fewer"
        )
    for split in ("test", "validation", "train"):
        mine = items[start : start + needed[split]]
        start += needed[split]
        asked = [(wording, item) for wording in wordings for item in mine]
        for question in asked[: sizes[split]]:
            yield split, question
