"""Where a reader's information comes from: its edges in, each restored alone, ranked, and so on from reader to reader.

1. All edges into the reader are cut from the circuit, and the distance from the full model is measured; so is that of
   the circuit as it is. The difference is what the reader's inputs are worth together.
2. Each edge in is put back alone. What it *restores* is the share of that difference that comes back.
3. The strongest edges are followed: what their writer itself reads (the query, key and value readers of a head, the
   input of an MLP) is traced in the same way, down to the embeddings.

Shares do not add up to 1: edges that need each other restore nothing alone, and edges that stand in for each other
restore everything each. Where the inputs together are worth nothing there are no shares, and nothing is followed.

References:
    Path patching one reader at a time, all direct paths into it cut but one, and so on from reader to reader: Wang et
    al. 2022 (arXiv 2211.00593) and "A circuit for compositional generalization" (arXiv 2502.15801).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.reader_names import unknown_reader
from circuitgraph.graph.universe import Universe
from pruning.evaluation.intervals import mean_of
from pruning.evaluation.masks import scores_of
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs
from pruning.whole_numbers import whole_number

FOLLOWED, DEPTH, LEAST = 3, 3, 0.05
TOLD = 0.01
"""What an edge restores or harms at least, a share, to have a line of its own in the text."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Trace:
    """A tree of edges, from a reader backwards.

    Attributes:
        tree: An `nx.DiGraph`; the root is node 0, the reader, and every other node is an edge of the circuit, with
            `edge`, `writer`, `reader`, `restored` (the share; None where its reader's inputs are worth nothing),
            `distance` (with this edge in alone), `depth` (1 below the root) and `followed`. A reader that is traced a
            second time, by another way, is not followed again.
        readers: By reader that was traced, `n_edges` (into it, in the circuit), `worth` (how much farther from the full
            model the circuit is without them), `cut` (its distance then).
        measure: `kl` in nats, or `mse` where outputs are numbers.
        distance: The circuit's own.
    """

    tree: nx.DiGraph
    readers: dict[str, dict[str, float]]
    measure: str
    distance: float

    @property
    def table(self) -> pd.DataFrame:
        """A row per edge of the tree, in the order in which they are printed, with their attributes."""
        rows = [self.tree.nodes[node] for node in nx.dfs_preorder_nodes(self.tree, 0) if node]
        names = ["depth", "edge", "writer", "reader", "restored", "distance", "followed"]
        return pd.DataFrame([{name: row[name] for name in names} for row in rows], columns=names)

    @property
    def text(self) -> str:
        """The tree as lines of text, the strongest edge first; edges that restore less than 1 % are counted."""
        root = self.tree.nodes[0]["reader"]
        worth = self.readers[root]["worth"]
        return "\n".join([f"{root}: its inputs are worth {worth:.4g} {self.measure}", *self._lines(0, "")])

    def _lines(self, node: int, before: str) -> list[str]:
        found, every = [], list(self.tree.successors(node))
        below = [child for child in every if self.matters(self.tree.nodes[child])]
        n_more = len(every) - len(below)
        for place, child in enumerate(below):
            last = place == len(below) - 1 and not n_more
            row = self.tree.nodes[child]
            share = "–" if row["restored"] is None else f"{100 * row['restored']:.0f} %"
            found.append(f"{before}{'└─' if last else '├─'} {row['edge']}  {share}")
            found += self._lines(child, before + ("   " if last else "│  "))
        if n_more:
            found.append(f"{before}└─ {n_more:,} more edge{'s' * (n_more > 1)}, less than {100 * TOLD:g} % each")
        return found

    @staticmethod
    def matters(row: Mapping[str, Any]) -> bool:
        """Whether an edge has a line of its own in the text.

        Args:
            row: Its attributes, as in the tree and the table.
        """
        share = row["restored"]
        return bool(share is None or np.isnan(share) or row["followed"] or abs(share) >= TOLD)

    def __repr__(self) -> str:
        return f"<Trace of {self.tree.nodes[0]['reader']}: {len(self.tree) - 1} edges, {len(self.readers)} readers>"


