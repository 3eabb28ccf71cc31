"""Captures whose heads were planted: attention and effects are written down, no model is run."""

from __future__ import annotations

import numpy as np

from circuitgraph.graph.universe import Universe
from pruning.heads.capture import Capture
from pruning.prompts.encoding import EncodedPairs

# Four prompts of six tokens; 5 stands twice, and what followed it first is the answer. The last token is asked.
IDS = ([1, 5, 7, 2, 3, 5], [5, 8, 1, 2, 4, 5], [2, 1, 5, 9, 3, 5], [3, 5, 6, 1, 2, 5])
ANSWERS, WRONG = (7, 8, 9, 6), (2, 1, 1, 2)
CORRUPTED = ([1, 5, 8, 2, 3, 5], [5, 7, 1, 2, 4, 5], [2, 1, 5, 8, 3, 5], [3, 5, 7, 1, 2, 5])
ANSWER_AT = (2, 1, 3, 2)


def pairs() -> EncodedPairs:
    return EncodedPairs(
        clean_ids=tuple(np.array(ids) for ids in IDS), corrupted_ids=tuple(np.array(ids) for ids in CORRUPTED),
        predict_positions=tuple(np.array([5]) for _ in IDS), answer_ids=tuple(np.array([one]) for one in ANSWERS),
        wrong_ids=tuple(np.array([one]) for one in WRONG),
    )  # fmt: skip


def looking_at(where) -> list[np.ndarray]:
    """One head's attention: from each position `.9` at `where(prompt, position)` and `.1` at itself."""
    found = []
    for prompt in range(len(IDS)):
        pattern = 0.1 * np.eye(6)
        for at in range(6):
            pattern[at, min(at, where(prompt, at))] += 0.9
        found.append(pattern)
    return found


def planted(heads: dict[str, list[np.ndarray]], says: dict[str, dict[str, float]] | None = None) -> Capture:
    """A capture of some heads of layer 0, by name, with what each says of every prompt (0 where nothing is given)."""
    n, names = len(IDS), tuple(heads)
    universe = Universe(family="gpt2", n_layers=1, n_heads=len(heads), n_kv_heads=len(heads))
    noise = np.linspace(-0.1, 0.1, n)
    direct = {
        name: np.stack([np.full(n, (says or {}).get(head, {}).get(name, 0.0)) + noise for head in names])
        for name in ("right", "wrong", "type", "attended")
    }
    direct |= {name: np.zeros((len(names), n)) for name in ("average", "rank", "probability")}
    return Capture(
        universe=universe, nodes=names, heads=names, ids=tuple(np.array(ids) for ids in IDS),
        tokens=tuple(tuple(f" t{one}" for one in ids) for ids in IDS),
        asked=np.array([[prompt, 5] for prompt in range(n)]), causal=True,
        patterns=tuple(np.stack([heads[head][prompt] for head in names]).astype(np.float32) for prompt in range(n)),
        said=np.zeros((len(names), n, 2)), direct=direct, logits={},
        top_ids=np.zeros((len(names), n, 0), dtype=int), top_direct=np.zeros((len(names), n, 0)), said_tokens={},
    )  # fmt: skip
