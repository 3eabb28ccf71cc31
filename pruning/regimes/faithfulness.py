"""Every circuit on every regime's prompts: the table of circuit × regime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.masks import evaluate_masks
from pruning.evaluation.sampled import N_RANDOM_PROMPTS, sampled_prompts
from pruning.evaluation.tables import flat_row
from pruning.regimes.derived import (
    CONSENSUS,
    Member,
    combined,
    consensus_of,
    require_one_ablation,
    with_random,
)
from pruning.regimes.training import require_universes
from pruning.tasks import TaskData

Tick = Callable[[str, int, int], None]
_FIRST = ["role", "of", "seed", "draw", "regime", "split", "n_edges", "n_raw", "n_universe", "n"]
_LAST = ["digest"]
_COUNTS = ("n_full_right", "n_undefined")


@with_gradients
def evaluate_regimes(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    circuits: Mapping[str, Mapping[int, Circuit]],
    *,
    split: str = "test",
    n_random: int = 5,
    n_random_prompts: int | None = N_RANDOM_PROMPTS,
    threshold: float = 0.5,
    seed: int = 0,
    batch_size: int = 16,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Measure what a study's circuits, and what is made of them, say on each regime's prompts.

    Seed by seed, seed k of one regime with seed k of the others, and once more for the consensus circuits, if there
    are several seeds: each regime's circuit, what all share, what any has, what only one has, and random circuits.

    Args:
        compiled: The model.
        tasks: The prompts by regime.
        circuits: Circuits by regime and seed; the same seeds for every regime.
        split: Which prompts.
        n_random: How many random circuits for each circuit and each intersection.
        n_random_prompts: On how many of a regime's prompts random circuits run, drawn once; None for all.
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least.
        seed: Of the random circuits, and of the prompts that they run on.
        batch_size: Prompts per batch.
        tick: Called with the regime, the number of runs done and of all, after every batch.
        say: Called with a line at the start of each stage.

    Returns:
        One row per circuit and regime, with the columns

        - `role` (str): `full` (all edges), `empty` (none), `circuit`, `intersection`, `union`, `difference` (of a
          regime's circuit less all others), `random`;
        - `of` (str): whose circuit or difference it is, or what a random circuit imitates; else empty;
        - `seed` (str): the seed, or `consensus`; empty for `full` and `empty`;
        - `draw` (Int64): of a random circuit; else missing;
        - `regime`, `split` (str), `n` (int64): on which prompts, and how many: of a random circuit those of the sample;
        - `n_edges`, `n_raw`, `n_universe` (int64): edges, before dangling ones were dropped, and in all; of an edited
          graph as it was run, with frozen edges and without removed ones;
        - metrics (float64), as in `pruning.evaluate`: `kl` or `mse`, `accuracy`, `logit_diff`, `exact_match` and so
          on, and the bounds of each, `kl_low`, `kl_high`, … (95 %, over prompts);
        - `digest` (str): of the circuit; empty for `full` and `empty`.

    Raises:
        ConfigurationError: Seeds or ablations differ between regimes, or a regime lacks the split.
        GraphMismatchError: A circuit of another universe than the model's.

    Examples:
        A study calls it when its circuits are found: `docs/tutorials/regimes.md` runs one, and goes through the table.
    """
    say = say or (lambda line: None)
    ablation = _require_comparable(compiled, tasks, circuits, split)
    members = _members(circuits, n_random=n_random, threshold=threshold, seed=seed)
    masks = {f"member {place}": member.circuit.mask for place, member in enumerate(members)}
    masks["empty"] = np.zeros(compiled.universe.n_edges, dtype=bool)
    rows = []
    for regime, task in tasks.items():
        pairs = task.splits[split]
        sample = sampled_prompts(len(pairs), n_random_prompts, seed)
        say(f"evaluating {len(members)} circuits on {len(pairs):,} {split} prompts of {regime}")
        found = evaluate_masks(
            compiled,
            masks,
            pairs,
            ablation=ablation,
            ablation_data=task.splits.get("train"),
            batch_size=batch_size,
            only_on={f"member {n}": sample for n, member in enumerate(members) if member.role == "random"},
            tick=None if tick is None else lambda done, total, regime=regime: tick(regime, done, total),
        )
        n_edges = compiled.universe.n_edges
        for role, size in (("full", n_edges), ("empty", 0)):
            about = {"role": role, "of": "", "seed": "", "n_edges": size, "n_raw": size, "digest": ""}
            rows.append({**about, "regime": regime, "split": split, **flat_row(found[role], intervals=True)})
        for place, member in enumerate(members):
            row = flat_row(found[f"member {place}"], intervals=True)
            rows.append({**_about(member), "regime": regime, "split": split, **row})
    return _table(rows, compiled.universe.n_edges)


def _require_comparable(
    compiled: CompiledModel, tasks: Mapping[str, TaskData], circuits: Mapping[str, Mapping[int, Circuit]], split: str
) -> str:
    """The common ablation of circuits that can be measured together."""
    if circuits.keys() != tasks.keys():
        raise ConfigurationError(
            f"expected circuits for the regimes {', '.join(tasks)}; got them for {', '.join(circuits) or 'none'}"
        )
    first = next(iter(circuits))
    for regime, by_seed in circuits.items():
        if not by_seed or list(by_seed) != list(circuits[first]):
            raise ConfigurationError(
                f"seed k of one regime is set against seed k of the others: regime {first!r} has seeds "
                f"{list(circuits[first])}, regime {regime!r} {list(by_seed)}"
            )
    for regime, task in tasks.items():
        if not len(task.splits.get(split, ())):
            raise ConfigurationError(f"regime {regime!r} (task {task.name}) has no {split} prompts to measure on")
    require_universes(compiled, circuits)
    return require_one_ablation(circuits)


def _members(
    circuits: Mapping[str, Mapping[int, Circuit]], *, n_random: int, threshold: float, seed: int
) -> list[Member]:
    """Every circuit to measure, seed by seed, then the consensus."""
    seeds = list(next(iter(circuits.values())))
    numbers = count(seed)
    members = []
    for one in seeds:
        by_regime = {regime: by_seed[one] for regime, by_seed in circuits.items()}
        members += with_random(combined(by_regime, str(one)), n_random, numbers)
    if len(seeds) > 1:
        agreed = {regime: consensus_of(list(by_seed.values()), threshold) for regime, by_seed in circuits.items()}
        members += with_random(combined(agreed, CONSENSUS), n_random, numbers)
    return members


def _about(member: Member) -> dict[str, object]:
    circuit = member.circuit
    about = {"role": member.role, "of": member.of, "seed": member.over, "draw": member.draw}
    return {**about, "n_edges": len(circuit), "n_raw": circuit.n_raw, "digest": circuit.digest}


def _table(rows: list[dict[str, object]], n_universe: int) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    if "draw" not in table:
        table["draw"] = None
    table["n_universe"] = n_universe
    metrics = [name for name in table.columns if name not in (*_FIRST, *_LAST)]
    numbers = dict.fromkeys((name for name in metrics if name not in _COUNTS), "float64")
    return table.reindex(columns=[*_FIRST, *metrics, *_LAST]).astype({"draw": "Int64", **numbers})
