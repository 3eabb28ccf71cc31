"""The best circuit of n edges in which no edge dangles, as an integer programme.

Taking the n largest scores wastes those that dangle. Here the sum of the scores is made as large as it can be among
*connected* circuits: an edge may be kept only if its writer reads something kept, or is an embedding, and its reader
serves a writer that something kept reads, or is the logits. In a graph without circles that is enough: every kept edge
then lies on a path from an embedding to the logits. Under other than counterfactual ablation writers need no inputs.

The programme, for edges e from writer w into reader r, a share x_e of each and a switch y_v of each writer:

    maximise Σ s_e x_e   with  Σ x_e = n,   x_e ≤ y_w,   x_e ≤ Σ y_v over the writers v that r serves,
                               y_v ≤ Σ x_e over edges into v's readers,   y_v ≤ Σ x_e over edges out of v

Only the y are whole numbers, a few hundred: once they are fixed, the rest is a flow (each edge covers one writer's way
out and one's way in), so that its best x are whole by themselves; where key-value heads serve groups they nearly always
are, and are made so otherwise.

1. *Columns.* Few of the edges can matter. The relaxation is solved over the best ones and those that keep every writer
   connectable, and each other edge is priced by its dual values; those that would help join, until none does. This
   gives an upper bound of all.
2. *The programme* over these edges gives a circuit.
3. *Reduced costs.* An edge whose price says that no solution with it beats the circuit cannot matter. The others join,
   and the programme is solved again. Its optimum is that of all edges, and the gap is the solver's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen, require_count, values_by
from circuitgraph.circuits.selection.greedy import readers_of_writers
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe

_TOLERANCE = 1e-7
_RELATIVE_GAP = 1e-6
_MOST_ROUNDS = 50


def connected_edges(
    scores: EdgeScores, n: int, *, by: str = "strength", exactly: bool = True, time_limit: float = 60.0
) -> Circuit:
    """Keep the connected circuit of n edges with the largest sum of scores.

    Args:
        scores: Of every edge.
        n: How many edges.
        by: What is summed: `strength`, `size` or `signed`.
        exactly: Whether exactly n edges are kept; else at most n, which differs where scores are negative.
        time_limit: Seconds for the solver, in all.

    Returns:
        The circuit. Its `selection` has the `sum`, its upper `bound`, their relative `gap`, and whether the circuit is
        `optimal`, which a gap of at most 1e-6 is called.

    Raises:
        ConfigurationError: More edges than there are or fewer than none, no connected circuit has exactly n, or none
            was found in the time.
        UnknownNameError: No such order.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> values = np.array([0.0, 0.0, 1.0, 0.0, 9.0, 2.0, 0.0, 4.0])  # the 9 is of a0.h0->m0
        >>> found = EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")
        >>> list(connected_edges(found, 3))
        ['input->a0.h0<v>', 'a0.h0->m0', 'm0->logits']

    References:
        The idea of an integer programme in place of greedy selection is that of the Technion's team in the BlackboxNLP
        2025 shared task.
    """
    chosen = connected_choice(scores, n, by=by, exactly=exactly, time_limit=time_limit)
    circuit = chosen.circuit()
    assert len(circuit) == len(chosen.edges), "an edge of a connected circuit dangles"
    return circuit


def connected_choice(
    scores: EdgeScores, n: int, *, by: str = "strength", exactly: bool = True, time_limit: float = 60.0
) -> Chosen:
    """The edges of `connected_edges`; its arguments and errors."""
    require_count(scores, n)
    refuse_spans(scores.universe, "the rule 'connected'")
    if not time_limit > 0:
        raise ConfigurationError(f"time_limit must be above 0 seconds; got {time_limit}")
    values = values_by(scores, by)
    selection = {"rule": "connected", "n": n, "by": by, "exactly": exactly}
    if n == 0:
        empty = {"sum": 0.0, "bound": 0.0, "gap": 0.0, "optimal": True}
        return Chosen(scores=scores, edges=np.zeros(0, dtype=np.int64), selection={**selection, **empty})
    programme = _Programme.of(
        scores.universe, values, n, exactly=exactly, needs_inputs=scores.ablation == "counterfactual"
    )
    edges, bound = _solve(programme, time.monotonic() + time_limit, time_limit)
    total = float(values[edges].sum())
    bound = max(bound, total)
    gap = (bound - total) / max(abs(bound), abs(total), 1e-300)
    found = {"sum": total, "bound": bound, "gap": gap, "optimal": gap <= _RELATIVE_GAP}
    return Chosen(scores=scores, edges=edges, selection={**selection, **found})


@dataclass(frozen=True, kw_only=True)
class _Programme:
    """The programme of one universe.

    Attributes:
        values: What is summed, divided by `scale` `[edge]`.
        scale: The largest value in size.
        n: How many edges.
        exactly: Whether exactly n.
        needs_inputs: Whether writers that read nothing are ablated.
        writers: The writer of every edge `[edge]`, less the embeddings, which are negative.
        readers: The reader of every edge `[edge]`.
        serves: Sparse booleans `[reader, writer]`: which writer, embeddings left out, each reader serves.
    """

    values: np.ndarray
    scale: float
    n: int
    exactly: bool
    needs_inputs: bool
    writers: np.ndarray
    readers: np.ndarray
    serves: Any

    @classmethod
    def of(cls, universe: Universe, values: np.ndarray, n: int, *, exactly: bool, needs_inputs: bool) -> _Programme:
        """Put together what does not change while edges join."""
        from scipy.sparse import csr_array

        # Numbers of writers that read something; -1 for all others.
        number = np.where(universe.reads_nothing, -1, np.cumsum(~universe.reads_nothing) - 1)
        pairs = [
            (reader, number[writer])
            for writer, readers in enumerate(readers_of_writers(universe))
            for reader in readers
        ]
        rows, columns = np.array(pairs, dtype=np.int64).T
        shape = (universe.n_readers, int((~universe.reads_nothing).sum()))
        writers, readers = universe.endpoints(np.arange(universe.n_edges))
        scale = float(np.abs(values).max()) or 1.0
        return cls(
            values=values / scale, scale=scale, n=n, exactly=exactly, needs_inputs=needs_inputs,
            writers=number[writers], readers=readers,
            serves=csr_array((np.ones(len(rows)), (rows, columns)), shape=shape),
        )  # fmt: skip

    def first_edges(self) -> np.ndarray:
        """The best edges, and of every writer and reader the best and those that lead straight in and out."""
        best = np.argsort(-self.values, kind="stable")
        is_last = np.zeros(len(best), dtype=bool)
        is_last[best[: 2 * self.n]] = True
        for ends in (self.writers, self.readers):
            is_last[best[np.unique(ends[best], return_index=True)[1]]] = True
        is_last |= (self.writers < 0) | (self.readers == self.readers.max())
        return np.flatnonzero(is_last)

    def parts(self, edges: np.ndarray) -> tuple[Any, Any, Any]:
        """The matrices of the programme over some edges.

        Returns:
            The inequalities, whose right sides are 0, `[row, edge and writer]`, those of writers' ways in and out
            last; the number of edges as a row; and how many of the rows are of a writer's way in.
        """
        from scipy.sparse import block_array, coo_array, csr_array

        n, n_writers = len(edges), self.serves.shape[1]
        places, writers, readers = np.arange(n), self.writers[edges], self.readers[edges]
        rows = []
        inner = np.flatnonzero(writers >= 0)
        if self.needs_inputs:
            picks = coo_array((np.ones(len(inner)), (np.arange(len(inner)), places[inner])), shape=(len(inner), n))
            off = coo_array(
                (-np.ones(len(inner)), (np.arange(len(inner)), writers[inner])), shape=(len(inner), n_writers)
            )
            rows.append([picks, off])
        inside = np.flatnonzero(readers != self.serves.shape[0] - 1)
        picks = coo_array((np.ones(len(inside)), (np.arange(len(inside)), places[inside])), shape=(len(inside), n))
        rows.append([picks, -self.serves[readers[inside]]])
        identity = csr_array(coo_array((np.ones(n_writers), (np.arange(n_writers),) * 2), shape=(n_writers, n_writers)))
        into = -self.serves[readers].T
        out_of = coo_array((-np.ones(len(inner)), (writers[inner], places[inner])), shape=(n_writers, n))
        rows += [[into, identity]] * self.needs_inputs + [[out_of, identity]]
        count = csr_array(np.concatenate([np.ones(n), np.zeros(n_writers)])[None])
        return block_array(rows, format="csr"), count, n_writers

    def prices(self, ways: np.ndarray, per_edge: float) -> np.ndarray:
        """What the relaxation would gain by each edge at most `[edge]`; where it is negative, what it would lose.

        Args:
            ways: Dual values of the rows of writers' ways in, where there are any, and out.
            per_edge: The dual value of the number of edges.
        """
        n_writers = self.serves.shape[1]
        out_of = np.append(ways[-n_writers:], 0.0)  # the last is that of embeddings, whose index is negative
        gains = self.values - per_edge + out_of[np.maximum(self.writers, -1)]
        if self.needs_inputs:
            gains = gains + (self.serves @ ways[:n_writers])[self.readers]
        return gains


def _solve(programme: _Programme, deadline: float, time_limit: float) -> tuple[np.ndarray, float]:
    """The edges of the best circuit that was found, and an upper bound of the sum."""
    edges = programme.first_edges()
    relaxed, gains, edges = _relaxation(programme, edges, deadline)
    found, bound = _whole(programme, edges, deadline, time_limit)
    sum_found = float(programme.values[found].sum())
    if gains is None:
        return found, programme.scale * relaxed
    outside = np.ones(len(programme.values), dtype=bool)
    outside[edges] = False
    joins = outside & (relaxed + gains > sum_found + _TOLERANCE * abs(sum_found))
    if joins.any() and time.monotonic() < deadline:
        edges = np.union1d(edges, np.flatnonzero(joins))
        try:
            again, bound = _whole(programme, edges, deadline, time_limit)
        except ConfigurationError:
            return found, programme.scale * relaxed
        found = max(found, again, key=lambda chosen: programme.values[chosen].sum())
    elif joins.any():
        bound = relaxed
    return found, programme.scale * min(bound, relaxed)


def _relaxation(
    programme: _Programme, edges: np.ndarray, deadline: float
) -> tuple[float, np.ndarray | None, np.ndarray]:
    """The bound of the relaxation over all edges, the gain of each, and the edges that it needs.

    Where time runs out the bound is the sum of the n best values, and there are no gains.
    """
    from scipy.optimize import linprog

    plain = np.sort(programme.values)[::-1][: programme.n]
    simple = float(plain.sum() if programme.exactly else np.maximum(plain, 0).sum())
    for _ in range(_MOST_ROUNDS):
        below, count, n_writers = programme.parts(edges)
        cost = -np.concatenate([programme.values[edges], np.zeros(n_writers)])
        limits: dict[str, Any] = (
            {"A_ub": below, "b_ub": np.zeros(below.shape[0]), "A_eq": count, "b_eq": [programme.n]}
            if programme.exactly
            else {"A_ub": _stacked(below, count), "b_ub": np.append(np.zeros(below.shape[0]), programme.n)}
        )
        left = deadline - time.monotonic()
        if left <= 0:
            return simple, None, edges
        done = linprog(cost, **limits, bounds=(0, 1), method="highs", options={"time_limit": left})
        if done.status == 2:
            raise ConfigurationError(
                f"no connected circuit has exactly {programme.n:,} edges; ask for at most that many"
            )
        if done.status != 0:
            return simple, None, edges
        duals = -done.ineqlin.marginals
        per_edge = -float(done.eqlin.marginals[0]) if programme.exactly else float(duals[-1])
        duals = duals if programme.exactly else duals[:-1]
        gains = programme.prices(duals[-n_writers * (1 + programme.needs_inputs) :], per_edge)
        missing = np.setdiff1d(np.flatnonzero(gains > _TOLERANCE), edges)
        if not len(missing):
            return min(-float(done.fun), simple), gains, edges
        edges = np.union1d(edges, missing)
    return simple, None, edges


def _stacked(below: Any, count: Any) -> Any:
    from scipy.sparse import vstack

    return vstack([below, count], format="csr")


def _whole(programme: _Programme, edges: np.ndarray, deadline: float, time_limit: float) -> tuple[np.ndarray, float]:
    """The best circuit of some edges, and the solver's upper bound over these."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    below, count, n_writers = programme.parts(edges)
    n = len(edges)
    cost = -np.concatenate([programme.values[edges], np.zeros(n_writers)])
    # Typed as any: scipy's stubs know of single numbers alone.
    zeros: Any = np.zeros(below.shape[0])
    constraints = [
        LinearConstraint(below, ub=zeros),
        LinearConstraint(count, lb=programme.n if programme.exactly else 0, ub=programme.n),
    ]
    low: Any = np.zeros(n + n_writers)
    high: Any = np.ones(n + n_writers)
    bound = np.inf
    for whole_edges in (False, True):
        integrality = np.concatenate([np.full(n, whole_edges), np.ones(n_writers)])
        options = {"time_limit": max(deadline - time.monotonic(), 0.01), "mip_rel_gap": _RELATIVE_GAP / 10}
        done = milp(cost, constraints=constraints, bounds=Bounds(low, high), integrality=integrality, options=options)
        if done.x is None:
            raise ConfigurationError(
                f"no connected circuit of {programme.n:,} edges was found in {time_limit:g} seconds; allow more "
                "(time_limit, --time-limit), or use another rule"
            )
        dual = done.mip_dual_bound
        bound = min(bound, -float(done.fun if dual is None else dual))
        shares = done.x[:n]
        if np.abs(shares - shares.round()).max() < 1e-5:
            break
        # Shares of edges, where key-value heads serve groups: whole ones, for the same writers.
        low[n:] = high[n:] = done.x[n:].round()
    return edges[shares > 0.5], bound
