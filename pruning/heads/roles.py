"""Names for what heads do, by stated rules on where they look and on what they say to the logits.

| role | looks, with at least `share` of its attention, | and says to the logits |
|---|---|---|
| `previous-token` | at the token before | |
| `duplicate-token` | at earlier copies of the token that it looks from | |
| `induction` | at what followed earlier copies of that token | |
| `mover` | from the asked position at the subject | more of the right answer than of the average token |
| `suppression` | from there at the subject, or at right or wrong answers | less of the token that it looks at most |
| `relation` | from there at the relation | more of all answers of the task than of the average token |

The *subject* is a span that was named so; else the places of the right answer, where every prompt holds it; else where
prompts differ from their counterfactuals. The *relation* is a span that was named so, and without it there is no such
role. What is said counts where the 95 % interval of its mean over prompts lies on the right side of 0.

A rule is worth as much as its baselines, so each comes with four: what a uniform head would give; how many heads would
pass whose attention is dealt anew among the positions that they see (`by_chance`); how many whose looks are judged by
another prompt's places (`by_place`: heads that look at places, whatever stands there; where all prompts are of one
template it is as many as pass); and how many heads there are.

References:
    Wang et al. 2022 (arXiv 2211.00593) for the roles in IOI; Olsson et al. 2022 (arXiv 2209.11895) for induction; Yao
    et al. 2024 (arXiv 2405.17969) for movers and relation heads of facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from circuitgraph.errors import ConfigurationError
from pruning.evaluation.intervals import intervals_of
from pruning.heads.capture import Capture, means_by_prompt
from pruning.heads.landmarks import ASKED, WITHIN, Landmark, landmarks
from pruning.prompts.encoding import EncodedPairs

SHARE, DRAWS = 0.5, 4
RULES = {
    "previous-token": "looks at the token before",
    "duplicate-token": "looks at earlier copies of the token that it looks from",
    "induction": "looks at what followed earlier copies of that token",
    "mover": "looks from the asked position at the subject, and says the right answer",
    "suppression": "looks from there at the subject or an answer, and says less of the token that it looks at most",
    "relation": "looks from there at the relation, and says answers of this kind",
}
_LOOKS = {"previous-token": "previous", "duplicate-token": "duplicate", "induction": "induction"}
_SAYS = {"mover": ("direct", 1), "suppression": ("attended", -1), "relation": ("type", 1)}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadRoles:
    """What heads do, and how far that is more than chance.

    Attributes:
        table: A row per head: `head`, `layer`, `roles` (joined by commas, empty of none); the mean share of its
            attention for each kind of place of `pruning.heads.landmarks`, NaN where it does not come up; and `direct`,
            `type` and `attended` (effects on the logits less their average over the vocabulary), each with `_low` and
            `_high`; `rank` and `probability` as of `Capture.table`.
        rules: A row per role: `role`, `rule`, `looks_at`, `n_prompts` (in which there is something to look at),
            `uniform` (a uniform head's share), `n_heads`, `n_pass`, `by_chance` (the mean of a few draws) and
            `by_place`.
        share: What counts as looking.
    """

    table: pd.DataFrame
    rules: pd.DataFrame
    share: float

    def __repr__(self) -> str:
        passed = zip(self.rules["role"], self.rules["n_pass"], strict=True)
        counts = ", ".join(f"{n} {role}" for role, n in passed if n)
        return f"<HeadRoles of {len(self.table)} heads: {counts or 'none has a role'}>"

    @property
    def by_head(self) -> dict[str, str]:
        """Roles by head, of those that have any."""
        named = self.table[self.table["roles"] != ""]
        return dict(zip(named["head"], named["roles"], strict=True))


def head_roles(
    found: Capture,
    pairs: EncodedPairs,
    *,
    spans: Mapping[str, str] | None = None,
    share: float = SHARE,
    seed: int = 0,
) -> HeadRoles:
    """Name what heads do.

    Args:
        found: What was captured.
        pairs: The prompts that it was captured on.
        spans: Texts in the prompts by a name of one's own; `subject` and `relation` are what rules speak of.
        share: How much of its attention a head has to give, from 0 to 1.
        seed: Of the baseline whose attention is dealt anew.

    Returns:
        The roles with their baselines.

    Raises:
        ConfigurationError: No heads, a share out of range, other prompts, or a span that is in no prompt.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> from pruning.heads.capture import capture
        >>> loaded = load_model("induction-neox")
        >>> compiled = compile_model(loaded)
        >>> sizes = {"train": 1, "validation": 0, "test": 20}
        >>> pairs = load_task("induction", loaded.tokenizer, sizes=sizes).split("test")
        >>> roles = head_roles(capture(compiled, pairs), pairs)
        >>> sorted(head for head, named in roles.by_head.items() if "induction" in named)
        ['a1.h0', 'a1.h1', 'a1.h2', 'a1.h3']
    """
    if not found.heads:
        raise ConfigurationError("roles are heads', and the capture holds none; name heads among its nodes")
    require_share(share)
    places = landmarks(found, pairs, spans)
    looked = {name: _looked(found.patterns, marks) for name, marks in places.items()}
    says, says_bounds = _says(found)
    rules = _rules(places, spans or {})
    rng = np.random.default_rng(seed)
    dealt = [_dealt(found, rng) for _ in range(DRAWS)]
    passing, rows = {}, []
    for role, marks in rules.items():
        n_prompts = sum(len(one.rows) > 0 for one in marks)
        passing[role] = _passes(role, found.patterns, marks, says_bounds, share)
        chance = [int(_passes(role, patterns, marks, says_bounds, share).sum()) for patterns in dealt]
        elsewhere = _of_another(marks, found.ids)
        rows.append(
            {
                "role": role, "rule": RULES[role], "looks_at": _called(role, places, spans or {}),
                "n_prompts": n_prompts, "uniform": _uniform(found, marks), "n_heads": len(found.heads),
                "n_pass": int(passing[role].sum()), "by_chance": float(np.mean(chance)),
                "by_place": int(_passes(role, found.patterns, elsewhere, says_bounds, share).sum()),
            }
        )  # fmt: skip
    return HeadRoles(table=_table(found, passing, looked, says, says_bounds), rules=pd.DataFrame(rows), share=share)


def require_share(share: float) -> None:
    """Refuse a share of attention that is none.

    Args:
        share: How much of its attention a head has to give.

    Raises:
        ConfigurationError: It is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigurationError(f"share must be above 0 and at most 1; got {share:g}")


def _subject(places: Mapping[str, list[Landmark]], spans: Mapping[str, str]) -> str:
    """Which places are the subject's."""
    if "subject" in spans:
        return "subject"
    return "answer" if all(len(one.rows) for one in places["answer"]) else "differing"


def _called(role: str, places: Mapping[str, list[Landmark]], spans: Mapping[str, str]) -> str:
    subject = _subject(places, spans)
    named = {**_LOOKS, "mover": subject, "relation": "relation"}
    return named.get(role) or " or ".join(dict.fromkeys((subject, "answer", "wrong")))


def _rules(places: Mapping[str, list[Landmark]], spans: Mapping[str, str]) -> dict[str, list[Landmark]]:
    """By role, the places that its rule speaks of."""
    subject = _subject(places, spans)
    found = {role: places[name] for role, name in _LOOKS.items()}
    found["mover"] = places[subject]
    together = zip(places[subject], places["answer"], places["wrong"], strict=True)
    found["suppression"] = [_either(parts) for parts in together]
    if "relation" in spans:
        found["relation"] = places["relation"]
    return found


def _either(parts: Sequence[Landmark]) -> Landmark:
    """Places that are any of several kinds."""
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    held = [np.zeros((len(rows), part.places.shape[1]), dtype=bool) for part in parts]
    for whole, part in zip(held, parts, strict=True):
        whole[np.searchsorted(rows, part.rows)] = part.places
    return Landmark(rows=rows, places=np.logical_or.reduce(held))


def _looked(patterns: Sequence[np.ndarray], marks: Sequence[Landmark]) -> Float[np.ndarray, " head"]:
    """The mean share of attention that each head gives, over prompts in which there is something to look at."""
    shares = [
        (pattern[:, mark.rows] * mark.places).sum(-1).mean(1)
        for pattern, mark in zip(patterns, marks, strict=True)
        if len(mark.rows)
    ]
    return np.mean(shares, axis=0) if shares else np.full(len(patterns[0]), np.nan)


def _seen(found: Capture, prompt: int) -> Bool[np.ndarray, "1 seq seq"]:
    """What a head can see from each position, windows aside."""
    n = len(found.ids[prompt])
    seen = np.ones((1, n, n), dtype=bool)
    return np.tril(seen) if found.causal else seen


def _uniform(found: Capture, marks: Sequence[Landmark]) -> float:
    """What a head gives that looks at all that it sees alike."""
    seen = [_seen(found, prompt) for prompt in range(len(found.ids))]
    return float(_looked([one / one.sum(-1, keepdims=True) for one in seen], marks)[0])


def _dealt(found: Capture, rng: np.random.Generator) -> list[np.ndarray]:
    """Each row of attention dealt anew among the positions that are seen from there."""
    made = []
    for prompt, pattern in enumerate(found.patterns):
        seen = np.broadcast_to(_seen(found, prompt), pattern.shape)
        given = np.take_along_axis(pattern, np.argsort(~seen, axis=-1, kind="stable"), -1)
        places = np.argsort(np.where(seen, rng.random(pattern.shape), 2.0), axis=-1)
        made.append(np.zeros_like(pattern))
        np.put_along_axis(made[-1], places, given, -1)
    return made


def _of_another(marks: Sequence[Landmark], ids: Sequence[np.ndarray]) -> list[Landmark]:
    """The places of the next prompt of the same length, instead of its own; none where there is no other."""
    lengths, found = np.array([len(one) for one in ids]), list(marks)
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for here, there in zip(members.tolist(), np.roll(members, -1).tolist(), strict=True):
            found[here] = (
                marks[there] if here != there else Landmark(rows=marks[here].rows[:0], places=marks[here].places[:0])
            )
    return found


def _passes(
    role: str,
    patterns: Sequence[np.ndarray],
    marks: Sequence[Landmark],
    says: Mapping[str, Float[np.ndarray, "head 2"]],
    share: float,
) -> Bool[np.ndarray, " head"]:
    passed = np.nan_to_num(_looked(patterns, marks)) >= share
    if role in _SAYS:
        name, sign = _SAYS[role]
        bounds = says[name]
        passed &= (bounds[:, 0] > 0) if sign > 0 else (bounds[:, 1] < 0)
    return passed


def _says(found: Capture) -> tuple[dict[str, np.ndarray], dict[str, Float[np.ndarray, "head 2"]]]:
    """What heads say, less the average over the vocabulary: means over prompts, and their bounds."""
    rows = [found.index(name) for name in found.heads]
    prompts = found.asked[:, 0]
    means, bounds = {}, {}
    for name, measure in (("direct", "right"), ("type", "type"), ("attended", "attended")):
        values = (found.direct[measure] - found.direct["average"])[rows]
        by_prompt = means_by_prompt(values, prompts)
        known = intervals_of({str(head): by_prompt[:, head] for head in range(len(rows))})
        means[name] = np.array([_mean_of(column) for column in by_prompt.T])
        bounds[name] = np.array([known[str(head)] or [np.nan, np.nan] for head in range(len(rows))], dtype=float)
    return means, bounds


def _mean_of(column: np.ndarray) -> float:
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else float("nan")


def _table(
    found: Capture,
    passing: Mapping[str, np.ndarray],
    looked: Mapping[str, np.ndarray],
    says: Mapping[str, np.ndarray],
    bounds: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    layers = found.universe.writer_layers[[found.universe.writers.index(name) for name in found.heads]]
    named = [", ".join(role for role, passed in passing.items() if passed[head]) for head in range(len(found.heads))]
    frame = pd.DataFrame({"head": found.heads, "layer": layers, "roles": named})
    extra = [name for name in looked if name not in (*WITHIN, *ASKED)]
    for name in (*WITHIN, *ASKED, *extra):
        frame[name] = looked[name]
    for name, values in says.items():
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = values, bounds[name][:, 0], bounds[name][:, 1]
    whole = found.table.set_index("node").loc[list(found.heads)]
    return frame.assign(rank=whole["rank"].to_numpy(), probability=whole["probability"].to_numpy())
