"""Spans of prompts: which token belongs to which part of the sentence.

A pair may say of which spans its text is made (`PromptPair.spans`): names with pieces of text that follow each other.
Encoded, a span is the position at which it begins; it ends where the next begins, the last one behind the answer. So
every token is in one span, and the same in both sides. `divided` checks that all prompts have the same spans in the
same order, and has batches say which token is in which, as a universe with spans needs it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs

TASK, POSITIONS = "task", "positions"
WAYS = (TASK, POSITIONS)


def divided(pairs: EncodedPairs, how: str) -> EncodedPairs:
    """Prompts whose batches say which token is in which span.

    Args:
        pairs: The prompts.
        how: `task`: the spans that the prompts name themselves; `positions`: each position is a span, `p0`, `p1` and so
            on, which needs prompts of one length.

    Raises:
        UnknownNameError: There is no such way.
        PromptFormatError: A prompt names no spans, or others than the first, or has another length than the first.

    Examples:
        >>> from circuitgraph import load_model
        >>> from pruning import load_task
        >>> pairs = load_task("ioi-t1", load_model("smollm2-135m").tokenizer, sizes={"train": 4}).split("train")
        >>> divided(pairs, "task").divided_by
        ('start', 'name1', 'name2', 'subject', 'end')
    """
    if how not in WAYS:
        raise UnknownNameError.of("way to divide prompts into spans", how, WAYS)
    if how == POSITIONS:
        return _by_position(pairs)
    if not pairs.spans:
        raise PromptFormatError(
            "the prompts name no spans; take a task whose prompts do, such as ioi or induction, give your own pairs "
            "'spans', or divide prompts of one length by 'positions'"
        )
    names = tuple(name for name, _ in pairs.spans[0])
    for index, spans in enumerate(pairs.spans):
        own = tuple(name for name, _ in spans)
        if own != names:
            raise PromptFormatError(
                f"{pairs.where(index)}: its spans are {_listed(own)}, and those of {pairs.where(0)} are "
                f"{_listed(names)}; prompts must have the same spans in the same order"
            )
    return replace(pairs, divided_by=names)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _by_position(pairs: EncodedPairs) -> EncodedPairs:
    length = len(pairs.clean_ids[0])
    for index, n in enumerate(pairs.lengths.tolist()):
        if n != length:
            raise PromptFormatError(
                f"{pairs.where(index)} has {n} tokens, and {pairs.where(0)} has {length}; to have a span for each "
                "position, all prompts need one length (take 'task', or prompts of one template)"
            )
    names = tuple(f"p{position}" for position in range(length))
    spans = tuple((name, position) for position, name in enumerate(names))
    return replace(pairs, spans=(spans,) * len(pairs), divided_by=names)


def require_same_spans(universe: Universe, pairs: EncodedPairs) -> None:
    """Refuse prompts that are not divided as a model's edges are.

    Args:
        universe: The model's.
        pairs: The prompts.

    Raises:
        ConfigurationError: They are not, or something is asked where the universe reads no logits.
    """
    ours, theirs = ", ".join(universe.spans), ", ".join(pairs.divided_by)
    if universe.spans == pairs.divided_by:
        reads = {part.span for part in universe.parts if part.blocks[-1].kind == "logits"}
        if universe.spans and (others := asked_spans(pairs) - reads):
            raise ConfigurationError(
                f"something is asked at span {min(others)!r}, and the universe reads logits at: "
                f"{', '.join(name for name in universe.spans if name in reads)}"
            )
        return
    if not theirs:
        raise ConfigurationError(
            f"the model has an edge for each of the spans {ours}, and the prompts are not divided into spans; take "
            "task.with_spans(), on the command line --spans"
        )
    if not ours:
        raise ConfigurationError(
            f"the prompts are divided into the spans {theirs}, and the model's edges are not; take "
            "compiled.with_spans(task.spans, asked=task.asked_spans)"
        )
    raise ConfigurationError(f"the model has the spans {ours}, and the prompts have {theirs}; both need the same")


def span_labels(pairs: EncodedPairs, index: int) -> np.ndarray:
    """The number of the span that each token of a prompt is in `[seq]`.

    Args:
        pairs: Prompts that were `divided`.
        index: Which prompt.
    """
    starts = np.array([start for _, start in pairs.spans[index]])
    return np.searchsorted(starts, np.arange(len(pairs.clean_ids[index])), side="right") - 1


def asked_spans(pairs: EncodedPairs) -> set[str]:
    """Names of the spans in which anything is asked.

    Args:
        pairs: Prompts that were `divided`.
    """
    found: set[int] = set()
    for index, asked in enumerate(pairs.predict_positions):
        found.update(span_labels(pairs, index)[asked].tolist())
    return {pairs.divided_by[place] for place in found}
