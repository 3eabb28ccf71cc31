"""Random circuits to compare with: exactly as many edges between each pair of layers, and nothing that dangles.

Drawn edge by edge, a sparse circuit falls apart once dangling edges are dropped: of the 9,261 ways to place a chain of
four edges in three layers of two heads, 343 leave nothing dangling. So a random circuit is not built from nothing: a
random walk begins at the circuit itself and changes it for as long as it takes to forget where it began, and no step
leaves the circuits of that size and without dangling edges (Markov chain Monte Carlo, as for random graphs of given
degrees). Three kinds of steps, each as likely as its reverse (Metropolis and Hastings see to the second kind), so that
every circuit that can be reached is as likely as any other in the end:

1. an edge is exchanged for another one between the same two layers;
2. one edge into a node and one out of it are moved to another node of its layer, together;
3. two nodes of a layer exchange all they read and all they write to.

Nothing dangles exactly if every node with an edge out has one in (asked under counterfactual ablation alone, elsewhere
a node without inputs says a constant) and every node with an edge in has one out, for edges lead from earlier to later
nodes only. So a step is checked by the nodes that it touches.
"""

from __future__ import annotations

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.block import Block
from circuitgraph.graph.gate_map import FROZEN, REMOVED, GateMap
from circuitgraph.graph.universe import Universe

_STEPS_AN_EDGE = 10
_LEAST_STEPS = 300
_MOST_STEPS = 3_000_000
_CHANCES = (0.5, 0.85)
"""Below the first an edge is exchanged, below the second two are moved, else two nodes change places."""


def layer_pairs(universe: Universe, edges: np.ndarray) -> np.ndarray:
    """A number for the pair of layers that each edge joins, and for the span that it is at.

    Args:
        universe: The universe.
        edges: Flat edge indices `[n]`.

    Returns:
        Pair numbers `[n]`.
    """
    writers, readers = universe.endpoints(edges)
    joined = (universe.writer_layers[writers] + 1) * (universe.n_layers + 1) + universe.reader_layers[readers]
    spans = np.searchsorted([part.readers.stop for part in universe.parts], readers, side="right")
    return joined + spans * (universe.n_layers + 1) ** 2


def random_circuit(circuit: Circuit, *, seed: int, gate_map: GateMap | None = None) -> Circuit:
    """A random circuit with as many edges between each pair of layers, none of which dangles.

    Args:
        circuit: What to imitate.
        seed: Which one.
        gate_map: Of the edited graph that the circuit was found in, if it was edited: removed edges are never drawn,
            and the frozen edges of the circuit are the random circuit's as well.

    Returns:
        The random circuit. Its provenance has `moved`, the share of its edges that the imitated circuit does not have:
        0 where there is no other circuit of that size.

    References:
        Hastings, W. K. (1970). Monte Carlo sampling methods using Markov chains. Biometrika 57, 97-109.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> chain = ["input->m0", *(f"m{i}->m{i + 1}" for i in range(11)), "m11->logits"]
        >>> [len(random_circuit(Circuit.from_edges(universe, chain), seed=seed)) for seed in range(3)]
        [13, 13, 13]
    """
    universe = circuit.universe
    codes = None if gate_map is None else gate_map.parameter_of_edge
    walk = _Walk(circuit, codes, np.random.default_rng(seed))
    walk.run(min(_MOST_STEPS, max(_LEAST_STEPS, _STEPS_AN_EDGE * len(circuit))))
    kept = np.array(sorted(walk.place), dtype=np.int64)
    found = Circuit.from_edges(
        universe, kept, ablation=circuit.ablation, provenance={
            "method": "random",
            "seed": seed,
            "imitates": circuit.digest,
            "moved": float(1 - circuit.mask[kept].mean()) if len(kept) else 0.0,
            "missing": 0,
        },
    )  # fmt: skip
    return found.with_provenance({"missing": len(circuit) - len(found)}) if len(found) != len(circuit) else found