def trace(
    compiled: CompiledModel,
    circuit: Circuit,
    reader: str,
    pairs: EncodedPairs,
    *,
    follow: int = FOLLOWED,
    depth: int = DEPTH,
    least: float = LEAST,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Trace:
    """Trace where a reader's information comes from.

    Args:
        compiled: The model.
        circuit: The circuit; `Circuit.from_edges(universe, np.ones(…, bool))` traces the full model.
        reader: A reader, such as `logits`, `a3.h7<q>` or `m5`.
        pairs: The prompts, at least one.
        follow: How many of each reader's edges are followed at most, the strongest.
        depth: How many edges the longest way back has.
        least: What an edge has to restore to be followed.
        ablation: What cut edges carry; by default what the circuit was found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        tick: Called with the number of readers done and of those known so far.

    Returns:
        The tree.

    Raises:
        UnknownNameError: No such reader.
        ConfigurationError: The circuit has no edge into it, settings out of range, or no prompts.
        GraphMismatchError: The circuit is of another universe.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> pairs = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3}).split("test")
        >>> print(trace(compiled, circuit, "a3.h0<v>", pairs).text)
        a3.h0<v>: its inputs are worth 0.1233 kl
        └─ tok->a3.h0<v>  100 %
    """
    universe = circuit.universe
    if reader not in universe.readers:
        raise unknown_reader(reader, universe.readers, n_heads=universe.n_heads, n_kv_heads=universe.n_kv_heads)
    follow, depth = whole_number("follow", follow, least=0), whole_number("depth", depth, least=1)
    if not 0 <= least <= 1:
        raise ConfigurationError(f"least is a share, from 0 to 1; got {least:g}")
    if not _edges_into(circuit, reader).size:
        inside = sorted({target for _, target in circuit.edges})
        if not inside:
            raise ConfigurationError(f"the circuit has no edges, so there is nothing into {reader} to trace")
        raise ConfigurationError(
            f"the circuit has no edge into {reader}, so there is nothing to trace; it has some into "
            f"{', '.join(inside[:5])}{' …' if len(inside) > 5 else ''}"
        )

    def measured(masks: dict[str, np.ndarray]) -> dict[str, float | None]:
        found = scores_of(compiled, masks, pairs, ablation=ablation or circuit.ablation, ablation_data=ablation_data)
        return {name: mean_of(found.columns[name][measure]) for name in masks}

    measure = "mse" if pairs.answer_values is not None else "kl"
    tracing = _Tracing(circuit, measured, follow=follow, depth=depth, least=least, tick=tick)
    distance = measured({"circuit": circuit.mask})["circuit"]
    if distance is None:
        raise ConfigurationError("the circuit's outputs are NaN or infinite on all prompts, so nothing can be measured")
    tracing.run(reader, distance)
    return Trace(tree=tracing.tree, readers=tracing.readers, measure=measure, distance=distance)


class _Tracing:
    """The tree as it grows, the nearest readers first."""

    def __init__(
        self,
        circuit: Circuit,
        measured: Callable[[dict[str, np.ndarray]], dict[str, float | None]],
        *,
        follow: int,
        depth: int,
        least: float,
        tick: Callable[[int, int], None] | None,
    ) -> None:
        self.circuit, self.measured, self.tick = circuit, measured, tick
        self.follow, self.depth, self.least = follow, depth, least
        self.tree, self.readers = nx.DiGraph(), {}

    def run(self, reader: str, distance: float) -> None:
        self.tree.add_node(0, reader=reader, depth=0)
        waiting, seen = [(0, reader)], {reader}
        done = 0
        while waiting:
            parent, target = waiting.pop(0)
            for child in self._rank(parent, target, distance):
                row = self.tree.nodes[child]
                row["followed"] = False
                if not self._worth_following(row, parent):
                    continue
                for name in readers_of(self.circuit.universe, row["writer"]):
                    if name not in seen and _edges_into(self.circuit, name).size:
                        seen.add(name)
                        row["followed"] = True
                        waiting.append((child, name))
            done += 1
            if self.tick is not None:
                self.tick(done, done + len(waiting))

    def _rank(self, parent: int, reader: str, distance: float) -> list[int]:
        """Restore each edge into a reader alone; gives their nodes, the strongest first."""
        edges = _edges_into(self.circuit, reader)
        without = self.circuit.mask
        without[edges] = False
        masks = {"cut": without}
        for edge in edges.tolist():
            masks[str(edge)] = without.copy()
            masks[str(edge)][edge] = True
        found = self.measured(masks)
        cut = found["cut"]
        worth = None if cut is None else cut - distance
        self.readers[reader] = {"n_edges": len(edges), "worth": _number(worth), "cut": _number(cut)}
        order = sorted(edges.tolist(), key=lambda edge: _number(found[str(edge)]))
        children = []
        for edge in order:
            value, child = found[str(edge)], len(self.tree)
            # Rounding alone is no worth that shares could be taken of.
            known = value is not None and cut is not None and worth is not None and abs(worth) > 1e-6 * (1 + abs(cut))
            share = (cut - value) / worth if known else None  # type: ignore[operator]
            name = self.circuit.universe.edge_name(edge)
            self.tree.add_node(
                child, edge=name, writer=name.split("->")[0], reader=reader, restored=share, distance=value,
                depth=self.tree.nodes[parent]["depth"] + 1,
            )  # fmt: skip
            self.tree.add_edge(parent, child)
            children.append(child)
        return children

    def _worth_following(self, row: dict[str, object], parent: int) -> bool:
        share = row["restored"]
        followed = sum(self.tree.nodes[child].get("followed", False) for child in self.tree.successors(parent))
        if row["depth"] >= self.depth or share is None:  # type: ignore[operator]
            return False
        return share >= self.least and followed < self.follow  # type: ignore[operator]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _edges_into(circuit: Circuit, reader: str) -> np.ndarray:
    """Flat indices of a circuit's edges into a reader."""
    place = circuit.universe.readers.index(reader)
    start, stop = circuit.universe.reader_offsets[place : place + 2]
    return circuit.edge_ids[(circuit.edge_ids >= start) & (circuit.edge_ids < stop)]


def readers_of(universe: Universe, writer: str) -> list[str]:
    """What a writer itself reads: the readers that lead to it.

    Args:
        universe: The universe.
        writer: A head, an MLP or an embedding, which reads nothing.

    Examples:
        >>> readers_of(Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2), "a1.h3")
        ['a1.h3<q>', 'a1.kv1<k>', 'a1.kv1<v>']

    Raises:
        UnknownNameError: No such writer.
    """
    if writer not in universe.writers:
        raise UnknownNameError.of("writer", writer, universe.writers)
    if writer in universe.readers:
        return [writer]
    return [source for source, target in universe.structural_edges() if target == writer]
