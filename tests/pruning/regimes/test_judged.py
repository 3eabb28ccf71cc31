"""A study judged by its table: each regime's circuits on its own prompts, verdicts that seeds share said once."""

from __future__ import annotations

import pandas as pd

from pruning.regimes.judged import study_verdicts


def row(role: str, regime: str, seed: str, kl: float, *, of: str = "", match: float = 0.9, n: int = 400) -> dict:
    accuracy = {"accuracy": 0.95} if role == "full" else {}
    return {"role": role, "of": of, "seed": seed, "regime": regime, "split": "test", "n_edges": 10, "n": n, "kl": kl,
            "exact_match": match, **accuracy}  # fmt: skip


def table(*, random_kl: dict[str, float]) -> pd.DataFrame:
    rows = []
    for regime in ("ask", "show"):
        rows += [row("full", regime, "", 0.0, match=1.0), row("empty", regime, "", 4.0, match=0.1)]
        for seed in ("0", "1"):
            for of in ("ask", "show"):
                rows.append(row("circuit", regime, seed, 0.5 if of == regime else 9.0, of=of))
                rows += [row("random", regime, seed, random_kl[of] + d, of=of, match=0.1) for d in (-0.1, 0.1)]
    return pd.DataFrame(rows)


def test_circuits_that_beat_their_baselines_on_their_own_prompts() -> None:
    """A circuit is bad on the other regime's prompts (KL 9), which is no verdict against it."""
    assert study_verdicts(table(random_kl={"ask": 4.0, "show": 4.0})) == []


def test_no_better_than_random_circuits_is_said_once_with_its_seeds() -> None:
    (one,) = study_verdicts(table(random_kl={"ask": 4.0, "show": 0.4}))
    assert (one["name"], one["severity"], one["regime"], one["seeds"]) == (
        "no-better-than-random", "wrong", "show", ["0", "1"],
    )  # fmt: skip
    assert "0.5" in one["text"] and "0.4" in one["text"] and "show test prompts" in one["text"]