class _Walk:
    """A circuit that changes step by step.

    Attributes:
        edges: Every kept edge as writer and reader.
        place: Where each kept edge stands in `edges`, by its flat index.
        out: The readers of each writer.
        into: The writers that each reader reads.
        ports: The readers of each head (its query's first) or MLP.
        ports_at: The same by the span of the reader: keys and values stand at the head's own span and before.
        heads: The nodes that each reader is of: none for the logits, several for shared keys and values.
    """

    def __init__(self, circuit: Circuit, codes: np.ndarray | None, rng: np.random.Generator) -> None:
        self.universe, self.rng = circuit.universe, rng
        self.needs_inputs = circuit.ablation == "counterfactual"
        universe = self.universe
        self.seen = np.diff(universe.reader_offsets).tolist()
        self.codes = codes
        self.writer_layer = universe.writer_layers.tolist()
        self.reader_layer = universe.reader_layers.tolist()
        blocks = universe.without_spans.blocks
        self.first_of_layer = [block.first_written for block in blocks if block.kind == "attention"]
        self.reads_nothing = universe.reads_nothing.tolist()
        self.ports: list[list[int]] = [[] for _ in range(universe.n_writers)]
        self.heads: list[list[int]] = [[] for _ in range(universe.n_readers)]
        self.ports_at: list[dict[int, list[int]]] = [{} for _ in range(universe.n_writers)]
        self.seen_from, self.base, self.span = [], [], []
        for place, part in enumerate(universe.parts):
            n_readers, first = part.readers.stop - part.readers.start, part.writers.start
            self.span += [place] * n_readers
            self.seen_from += [first] * n_readers
            self.base += (universe.reader_offsets[part.readers] - first).tolist()
            for block in part.blocks:
                self._join(universe, place, block)
        self.out: list[list[int]] = [[] for _ in range(universe.n_writers)]
        self.into: list[list[int]] = [[] for _ in range(universe.n_readers)]
        self.edges: list[tuple[int, int]] = []
        self.place: dict[int, int] = {}
        writers, readers = universe.endpoints(circuit.edge_ids)
        for writer, reader in zip(writers.tolist(), readers.tolist(), strict=True):
            self._put(writer, reader)

    def _join(self, universe: Universe, place: int, block: Block) -> None:
        """Note which readers are whose, of a block at a span."""
        parts = universe.parts
        for index, roles in enumerate(block.readers_of.tolist()):
            writer = parts[place].writers.start + block.first_written + index
            for at in (place, *range(place)):
                roles_there = roles if at == place else [role for role in roles if block.elsewhere[role]]
                ports = [parts[at].readers.start + block.first_reader + role for role in roles_there]
                if ports:
                    self.ports_at[writer][at] = ports
                    self.ports[writer] += ports
                for reader in ports:
                    self.heads[reader].append(writer)

    def run(self, n_steps: int) -> None:
        """Take so many steps."""
        if not self.edges:
            return
        kinds = self.rng.random(n_steps).tolist()
        chosen = self.rng.integers(0, len(self.edges), n_steps).tolist()
        self._draws = iter(self.rng.random(6 * n_steps).tolist())
        for kind, edge in zip(kinds, chosen, strict=True):
            if kind < _CHANCES[0]:
                self._exchange(*self.edges[edge])
            elif kind < _CHANCES[1]:
                self._move(*self.edges[edge])
            else:
                self._change_places(self.edges[edge][0])

    # ---------------------------------------------------------------- steps

    def _exchange(self, writer: int, reader: int) -> None:
        """An edge for another one between the same layers."""
        first, n_writers = self._writers_beside(writer)
        start, n_readers = self._readers_beside(reader)
        other = first + self._below(n_writers), start + self._below(n_readers)
        self._try([(writer, reader)], [other])

    def _move(self, writer: int, reader: int) -> None:
        """One edge in and one out of a node to another node of its layer."""
        universe, layer = self.universe, self.reader_layer[reader]
        if layer == universe.n_layers:
            return
        node, share = self._node_of(reader)
        if not self.out[node]:
            return
        first, n_nodes = self._writers_beside(node)
        other, span = first + self._below(n_nodes), self.span[reader]
        if other == node or span not in self.ports_at[other]:
            return
        ports, other_ports = self.ports_at[node][span], self.ports_at[other][span]
        onto = other_ports[self._below(len(other_ports))]
        leaves = self.out[node][self._below(len(self.out[node]))]
        back = self._share(onto)
        odds = (back * len(self.out[node]) * len(other_ports)) / (share * (len(self.out[other]) + 1) * len(ports))
        if next(self._draws) < odds:
            self._try([(writer, reader), (node, leaves)], [(writer, onto), (other, leaves)])

    def _change_places(self, node: int) -> None:
        """A node with another one of its layer; what a group of heads reads as keys and values stays."""
        if self.reads_nothing[node]:
            return
        first, n_nodes = self._writers_beside(node)
        other = first + self._below(n_nodes)
        if other == node:
            return
        gone, come = [], []
        ends = ((node, other), (other, node))
        for one, two in ends:
            mine, theirs = self.ports[one][0], self.ports[two][0]
            gone += [(one, reader) for reader in self.out[one]] + [(writer, mine) for writer in self.into[mine]]
            come += [(two, reader) for reader in self.out[one]] + [(writer, theirs) for writer in self.into[mine]]
        if len(set(gone)) == len(gone) and len(set(come)) == len(come):
            self._try(gone, come)

    # ---------------------------------------------------------------- one step

    def _try(self, gone: list[tuple[int, int]], come: list[tuple[int, int]]) -> None:
        """Take some edges out and put others in, if they exist and nothing dangles then."""
        codes, base = self.codes, self.base
        for writer, reader in come:
            if not 0 <= writer - self.seen_from[reader] < self.seen[reader]:
                return
            if codes is not None and codes[base[reader] + writer] == REMOVED:
                return
        if codes is not None:
            stay = {edge for edge in gone if codes[base[edge[1]] + edge[0]] == FROZEN}
            if stay - set(come):
                return
        for edge in gone:
            self._take(*edge)
        if any(base[reader] + writer in self.place for writer, reader in come):
            done: list[tuple[int, int]] = []
        else:
            done = come
            for edge in come:
                self._put(*edge)
            if self._nothing_dangles({*gone, *come}):
                return
        for edge in done:
            self._take(*edge)
        for edge in gone:
            self._put(*edge)

    def _put(self, writer: int, reader: int) -> None:
        self.place[self.base[reader] + writer] = len(self.edges)
        self.edges.append((writer, reader))
        self.out[writer].append(reader)
        self.into[reader].append(writer)

    def _take(self, writer: int, reader: int) -> None:
        at, last = self.place.pop(self.base[reader] + writer), self.edges.pop()
        if at < len(self.edges):
            self.edges[at] = last
            self.place[self.base[last[1]] + last[0]] = at
        self.out[writer].remove(reader)
        self.into[reader].remove(writer)

    def _nothing_dangles(self, edges: set[tuple[int, int]]) -> bool:
        """Whether no node at some edges lacks what its edges need."""
        nodes = {writer for writer, _ in edges if not self.reads_nothing[writer]}
        for _, reader in edges:
            nodes.update(self.heads[reader])
        return all(self._is_whole(node) for node in nodes)

    def _is_whole(self, node: int) -> bool:
        ports = self.ports[node]
        if self.out[node]:
            return not self.needs_inputs or any(self.into[port] for port in ports)
        read = [port for port in ports if self.into[port]]
        return all(any(self.out[head] for head in self.heads[port]) for port in read)

    # ---------------------------------------------------------------- who is where

    def _below(self, n: int) -> int:
        return int(next(self._draws) * n)

    def _writers_beside(self, writer: int) -> tuple[int, int]:
        """The first writer of a writer's layer, and how many; vectors of a layer by themselves."""
        layer, universe = self.writer_layer[writer], self.universe
        first = writer - writer % universe.without_spans.n_writers
        if layer < 0:
            return first, universe.n_embeddings
        first += self.first_of_layer[layer]
        if self.reads_nothing[writer]:
            n_vectors = universe.vector_layers.count(layer)
            return first - n_vectors, n_vectors
        return first, universe.n_heads + 1

    def _readers_beside(self, reader: int) -> tuple[int, int]:
        """The first reader of a reader's layer, and how many."""
        layer, n = self.reader_layer[reader], self.universe.n_attention_readers + 1
        first = self.universe.parts[self.span[reader]].readers.start
        return first + layer * n, 1 if layer == self.universe.n_layers else n

    def _share(self, reader: int) -> float:
        """How likely each of a reader's nodes is chosen."""
        return 1 / len(self.heads[reader])

    def _node_of(self, reader: int) -> tuple[int, float]:
        """One of a reader's nodes, and how likely it was."""
        nodes = self.heads[reader]
        return nodes[self._below(len(nodes))], 1 / len(nodes)
