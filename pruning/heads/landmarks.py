"""Which positions a head looks at, by what stands there: the places that rules about heads speak of.

*Within* a prompt, wherever a head looks from (only pairs of positions where there is something to find count):

- `previous`: the token before;
- `duplicate`: earlier copies of the token that it looks from;
- `induction`: what followed earlier copies of that token;
- `first`: the prompt's first token.

*From the asked positions*:

- `answer`, `wrong`: places of right and wrong answers in the prompt;
- `differing`: where the prompt and its counterfactual differ;
- a span that was named: places of a text in the prompt, such as `capital of`.

A share of attention says nothing by itself: a head that looks at all it can see alike (*uniform*) gives a place the
share of the visible positions that it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from circuitgraph.errors import ConfigurationError
from pruning.heads.capture import Capture
from pruning.heads.tokens import covering
from pruning.prompts.encoding import EncodedPairs

WITHIN = ("previous", "duplicate", "induction", "first")
ASKED = ("answer", "wrong", "differing")


@dataclass(frozen=True, kw_only=True, eq=False)
class Landmark:
    """One kind of place in one prompt.

    Attributes:
        rows: Positions that are looked from `[row]`.
        places: For each, where the landmark is `[row seq]`; at least one place in every row.
    """

    rows: np.ndarray
    places: Bool[np.ndarray, "row seq"]

    @classmethod
    def of(cls, places: Bool[np.ndarray, "seq seq"], rows: np.ndarray) -> Landmark:
        """The landmark, without the rows in which it does not come up.

        Args:
            places: Where it is, for each position that is looked from.
            rows: Positions that count.
        """
        rows = rows[places[rows].any(1)]
        return cls(rows=rows, places=places[rows])


def landmarks(found: Capture, pairs: EncodedPairs, spans: Mapping[str, str] | None = None) -> dict[str, list[Landmark]]:
    """The places of every kind in every prompt.

    Args:
        found: What was captured.
        pairs: The prompts that it was captured on.
        spans: Texts by a name of one's own.

    Returns:
        By kind, one a prompt; its rows are none where it does not come up.

    Raises:
        ConfigurationError: Other prompts; a name that is taken; a text that is in no prompt.
    """
    if len(pairs) != len(found.ids) or any(
        not np.array_equal(ours, theirs) for ours, theirs in zip(found.ids, pairs.clean_ids, strict=True)
    ):
        raise ConfigurationError("the capture is of other prompts than those given; capture these first")
    spans = dict(spans or {})
    require_spans(spans, found.tokens)
    kinds: dict[str, list[Landmark]] = {name: [] for name in (*WITHIN, *ASKED, *spans)}
    for prompt, ids in enumerate(found.ids):
        every, asked = np.arange(len(ids)), found.asked[found.asked[:, 0] == prompt, 1]
        for name, places in _within(ids).items():
            kinds[name].append(Landmark.of(places, every[1:] if name == "first" else every))
        for name, row in (_from_asked(pairs, prompt) | _spans(found.tokens[prompt], spans)).items():
            kinds[name].append(Landmark.of(np.tile(row, (len(ids), 1)) & (every[:, None] >= every), asked))
    for name, text in spans.items():
        if not any(len(one.rows) for one in kinds[name]):
            raise ConfigurationError(f"span {name!r}: no prompt holds the text {text!r} where it can be looked at")
    return kinds


def require_spans(spans: Mapping[str, str], tokens: Sequence[tuple[str, ...]]) -> None:
    """Refuse spans that cannot be looked for, which can be seen before anything is run.

    Args:
        spans: Texts by a name of one's own.
        tokens: The prompts, as of `pruning.heads.tokens.tokens_of`.

    Raises:
        ConfigurationError: A name that is taken; a text that is empty, or in no prompt.
    """
    for name, text in spans.items():
        if name in (*WITHIN, *ASKED) or not name.isidentifier():
            raise ConfigurationError(
                f"a span has a name of its own, of letters, digits and underscores; got {name!r}, and "
                f"{', '.join((*WITHIN, *ASKED))} are taken"
            )
        if not text or not any(text in "".join(one) for one in tokens):
            raise ConfigurationError(
                f"span {name!r}: no prompt holds the text {text!r}; the first is {''.join(tokens[0])!r}"
            )


def _within(ids: np.ndarray) -> dict[str, Bool[np.ndarray, "seq seq"]]:
    n = len(ids)
    looked_at, from_ = np.arange(n), np.arange(n)[:, None]
    earlier = looked_at < from_
    before = np.concatenate([[-1], ids[:-1]])  # no token has the id -1
    return {
        "previous": looked_at == from_ - 1,
        "duplicate": earlier & (ids == ids[:, None]),
        "induction": (looked_at <= from_) & (before == ids[:, None]),
        "first": np.broadcast_to(looked_at == 0, (n, n)),
    }


def _from_asked(pairs: EncodedPairs, prompt: int) -> dict[str, Bool[np.ndarray, " seq"]]:
    ids = pairs.clean_ids[prompt]

    def places(*columns: tuple[np.ndarray, ...] | None) -> np.ndarray:
        wanted = [column[prompt][:1] if column is pairs.answer_ids else column[prompt] for column in columns if column]
        return np.isin(ids, np.concatenate(wanted)) if wanted else np.zeros(len(ids), dtype=bool)

    return {
        "answer": places(pairs.correct_ids, pairs.answer_ids),
        "wrong": places(pairs.wrong_ids),
        "differing": ids != pairs.corrupted_ids[prompt],
    }


def _spans(tokens: tuple[str, ...], spans: Mapping[str, str]) -> dict[str, Bool[np.ndarray, " seq"]]:
    """Tokens that lie in a text, wherever it stands in the prompt."""
    whole, found = "".join(tokens), {}
    for name, text in spans.items():
        row, at = np.zeros(len(tokens), dtype=bool), whole.find(text)
        while at >= 0:
            row |= covering(tokens, at, at + len(text))
            at = whole.find(text, at + 1)
        found[name] = row
    return found
