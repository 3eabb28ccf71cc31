"""Two checkpoints of one architecture, before and after fine-tuning say: what of a circuit stays.

Edges and nodes are matched by name. Both circuits must be of one universe, but may be of other weights:
that is what the comparison is for, so `across_checkpoints` is on unless switched off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.comparable import require_comparable
from analysis.strata import strata
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.build import node_attributes
from circuitgraph.graph.universe import Universe

STATUSES = ("kept", "gained", "lost")
LEVELS = ("edges", "nodes")
_EDGE_COLUMNS = (
    "edge", "source", "target", "kind", "writer_kind", "source_layer", "layer", "status", "score_before", "score_after",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointComparison:
    """What is kept, gained and lost from one circuit to the next.

    Attributes:
        universe: That of both circuits.
        edges: A row per edge of either circuit, in the order of the universe: `edge`, `source`, `target`, `kind`,
            `writer_kind`, `source_layer`, `layer` (of the reader; the number of layers for the logits),
            `status` (`kept`, `gained` or `lost`), `score_before` and `score_after`, `<NA>` where the edge is
            not in that circuit.
        nodes: A row per node of either circuit, readers included, in the order of the computation: `node`, `kind`,
            `layer`, `status`.
    """

    universe: Universe
    edges: pd.DataFrame
    nodes: pd.DataFrame

    def counts(self, level: str = "edges", *, by: str | Sequence[str] = ("layer", "kind")) -> pd.DataFrame:
        """How many are kept, gained and lost, by columns.

        Args:
            level: `edges` or `nodes`.
            by: Columns of that table to count by: `layer`, `kind`, and for edges `source_layer` and
                `writer_kind`; none for the totals.

        Returns:
            A row per group that the universe has, in order, also where nothing is in it: the columns in `by`,
            `kept`, `gained`, `lost`, and `n_universe`, how many the universe has there.

        Raises:
            UnknownNameError: No such level or column.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> before = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
            >>> after = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
            >>> comparison = compare_checkpoints(before, after)
            >>> comparison.counts("edges", by="kind").set_index("kind").loc["logits"].to_dict()
            {'kept': 1, 'gained': 1, 'lost': 0, 'n_universe': 3}
        """
        if level not in LEVELS:
            raise UnknownNameError.of("level", level, LEVELS)
        groups = _edge_groups(self.universe) if level == "edges" else _node_groups(self.universe)
        columns = (by,) if isinstance(by, str) else tuple(by)
        for name in columns:
            if name not in groups[0][0]:
                raise UnknownNameError.of(f"column of {level} to count by", name, groups[0][0])
        n_universe: Counter[tuple[object, ...]] = Counter()
        for group, size in groups:
            n_universe[tuple(group[name] for name in columns)] += size
        found = Counter(_rows(self.edges if level == "edges" else self.nodes, (*columns, "status")))
        rows = [(*group, *(found[*group, status] for status in STATUSES), size) for group, size in n_universe.items()]
        return pd.DataFrame(rows, columns=[*columns, *STATUSES, "n_universe"])


def compare_checkpoints(before: Circuit, after: Circuit, *, across_checkpoints: bool = True) -> CheckpointComparison:
    """Compare the circuits of two checkpoints of one architecture.

    Args:
        before: The circuit of the earlier checkpoint.
        after: The circuit of the later one.
        across_checkpoints: Allow other weights. Off, the same serves for two circuits of one model, and
            circuits of different ones are refused.

    Returns:
        The edges and nodes of both, each `kept`, `gained` or `lost`. Only presence is compared; two empty
        circuits give tables without rows.

    Raises:
        GraphMismatchError: The circuits are of different universes, or, with `across_checkpoints` off, of
            different models. The message names the first difference.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> before = Circuit.from_edges(universe, {"input->m0": 2.0, "m0->logits": 1.0})
        >>> after = Circuit.from_edges(universe, {"input->logits": 1.0})
        >>> compare_checkpoints(before, after).edges[["edge", "status"]].values.tolist()
        [['input->m0', 'lost'], ['input->logits', 'gained'], ['m0->logits', 'lost']]
    """
    universe = require_comparable({"before": before, "after": after}, across_checkpoints=across_checkpoints)
    return CheckpointComparison(
        universe=universe, edges=_compare_edges(universe, before, after), nodes=_compare_nodes(universe, before, after)
    )


def _compare_edges(universe: Universe, before: Circuit, after: Circuit) -> pd.DataFrame:
    edges = np.union1d(before.edge_ids, after.edge_ids)
    writers, readers = universe.endpoints(edges)
    source = [universe.writers[writer] for writer in writers.tolist()]
    target = [universe.readers[reader] for reader in readers.tolist()]
    is_before, is_after = np.isin(edges, before.edge_ids), np.isin(edges, after.edge_ids)
    columns = {
        "edge": [f"{u}->{v}" for u, v in zip(source, target, strict=True)],
        "source": source,
        "target": target,
        "kind": universe.reader_kinds[readers],
        "writer_kind": universe.writer_kinds[writers],
        "source_layer": universe.writer_layers[writers],
        "layer": universe.reader_layers[readers],
        "status": _status(is_before, is_after),
        "score_before": _scores(is_before, before),
        "score_after": _scores(is_after, after),
    }
    return pd.DataFrame(columns, columns=list(_EDGE_COLUMNS))


def _scores(present: np.ndarray, circuit: Circuit) -> pd.Series:
    """Scores of the circuit's edges among others, which have none."""
    scores = pd.Series(pd.NA, index=range(len(present)), dtype="Float64")
    scores[present] = circuit.scores
    return scores


def _compare_nodes(universe: Universe, before: Circuit, after: Circuit) -> pd.DataFrame:
    earlier, later = set(before.nodes), set(after.nodes)
    present = [(name, values) for name, values in node_attributes(universe) if name in earlier or name in later]
    names = [name for name, _ in present]
    columns = {
        "node": names,
        "kind": [values["kind"] for _, values in present],
        "layer": np.array([values["layer"] for _, values in present], dtype=np.int64),
        "status": _status(
            np.array([name in earlier for name in names], dtype=bool),
            np.array([name in later for name in names], dtype=bool),
        ),
    }
    return pd.DataFrame(columns)


def _status(is_before: np.ndarray, is_after: np.ndarray) -> np.ndarray:
    return np.select([is_before & is_after, is_after], ["kept", "gained"], "lost")


def _rows(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[object, ...]]:
    return zip(*(table[name].tolist() for name in columns), strict=True)


def _edge_groups(universe: Universe) -> list[tuple[dict[str, object], int]]:
    """The universe's strata and their sizes, in closed form, layer by layer of the readers."""
    groups = strata(universe)
    return [
        (
            {
                "layer": int(groups.reader_layers[reader]),
                "kind": str(groups.reader_kinds[reader]),
                "source_layer": int(groups.writer_layers[writer]),
                "writer_kind": str(groups.writer_kinds[writer]),
            },
            int(groups.sizes[writer, reader]),
        )
        for reader, writer in np.argwhere(groups.sizes.T > 0).tolist()
    ]


def _node_groups(universe: Universe) -> list[tuple[dict[str, object], int]]:
    """The universe's nodes, one per group."""
    return [({"layer": values["layer"], "kind": values["kind"]}, 1) for _, values in node_attributes(universe)]
