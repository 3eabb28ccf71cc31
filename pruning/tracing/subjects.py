"""Where the subject of each prompt is: the tokens that are hidden."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.heads.tokens import covering, tokens_of
from pruning.prompts.encoding import EncodedPairs

GROUP, DIFFERING = "group", "differing"
SPAN = "subject"
"""The span that is taken by default."""

_Finder = Callable[[int], tuple[int, int] | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subjects:
    """The subject of each prompt.

    Attributes:
        how: How it was found: a span's name, `group` or `differing`.
        first: Its first token in each prompt.
        last: Its last one.
        texts: What it is, as text.
    """

    how: str
    first: Int[np.ndarray, " prompt"]
    last: Int[np.ndarray, " prompt"]
    texts: tuple[str, ...]


def subjects_of(compiled: CompiledModel, pairs: EncodedPairs, how: str | None = None) -> Subjects:
    """Find the subject of each prompt, before the first asked position or at it.

    Args:
        compiled: The model.
        pairs: The prompts.
        how: The name of a span of the prompts; `group`, the prompt's group as a text in it, where it stands last (as
            whole words, if it does anywhere); or `differing`, from the first token in which prompt and counterfactual
            differ to the last. By default the span `subject`, else `group`, else `differing`: the first that every
            prompt has.

    Raises:
        UnknownNameError: There is no such span.
        ConfigurationError: A prompt has no subject; the message names it.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("smollm2-135m")
        >>> pairs = load_task("capitals", loaded.tokenizer, sizes={"train": 2}).split("train")
        >>> found = subjects_of(compile_model(loaded, verify=False), pairs)
        >>> found.how, found.texts == pairs.groups
        ('group', True)
    """
    if not len(pairs):
        raise ConfigurationError("there is nothing to trace: the split has no prompts")
    tokens = tokens_of(compiled, pairs)
    ends = [int(asked[0]) + 1 for asked in pairs.predict_positions]
    ways = _ways(pairs, tokens, ends)
    if how is not None and how not in ways:
        raise UnknownNameError.of("way to find the subject", how, ways)
    tried = [how] if how is not None else [name for name in (SPAN, GROUP, DIFFERING) if name in ways]
    for name in tried:
        found = [ways[name](index) for index in range(len(pairs))]
        known = [place for place in found if place is not None]
        if len(known) == len(pairs):
            first, last = (np.array(part) for part in zip(*known, strict=True))
            texts = tuple("".join(tokens[i][a : b + 1]).strip() for i, (a, b) in enumerate(known))
            return Subjects(how=name, first=first, last=last, texts=texts)
    raise _refusal(pairs, tried[-1], found.index(None), asked=how is not None)


def _ways(pairs: EncodedPairs, tokens: Sequence[tuple[str, ...]], ends: Sequence[int]) -> dict[str, _Finder]:
    """Each way by its name: from a prompt's number to its subject's first and last token."""

    def span(name: str, index: int) -> tuple[int, int] | None:
        starts = dict(pairs.spans[index])
        if name not in starts:
            return None
        after = [start for start in starts.values() if start > starts[name]]
        return _hull(np.arange(starts[name], min([*after, ends[index]])))

    def group(index: int) -> tuple[int, int] | None:
        text, before = (pairs.groups[index] or "").strip(), "".join(tokens[index][: ends[index]])
        if not text:
            return None
        whole = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", before)]
        at = whole[-1] if whole else before.rfind(text)
        return None if at < 0 else _hull(np.flatnonzero(covering(tokens[index], at, at + len(text))))

    def differing(index: int) -> tuple[int, int] | None:
        clean, other = (side[index][: ends[index]] for side in (pairs.clean_ids, pairs.corrupted_ids))
        return _hull(np.flatnonzero(clean != other))

    named = dict.fromkeys(name for spans in pairs.spans for name, _ in spans)
    return {GROUP: group, DIFFERING: differing} | {name: lambda i, name=name: span(name, i) for name in named}


def _hull(places: np.ndarray) -> tuple[int, int] | None:
    return (int(places[0]), int(places[-1])) if len(places) else None


def _refusal(pairs: EncodedPairs, how: str, index: int, *, asked: bool) -> ConfigurationError:
    why = {
        GROUP: f"does not hold its group, {pairs.groups[index]!r}, before its answer",
        DIFFERING: "does not differ from its counterfactual before its answer",
    }.get(how, f"has no span {how!r} before its answer")
    others = "a span's name, 'group' or 'differing'"
    more = f"; name the subject another way: {others}" if asked else f"; name the subject: {others}"
    return ConfigurationError(f"{pairs.where(index)} {why}, so there is no subject to hide{more}")
