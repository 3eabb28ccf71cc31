"""What a set of prompts must satisfy, whoever made it: a file, pairs in memory, a generator, another package.

Two kinds of rules. Those of one pair's text are in `pruning.prompts.text_rules`. Those of many prompts are here, and
known only as token ids, since other words may be the same tokens (spaces, case, Unicode forms, words that the
tokenizer does not know): no prompt in two splits (`refuse_shared_prompts`, asked by `load_task`, `task_from_pairs` and
a study's regimes), and sides that differ (`refuse_equal_sides`, asked wherever cut edges carry the counterfactual).
Rules that need a model, such as how many tokens it takes, are the pre-flight's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitgraph.errors import PromptFormatError
from pruning.prompts.text_rules import shown

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True)
class SharedPrompt:
    """A prompt that stands in two splits.

    Attributes:
        first: Where it stands first: its file and line, or its text.
        first_split: In which split.
        again: Where it stands again.
        again_split: In which split.
        texts: Both texts; the same tokens, maybe in other words.
    """

    first: str
    first_split: str
    again: str
    again_split: str
    texts: tuple[str, str]


def shared_prompts(splits: Mapping[str, EncodedPairs]) -> list[SharedPrompt]:
    """Find prompts whose tokens stand in two splits.

    Args:
        splits: The prompts by split.

    Returns:
        Each prompt that another split, earlier in the order given, has already.
    """
    homes: dict[bytes, tuple[str, int]] = {}
    found = []
    for split, pairs in splits.items():
        for index, key in enumerate(pairs.prompt_keys):
            home, at = homes.setdefault(key, (split, index))
            if home != split:
                earlier = splits[home]
                texts = (earlier.texts[at] if earlier.texts else "", pairs.texts[index] if pairs.texts else "")
                found.append(
                    SharedPrompt(
                        first=earlier.where(at),
                        first_split=home,
                        again=pairs.where(index),
                        again_split=split,
                        texts=texts,
                    )
                )
    return found


def refuse_shared_prompts(splits: Mapping[str, EncodedPairs]) -> None:
    """Refuse a prompt whose tokens stand in two splits, whatever its words.

    Args:
        splits: The prompts by split, or by a name that says of which split they are.

    Raises:
        PromptFormatError: There is one; the message names both places.
    """
    found = shared_prompts(splits)
    if not found:
        return
    one = found[0]
    more = f" ({len(found) - 1} more prompts are in two splits)" if len(found) > 1 else ""
    words = ""
    if one.texts[0] != one.texts[1]:
        words = (
            f"; {shown(one.texts[1])} and {shown(one.texts[0])} differ only in what the tokenizer does not tell apart, "
            "such as spaces, case, Unicode forms or words that it does not know"
        )
    raise PromptFormatError(
        f"{one.again}: this prompt is in split {one.again_split!r} and has the same tokens as {one.first}, which is in "
        f"{one.first_split!r}{words}; splits must share no prompt: remove one of the two{more}"
    )


def refuse_equal_sides(pairs: EncodedPairs) -> None:
    """Refuse prompts none of which differs from its counterfactual: whatever is cut then, nothing changes.

    Args:
        pairs: The prompts.

    Raises:
        PromptFormatError: All have the same tokens on both sides.
    """
    if not len(pairs) or pairs.differs.any():
        return
    texts = f" ({shown(pairs.texts[0])} and {shown(pairs.corrupted_texts[0])})" if _differ_as_text(pairs) else ""
    which = f"all {len(pairs)} prompts have the same tokens as their" if len(pairs) > 1 else "it has the tokens of its"
    raise PromptFormatError(
        f"{pairs.where(0)}: {which} counterfactual{texts}, so that cutting an edge changes nothing and every circuit, "
        "even the empty one, agrees with the model; give counterfactuals with other tokens, or use another ablation, "
        "such as mean or zero"
    )


def _differ_as_text(pairs: EncodedPairs) -> bool:
    return bool(pairs.texts and pairs.corrupted_texts and pairs.texts[0] != pairs.corrupted_texts[0])


def units(keys: Iterable[object], groups: Sequence[str | None]) -> list[list[int]]:
    """Collect the prompts that must stay in one split: those of one key, or of one group in any spelling.

    Args:
        keys: What tells each prompt from others, such as its token ids.
        groups: Each prompt's group, or None.

    Returns:
        The numbers of the prompts of each unit; units by their first prompt.

    Examples:
        >>> units(["a", "b", "a", "c"], [None, "Chad", "chad ", None])
        [[0, 1, 2], [3]]
    """
    home: dict[object, int] = {}
    found: dict[int, list[int]] = {}
    for number, (key, group) in enumerate(zip(keys, groups, strict=True)):
        marks = [("key", key)] + ([] if group is None else [("group", spelled_alike(group).casefold())])
        known = sorted({home[mark] for mark in marks if mark in home})
        target = known[0] if known else number
        found.setdefault(target, [])
        for merged in known[1:]:
            found[target] += found.pop(merged)
            home = {mark: target if at == merged else at for mark, at in home.items()}
        found[target].append(number)
        home.update(dict.fromkeys(marks, target))
    return list(found.values())


def spelled_alike(text: str) -> str:
    """Write a label in one Unicode form and with single spaces, for comparing.

    Examples:
        >>> spelled_alike(" Sao  Tome ")
        'Sao Tome'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())
