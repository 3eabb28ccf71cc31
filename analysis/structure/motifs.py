"""Motifs: small patterns of modules, counted, and compared with circuits of the same degrees.

Without cycles, three modules can be joined in four ways: in a *chain* a→b→c, by a *fan-out* a→b, a→c, by a
*fan-in* a→c, b→c, or by all three edges, the *feed-forward loop*. They are counted on modules: two edges from
one module to another (into its query and its key, say) are one, and one into a reader that several heads
share joins its writer to each. Beside them come *composition chains* of three heads, a→b→c, by the readers
through which b and c listen; each pair of edges counts.

1. Loops come from the product of the adjacency matrix with itself.
2. The others from degrees: every loop holds one of each that is not one, because its third edge is there.
3. Samples with the degrees of the circuit come from the null model of `analysis.overlap`.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from scipy import sparse

from analysis.overlap.degree_preserving import ROUNDS, EdgeSet, trade
from analysis.structure.modules import module_edges
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe


def motifs(circuit: Circuit, *, n_samples: int = 0, seed: int = 0, rounds: int = ROUNDS) -> pd.DataFrame:
    """Count patterns of three modules.

    Args:
        circuit: The circuit.
        n_samples: How many random circuits to compare with: every writer keeps its number of edges out and
            every reader its edges in, see `analysis.overlap.degree_preserving`. None by default.
        seed: What to draw.
        rounds: Rounds of trades between two samples.

    Returns:
        A row a pattern: `motif` (`chain`, `fan-out`, `fan-in`, `feed-forward loop`, and for every two readers
        such as `composition q, k`: a head into the query of a second that goes into the key of a third) and
        `count`. With samples also `expected` (their mean), `sd`, and two Monte Carlo p-values, each
        (1 + b) / (1 + n_samples): `p_more` (b samples have as many or more) and `p_fewer`. An empty circuit
        has counts of 0, and p-values of 1.

    Raises:
        ConfigurationError: The number of samples is negative, or there are no rounds.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> edges = ["input->m0", "input->m1", "m0->m1", "m1->logits"]
        >>> table = motifs(Circuit.from_edges(universe, edges))
        >>> table.loc[:3].values.tolist()
        [['chain', 2], ['fan-out', 0], ['fan-in', 0], ['feed-forward loop', 1]]
    """
    if n_samples < 0 or rounds < 1:
        raise ConfigurationError(
            f"expected 0 or more samples and at least 1 round; got {n_samples} samples of {rounds} rounds"
        )
    counts = _counts(circuit.universe, circuit.edge_ids)
    table = pd.DataFrame({"motif": list(counts), "count": list(counts.values())})
    if not n_samples:
        return table
    samples = _sampled_counts(circuit, n_samples, seed, rounds)
    counted = table["count"].to_numpy()
    return table.assign(
        expected=samples.mean(0),
        sd=samples.std(0),
        p_more=(1 + (samples >= counted).sum(0)) / (1 + n_samples),
        p_fewer=(1 + (samples <= counted).sum(0)) / (1 + n_samples),
    )


def _sampled_counts(circuit: Circuit, n_samples: int, seed: int, rounds: int) -> np.ndarray:
    """Counts in random circuits of the same degrees `[sample motif]`."""
    universe, rng = circuit.universe, np.random.default_rng(seed)
    # The chain runs to a hub, and from there anew for every sample, which makes the p-values valid.
    hub = trade(EdgeSet.of(universe, circuit.edge_ids), rounds, rng)
    drawn = (trade(hub, rounds, rng).edge_ids for _ in range(n_samples))
    return np.array([list(_counts(universe, np.sort(edges)).values()) for edges in drawn])


def _counts(universe: Universe, edges: np.ndarray) -> dict[str, int]:
    pairs = module_edges(universe, edges)
    n_modules = universe.n_writers + 1
    joined = np.unique(pairs.writers * n_modules + pairs.readers)
    start, stop = np.divmod(joined, n_modules)
    adjacency = sparse.csr_array((np.ones(len(joined), dtype=np.int64), (start, stop)), shape=(n_modules, n_modules))
    n_in, n_out = np.bincount(stop, minlength=n_modules), np.bincount(start, minlength=n_modules)
    loops = int(((adjacency @ adjacency) * adjacency).sum())
    return {
        "chain": int((n_in * n_out).sum()) - loops,
        "fan-out": int((n_out * (n_out - 1) // 2).sum()) - loops,
        "fan-in": int((n_in * (n_in - 1) // 2).sum()) - loops,
        "feed-forward loop": loops,
        **_composition_chains(universe, edges),
    }


def _composition_chains(universe: Universe, edges: np.ndarray) -> dict[str, int]:
    """Chains of three heads by the readers of the second and the third."""
    pairs = module_edges(universe, edges)
    kinds = universe.reader_kinds[universe.endpoints(edges)[1]][pairs.places]
    between_heads = universe.writer_kinds[pairs.writers] == "head"
    ports = ("qkv",) if universe.qkv == "joint" else ("q", "k", "v")
    into, out = {}, {}
    for port in ports:
        chosen = between_heads & (kinds == port)
        into[port] = np.bincount(pairs.readers[chosen], minlength=universe.n_writers + 1)
        out[port] = np.bincount(pairs.writers[chosen], minlength=universe.n_writers + 1)
    return {f"composition {one}, {two}": int((into[one] * out[two]).sum()) for one, two in product(ports, repeat=2)}
