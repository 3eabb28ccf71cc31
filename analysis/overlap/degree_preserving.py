"""The degree-preserving null model: every writer keeps its number of edges out, every reader its edges in.

There is no formula for it; circuits are drawn by a Markov chain whose stationary distribution is uniform over
all edge sets of the universe with these degrees.

1. *A trade* between two readers. Take the writers that exactly one of the two listens to and that both could
   see, and deal them again at random, each reader getting as many as it gave. A trade between two writers is
   the same with the ends exchanged. All degrees stay, and every edge is one of the universe.
2. *A round.* All readers that have edges are paired at random and every pair trades at once; then all writers
   that have edges; which of the two comes first is tossed for. Readers alone would do, but where one node
   has hundreds of edges both together forget the start several times sooner.
3. The chain is symmetric: what is dealt in a trade is the same before and after it, so every round is as likely
   as its reverse. It can stay where it is. And it reaches everything: `docs/explanations/overlap.md` shows that
   exchanges of two edges, which are trades, join any two edge sets of the same degrees *in a universe whose readers
   see prefixes*; with edges forbidden in any other pattern this need not be so. So the uniform distribution is its
   only stationary one.
4. *Valid p-values.* The chain runs from the circuit for some rounds to a hub, and from the hub anew for every
   sample. Under the null model the circuit and the samples are exchangeable, whether or not the chain has
   mixed (Besag and Clifford); too few rounds only cost power.

References:
    Strona et al. 2014, "A fast and unbiased procedure to randomize ecological binary matrices with fixed row
    and column totals"; Berger 2016, "Sampling bipartite graphs with given vertex degrees and fixed edges and
    non-edges"; Carstens et al. 2018, "Parallel and I/O-efficient randomisation of massive networks using
    Global Curveball trades"; Besag and Clifford 1989, "Generalized Monte Carlo significance tests".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.part import part_of_readers
from circuitgraph.graph.universe import Universe

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class EdgeSet:
    """Edges between the readers and writers that have any, and what could be an edge but is not.

    Attributes:
        readers: Reader of every edge, numbered among those with edges `[edge]`.
        writers: Writer of every edge, numbered among those with edges `[edge]`.
        free: Whether the universe joins a reader and a writer that the edges do not `[reader writer]`.
        reader_offsets: What is added to the universe's index of a writer for the flat index of its edge into each
            reader `[reader]`.
        writer_ids: The universe's index of each writer `[writer]`.
    """

    readers: np.ndarray
    writers: np.ndarray
    free: np.ndarray
    reader_offsets: np.ndarray
    writer_ids: np.ndarray

    @classmethod
    def of(cls, universe: Universe, edges: np.ndarray) -> EdgeSet:
        """Look up the ends of edges, given as flat indices `[edge]`."""
        writer_of, reader_of = universe.endpoints(edges)
        writer_ids, writers = np.unique(writer_of, return_inverse=True)
        reader_ids, readers = np.unique(reader_of, return_inverse=True)
        # With spans a reader sees a prefix of its own span's writers; nothing is traded from one span to another.
        first = np.array([part.writers.start for part in universe.parts])[part_of_readers(universe.parts)[reader_ids]]
        within = writer_ids - first[:, None]
        free = (within >= 0) & (within < np.diff(universe.reader_offsets)[reader_ids, None])
        free[readers, writers] = False
        return cls(
            readers=readers,
            writers=writers,
            free=free,
            reader_offsets=universe.reader_offsets[reader_ids] - first,
            writer_ids=writer_ids,
        )

    @property
    def edge_ids(self) -> np.ndarray:
        """Flat edge indices, in no order `[edge]`."""
        return self.reader_offsets[self.readers] + self.writer_ids[self.writers]


def trade(edges: EdgeSet, rounds: int, rng: np.random.Generator) -> EdgeSet:
    """Run the chain.

    Args:
        edges: Where it starts.
        rounds: How many rounds of trades, one between readers and one between writers each.
        rng: What to draw with.

    Returns:
        Edges with the same degrees.

    Examples:
        The logits hear one of two heads, the MLP the other: there are two such edge sets, and both turn up.

        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> names = "a0.h0->m0", "a0.h1->logits"
        >>> start = EdgeSet.of(universe, np.array([universe.edge_index(*name.split("->")) for name in names]))
        >>> rng = np.random.default_rng(0)
        >>> drawn = {tuple(sorted(trade(start, 1, rng).edge_ids.tolist())) for _ in range(20)}
        >>> sorted([universe.edge_name(edge) for edge in found] for found in drawn)
        [['a0.h0->m0', 'a0.h1->logits'], ['a0.h1->m0', 'a0.h0->logits']]
    """
    readers, writers, free = edges.readers.copy(), edges.writers.copy(), edges.free.copy()
    for readers_first in rng.random(rounds) < 0.5:
        if readers_first:
            _trade_all(readers, writers, free, rng)
        _trade_all(writers, readers, free.T, rng)
        if not readers_first:
            _trade_all(readers, writers, free, rng)
    return replace(edges, readers=readers, writers=writers, free=free)


def _trade_all(ends: np.ndarray, others: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> None:
    """Pair the nodes at one end of the edges at random and let all pairs trade, in `ends` and `free`."""
    n_nodes = len(free)
    half = n_nodes // 2
    shuffled = rng.permutation(n_nodes)
    one, other = shuffled[:half], shuffled[half : 2 * half]
    # With an odd number of nodes the last is its own partner, with whom it has nothing to trade.
    partner = np.arange(n_nodes)
    partner[one], partner[other] = other, one
    # Sorting by small integers takes linear time.
    pair = np.zeros(n_nodes, dtype=np.min_scalar_type(half))
    pair[one] = pair[other] = np.arange(half)

    traded = np.flatnonzero(free[partner[ends], others])
    free[ends[traded], others[traded]] = True
    pairs = pair[ends[traded]]
    # Both orders go pair by pair, one of them at random within a pair: each edge gets an end of its own pair.
    shuffle = rng.permutation(len(traded))
    at_random = traded[shuffle[np.argsort(pairs[shuffle], kind="stable")]]
    in_order = traded[np.argsort(pairs, kind="stable")]
    ends[at_random] = ends[in_order]
    free[ends[traded], others[traded]] = False


def sampled_overlaps(
    universe: Universe,
    edge_sets: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, int]],
    *,
    n_samples: int,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> np.ndarray:
    """Overlaps of random edge sets with the degrees of given ones.

    Args:
        universe: The universe.
        edge_sets: Flat edge indices `[edge]` each. All sets are drawn anew for every sample, independently.
        pairs: Which of them to compare, by position.
        n_samples: How many samples.
        rounds: Rounds of trades from a set to its hub, and from the hub to every sample.
        seed: What to draw.

    Returns:
        Numbers of shared edges `[pair sample]`.

    Raises:
        ConfigurationError: There are to be no samples or no rounds.
    """
    if n_samples < 1 or rounds < 1:
        raise ConfigurationError(
            f"expected at least 1 sample and 1 round of trades; got {n_samples} samples of {rounds} rounds"
        )
    rng = np.random.default_rng(seed)
    hubs = [trade(EdgeSet.of(universe, edges), rounds, rng) for edges in edge_sets]
    overlaps = np.empty((len(pairs), n_samples), dtype=np.int64)
    present = np.zeros(universe.n_edges, dtype=bool)
    for sample in range(n_samples):
        drawn = [trade(hub, rounds, rng).edge_ids for hub in hubs]
        for place, (one, other) in enumerate(pairs):
            present[drawn[one]] = True
            overlaps[place, sample] = np.count_nonzero(present[drawn[other]])
            present[drawn[one]] = False
    return overlaps


def mixing_curve(circuit: Circuit, *, rounds: int = 2 * ROUNDS, seed: int = 0) -> pd.DataFrame:
    """How fast the chain forgets the circuit it starts from: has it mixed after so many rounds?

    Args:
        circuit: The circuit.
        rounds: How many rounds to follow; samples are twice `ROUNDS` away from the circuit.
        seed: What to draw.

    Returns:
        One row a round, from 0, with the columns `round` (int64) and `still_there` (float64), the share of the
        circuit's edges that are present. It falls to a level that stays above 0 where degrees or prefixes
        leave little choice; the chain has mixed once it is level. An empty circuit's is 1.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=4, n_heads=4, n_kv_heads=4)
        >>> circuit = Circuit.from_edges(universe, np.arange(0, universe.n_edges, 7))
        >>> curve = mixing_curve(circuit, rounds=10)
        >>> float(curve["still_there"].iloc[0]), bool(curve["still_there"].iloc[10] < 0.75)
        (1.0, True)
    """
    rng = np.random.default_rng(seed)
    edges, shares = EdgeSet.of(circuit.universe, circuit.edge_ids), [1.0]
    for _ in range(rounds):
        edges = trade(edges, 1, rng)
        shares.append(float(np.isin(edges.edge_ids, circuit.edge_ids).mean()) if len(circuit) else 1.0)
    return pd.DataFrame({"round": np.arange(rounds + 1), "still_there": shares})
