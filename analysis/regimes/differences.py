"""Where regimes differ: shared and private edges by layer and kind, and every head and MLP by regime.

Counts are of consensus circuits, as sets of edges: what dangles in a set is counted too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from analysis.overlap.families import adjust_p_values
from analysis.regimes.circuits import RegimeCircuits
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.universe import Universe

BY = ("reader_layer", "writer_layer", "reader_kind", "writer_kind")
_SMALLEST = 1e-300


def edge_differences(circuits: RegimeCircuits) -> pd.DataFrame:
    """Shared and private edges of every two regimes' consensus circuits, by layer and kind.

    Two questions are asked of each stratum with Fisher's exact test, two-sided, and adjusted by Holm over the strata
    of one kind: do private edges lean towards one regime more, or less, than elsewhere (only a and only b, here and
    elsewhere); and is more, or less, private than elsewhere (shared and private, here and elsewhere). Edges of one
    circuit do not come independently of each other, so that p-values are a guide to where to look; in how many
    seeds a difference has the same sign is told beside them.

    Args:
        circuits: The circuits.

    Returns:
        One row two regimes and a stratum, with the columns

        - `a`, `b` (str): the regimes; `by` (str): what strata are: `reader_layer`, `writer_layer` (-1: embeddings, the
          number of layers: logits), `reader_kind` or `writer_kind`; `stratum` (str): which;
        - `shared`, `only_a`, `only_b`, `n_universe` (int64): edges;
        - `leaning` (float64): only a / (only a + only b), missing where neither has any;
        - `leaning_p`, `leaning_p_adjusted` (float64): whether that differs from elsewhere;
        - `private_share` (float64): private / (shared + private), missing where there are none;
        - `private_p`, `private_p_adjusted` (float64): whether that differs from elsewhere;
        - `seeds_agreeing`, `n_seeds` (Int64): in how many seeds a has more than b, or fewer, as in the consensus;
          missing where the regimes' seeds differ.
    """
    universe = circuits.universe
    tables = []
    for a, b in combinations(circuits.regimes, 2):
        for by in BY:
            labels, of_edges = _strata(universe, by)
            table = _counts(universe, circuits.consensus[a], circuits.consensus[b], labels, of_edges)
            table["seeds_agreeing"], table["n_seeds"] = _agreeing(circuits, a, b, table, of_edges)
            table.insert(0, "by", by)
            table.insert(0, "b", b)
            table.insert(0, "a", a)
            tables.append(_tested(table))
    return pd.concat(tables, ignore_index=True)


def module_differences(circuits: RegimeCircuits) -> pd.DataFrame:
    """Every head and MLP that any circuit uses, and in how many seeds of each regime.

    Args:
        circuits: The circuits.

    Returns:
        One row a module, those that tell the regimes apart best first, with the columns `module`, `kind` (str),
        `layer` (int64), for each regime `seeds: NAME` (int64), in how many of its circuits the module writes into
        a kept edge, and `edges: NAME` (int64), the edges out of it in the consensus circuit; and `spread` (float64),
        the largest difference between two regimes in the share of seeds.
    """
    universe = circuits.universe
    chosen = np.isin(universe.writer_kinds, ["head", "mlp"])
    columns: dict[str, object] = {
        "module": np.array(universe.writers, dtype=object),
        "kind": universe.writer_kinds,
        "layer": universe.writer_layers,
    }
    shares = []
    for regime, by_seed in circuits.by_seed.items():
        count = np.sum([_out_degree(circuit) > 0 for circuit in by_seed.values()], axis=0)
        columns[f"seeds: {regime}"] = count
        columns[f"edges: {regime}"] = _out_degree(circuits.consensus[regime])
        shares.append(count / len(by_seed))
    used = chosen & (np.max(shares, axis=0) > 0)
    table = pd.DataFrame(columns)
    table["spread"] = np.ptp(shares, axis=0)
    order = np.lexsort((universe.writer_layers, -table["spread"].to_numpy()))
    table = table.iloc[order[used[order]]].reset_index(drop=True)
    return table.astype({"module": "str", "kind": "str", "layer": "int64"})


def _out_degree(circuit: Circuit) -> np.ndarray:
    """Kept edges out of every writer `[writer]`."""
    return np.bincount(circuit.universe.endpoints(circuit.edge_ids)[0], minlength=circuit.universe.n_writers)


# -------------------------------------------------------------------- strata


def _strata(universe: Universe, by: str) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """What strata are called, and how many of some edges lie in each."""
    end, part = by.split("_")
    values = getattr(universe, f"{end}_{part}s")
    names, numbers = np.unique(values, return_inverse=True)

    def counts(edges: np.ndarray) -> np.ndarray:
        ends = universe.endpoints(edges)[0 if end == "writer" else 1]
        return np.bincount(numbers[ends], minlength=len(names))

    return [str(name) for name in names.tolist()], counts


def _counts(
    universe: Universe, a: Circuit, b: Circuit, labels: list[str], of_edges: Callable[[np.ndarray], np.ndarray]
) -> pd.DataFrame:
    of_a, of_b = a.edge_ids, b.edge_ids
    table = pd.DataFrame(
        {
            "stratum": pd.Series(labels, dtype="str"),
            "shared": of_edges(np.intersect1d(of_a, of_b, assume_unique=True)),
            "only_a": of_edges(np.setdiff1d(of_a, of_b, assume_unique=True)),
            "only_b": of_edges(np.setdiff1d(of_b, of_a, assume_unique=True)),
            "n_universe": of_edges(np.arange(universe.n_edges)),
        }
    )
    return table.astype(dict.fromkeys(("shared", "only_a", "only_b", "n_universe"), "int64"))


def _agreeing(
    circuits: RegimeCircuits, a: str, b: str, table: pd.DataFrame, of_edges: Callable[[np.ndarray], np.ndarray]
) -> tuple[pd.Series, pd.Series]:
    """In how many seeds the sign of `only_a - only_b` is that of the consensus, and how many there are."""
    if list(circuits.by_seed[a]) != list(circuits.by_seed[b]):
        missing = pd.Series(pd.NA, index=table.index, dtype="Int64")
        return missing, missing
    pairs = zip(circuits.by_seed[a].values(), circuits.by_seed[b].values(), strict=True)
    signs = np.array([np.sign(of_edges(one.edge_ids) - of_edges(other.edge_ids)) for one, other in pairs])
    agree = (signs == np.sign((table["only_a"] - table["only_b"]).to_numpy())).sum(0)
    return pd.Series(agree, dtype="Int64"), pd.Series(len(signs), index=table.index, dtype="Int64")


# -------------------------------------------------------------------- tests


def _tested(table: pd.DataFrame) -> pd.DataFrame:
    """Add both questions' shares and p-values to a family of strata."""
    private = table["only_a"] + table["only_b"]
    for name, one, other in (
        ("leaning", table["only_a"], table["only_b"]),
        ("private", private, table["shared"]),
    ):
        total = one + other
        table[name if name == "leaning" else "private_share"] = (one / total).where(total > 0)
        table[f"{name}_p"] = _fisher(one.to_numpy(), other.to_numpy())
        logs = pd.DataFrame({"log10_p": np.log10(np.maximum(table[f"{name}_p"].to_numpy(), _SMALLEST))})
        table[f"{name}_p_adjusted"] = adjust_p_values(logs)["p_adjusted"]
    order = ["a", "b", "by", "stratum", "shared", "only_a", "only_b", "n_universe"]
    order += ["leaning", "leaning_p", "leaning_p_adjusted", "private_share", "private_p", "private_p_adjusted"]
    return table.reindex(columns=[*order, "seeds_agreeing", "n_seeds"])


def _fisher(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two-sided p of every stratum against all others together `[stratum]`."""
    n_one, n_other = one.sum(), other.sum()
    tables = ([[x, y], [n_one - x, n_other - y]] for x, y in zip(one.tolist(), other.tolist(), strict=True))
    return np.array([fisher_exact(cells)[1] for cells in tables])
