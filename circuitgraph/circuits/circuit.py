"""The circuit: kept edges with scores, their universe and where they came from. Immutable, without torch.

`Circuit.from_edges` is the one place where dangling edges are dropped, for trained gates, baselines, set
algebra and files alike, so that what is counted, evaluated, saved and drawn is the same object.
`circuitgraph.circuits.file` writes and reads the JSON behind `Circuit.save` and `Circuit.load`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitgraph.circuits.provenance import provenance_text
from circuitgraph.circuits.strength import score_meaning, strengths_of
from circuitgraph.errors import CircuitGraphError, ConfigurationError, UnknownNameError
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.edge_input import Edges, index_of_edge, read_edges
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    import networkx as nx

    from circuitgraph.circuits.formats.content import MergeRules
    from circuitgraph.circuits.formats.file_format import FileChoices


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Circuit:
    """Kept edges of a universe. Build one with `Circuit.from_edges` or `Circuit.load`.

    Two circuits are equal when they keep the same edges of the same universe, whatever their scores and
    provenance. Iterating gives edge names in the order of the flat gate vector.

    Attributes:
        universe: What fixes the edges.
        edge_ids: Flat indices of the kept edges, sorted, dangling ones dropped `[kept]`, int64, read-only.
        scores: One finite score a kept edge `[kept]`, float64, read-only.
        ablation: What cut edges carry; it decides what counts as dangling.
        n_raw: How many edges were kept before dangling ones were dropped.
        provenance_json: `provenance` as JSON text.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> scores = {"input->a0.h0<v>": 2.0, "a0.h0->logits": 1.5, "a0.h0->m0": 1.0}
        >>> circuit = Circuit.from_edges(universe, scores)
        >>> list(circuit)
        ['input->a0.h0<v>', 'a0.h0->logits']
        >>> circuit.sparsity["n_raw"], circuit.sparsity["effective"], circuit.heads
        (3, 0.75, ('a0.h0',))
    """

    universe: Universe
    edge_ids: np.ndarray
    scores: np.ndarray
    ablation: str
    n_raw: int
    provenance_json: str = "{}"

    @classmethod
    def from_edges(
        cls,
        universe: Universe,
        edges: Edges,
        *,
        scores: Iterable[float] | np.ndarray | None = None,
        ablation: str = "counterfactual",
        provenance: Mapping[str, object] | None = None,
    ) -> Circuit:
        """Keep edges, and drop those of them that dangle.

        Args:
            universe: What fixes the edges.
            edges: Edge names `"u->v"` or pairs `(u, v)`; a mapping from them to scores; flat edge indices;
                or one boolean per edge of the universe.
            scores: One finite score for each of `edges`, in their order. With an array of edges, one score
                an edge of the universe will do as well. Missing: 1 each.
            ablation: `counterfactual`, `zero`, `mean` or `optimal`. Under `counterfactual` an edge dangles
                unless it lies on a path from an embedding to the logits; under the others a writer without
                inputs still says a constant, so an edge dangles unless it reaches the logits.
            provenance: Where the edges came from, as JSON values (numpy's are converted, NaN and infinity
                become null). `ablation` and `sparsity` are the circuit's own and filled in.

        Returns:
            The circuit.

        Raises:
            UnknownNameError: No such edge or no such ablation.
            ConfigurationError: An edge comes twice, scores do not fit the edges or are not finite, or the
                provenance holds what JSON cannot, or names another ablation.
        """
        if ablation not in ABLATIONS:
            raise UnknownNameError.of("ablation", ablation, ABLATIONS)
        claimed = (provenance or {}).get("ablation", ablation)
        if claimed != ablation:
            raise ConfigurationError(f"ablation={ablation!r}, but the provenance says {claimed!r}; make them agree")
        ids, values = read_edges(universe, edges, scores)
        kept = np.zeros(universe.n_edges, dtype=bool)
        kept[ids] = True
        stays = effective_edges(universe, kept, ablation)[ids]
        n_raw = len(ids)
        ids, values = ids[stays], values[stays]
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        for array in (ids, values):
            array.flags.writeable = False
        return cls(
            universe=universe,
            edge_ids=ids,
            scores=values,
            ablation=ablation,
            n_raw=n_raw,
            provenance_json=provenance_text(provenance or {}),
        )

    # ---------------------------------------------------------------- contents

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the circuit came from, with its `ablation` and `sparsity`; a fresh copy each time."""
        return {**json.loads(self.provenance_json), "ablation": self.ablation, "sparsity": self.sparsity}

    @property
    def sparsity(self) -> dict[str, int | float]:
        """Edge counts and sparsities `1 - n / n_universe`, before (raw) and after dropping (effective)."""
        n_universe, n_effective = self.universe.n_edges, len(self.edge_ids)
        return {
            "n_universe": n_universe,
            "n_raw": self.n_raw,
            "n_effective": n_effective,
            "raw": 1 - self.n_raw / n_universe,
            "effective": 1 - n_effective / n_universe,
        }

    @property
    def mask(self) -> np.ndarray:
        """One boolean per edge of the universe, true where kept `[edge]`; a fresh array each time."""
        mask = np.zeros(self.universe.n_edges, dtype=bool)
        mask[self.edge_ids] = True
        return mask

    @cached_property
    def score_meaning(self) -> str:
        """What the scores are: `log-alpha` of trained gates, or what the provenance calls them; see `strength`."""
        return score_meaning(json.loads(self.provenance_json))

    @cached_property
    def strengths(self) -> np.ndarray:
        """How strong each kept edge is `[kept]`, never below 0: what "the strongest edges" means everywhere.

        |score|; for trained gates, whose score of −8 is an edge that was nearly cut, log(1 + exp(score)). See
        `circuitgraph.circuits.strength`.
        """
        return strengths_of(self.scores, self.score_meaning)

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Kept edges as pairs of writer and reader, in the order of `edge_ids`."""
        writers, readers = self.universe.endpoints(self.edge_ids)
        return tuple(
            (self.universe.writers[writer], self.universe.readers[reader])
            for writer, reader in zip(writers.tolist(), readers.tolist(), strict=True)
        )

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kind of every kept edge (`q`, `k`, `v`, `qkv`, `mlp`, `logits`), in the order of `edge_ids`."""
        _, readers = self.universe.endpoints(self.edge_ids)
        return tuple(self.universe.reader_kinds[readers].tolist())

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Ends of kept edges, readers such as `a3.h7<q>` among them, in the order of the computation."""
        from circuitgraph.graph.build import node_attributes

        present = {name for edge in self.edges for name in edge}
        return tuple(name for name, _ in node_attributes(self.universe) if name in present)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Heads that write into a kept edge, such as `a3.h7`."""
        return self._writers_of("head")

    @cached_property
    def mlps(self) -> tuple[str, ...]:
        """MLPs that write into a kept edge, such as `m3`."""
        return self._writers_of("mlp")

    def _writers_of(self, kind: str) -> tuple[str, ...]:
        writers = np.unique(self.universe.endpoints(self.edge_ids)[0])
        chosen = writers[self.universe.writer_kinds[writers] == kind]
        return tuple(self.universe.writers[writer] for writer in chosen.tolist())

    @property
    def graph(self) -> nx.DiGraph:
        """The kept edges with their nodes, as a fresh `nx.DiGraph`.

        Nodes have `kind` and `layer`, kept edges `score`, `kind` and `mask`; structural edges join a head's
        readers to the head where both are there. `graph.graph` holds the universe and the ablation.
        """
        import networkx as nx

        from circuitgraph.graph.build import STRUCTURAL, node_attributes

        present = set(self.nodes)
        graph = nx.DiGraph(universe=self.universe.to_dict(), ablation=self.ablation)
        graph.add_nodes_from((name, values) for name, values in node_attributes(self.universe) if name in present)
        edges = zip(self.edges, self.edge_ids.tolist(), self.scores.tolist(), self.kinds, strict=True)
        graph.add_edges_from((*ends, {"score": score, "kind": kind, "mask": edge}) for ends, edge, score, kind in edges)
        pairs = self.universe.structural_edges()
        graph.add_edges_from((pair for pair in pairs if present.issuperset(pair)), kind=STRUCTURAL)
        return graph

    @property
    def digest(self) -> str:
        """A sha256 over the universe and the kept edges, to refer to the circuit by."""
        digest = hashlib.sha256(json.dumps(self.universe.to_dict(), sort_keys=True).encode())
        digest.update(self.edge_ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.edge_ids)

    def __iter__(self) -> Iterator[str]:
        return (f"{source}->{target}" for source, target in self.edges)

    def __contains__(self, edge: object) -> bool:
        """Whether an edge, by name or as a pair, is kept.

        Raises:
            UnknownNameError: The universe has no such edge, kept or cut.
        """
        index = index_of_edge(self.universe, edge)
        place = int(np.searchsorted(self.edge_ids, index))
        return place < len(self.edge_ids) and int(self.edge_ids[place]) == index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.universe == other.universe and np.array_equal(self.edge_ids, other.edge_ids)

    def __hash__(self) -> int:
        return hash((self.universe, self.edge_ids.tobytes()))

    def __repr__(self) -> str:
        counts = self.sparsity
        return (
            f"<Circuit of {len(self)} of {counts['n_universe']} edges ({self.universe.family}, "
            f"{100 * counts['effective']:.2f} % sparse, raw {100 * counts['raw']:.2f} %; "
            f"{len(self.heads)} heads, {len(self.mlps)} MLPs; {self.ablation} ablation)>"
        )

    def _repr_html_(self) -> str:
        """A card for notebooks; see `circuitgraph.html`. `analysis.draw(circuit)` gives a drawing."""
        from circuitgraph.circuits.card import circuit_card

        return circuit_card(self)

    # ---------------------------------------------------------------- other circuits

    def complement(self) -> Circuit:
        """The edges that this circuit cuts, less those that dangle, with a score of 1 each.

        Its provenance names this circuit as its parent, see `circuitgraph.circuits.parentage`.
        """
        from circuitgraph.circuits.parentage import parentage

        provenance = parentage("complement", [self])
        return Circuit.from_edges(self.universe, ~self.mask, ablation=self.ablation, provenance=provenance)

    def without(self, edges: Edges) -> Circuit:
        """This circuit less some of its edges, and less those that dangle then.

        Args:
            edges: What to cut: edge names or pairs, flat indices, or one boolean per edge of the universe. Edges that
                are not kept are cut already.

        Returns:
            The circuit, with this one's scores and ablation. Its provenance names this circuit as its parent.

        Raises:
            UnknownNameError: No such edge.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> circuit = Circuit.from_edges(universe, {"input->m0": 2.0, "m0->logits": 1.5, "input->logits": 1.0})
            >>> list(circuit.without(["m0->logits"]))
            ['input->logits']
        """
        cut, _ = read_edges(self.universe, edges, None)
        return self._part("without", ~np.isin(self.edge_ids, cut))

    def top(self, n: int, *, by: str = "strength") -> Circuit:
        """The strongest edges, less those that dangle without the others.

        Args:
            n: How many, before dangling ones are dropped; all if there are not more.
            by: `strength`: what every table and drawing goes by, |score| unless the scores are trained gates', where
                it is the score itself. `size`: |score| in any case. `signed`: the score in any case, where a large
                negative one is the weakest.

        Returns:
            The circuit, with this one's scores and ablation. Its provenance names this circuit as its parent.

        Raises:
            ConfigurationError: A negative number.
            UnknownNameError: No such `by`.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> circuit = Circuit.from_edges(universe, {"input->m0": 2.0, "m0->logits": 1.5, "input->logits": -3.0})
            >>> list(circuit.top(1)), list(circuit.top(2, by="signed"))
            (['input->logits'], ['input->m0', 'm0->logits'])
        """
        if by not in ("strength", "size", "signed"):
            raise UnknownNameError.of("by", by, ("strength", "size", "signed"))
        if n < 0:
            raise ConfigurationError(f"n must be 0 or more; got {n}")
        values = {"strength": self.strengths, "size": np.abs(self.scores), "signed": self.scores}[by]
        stays = np.zeros(len(self), dtype=bool)
        stays[np.argsort(-values, kind="stable")[:n]] = True
        return self._part("top", stays)

    def _part(self, operation: str, stays: np.ndarray) -> Circuit:
        from circuitgraph.circuits.parentage import parentage

        return Circuit.from_edges(
            self.universe,
            self.edge_ids[stays],
            scores=self.scores[stays],
            ablation=self.ablation,
            provenance=parentage(operation, [self]),
        )

    def with_provenance(self, provenance: Mapping[str, object]) -> Circuit:
        """The same circuit with entries added to its provenance, replacing those of the same name."""
        text = provenance_text({**json.loads(self.provenance_json), **provenance})
        return replace(self, provenance_json=text)

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Write the circuit as JSON, whole or not at all; see `circuitgraph.circuits.file`.

        Raises:
            OutputError: The file cannot be written.
        """
        from circuitgraph.circuits.file import write_circuit

        return write_circuit(self, Path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        universe: Universe | None = None,
        rules: MergeRules | None = None,
        choices: FileChoices | None = None,
    ) -> Circuit:
        """Read a circuit from JSON, or from a file of another tool; see `circuitgraph.circuits.file` and `formats`.

        Args:
            path: A circuit file; with `universe`, also a file or folder of EAP-IG, MIB or Edge-Pruning.
            universe: The universe that the circuit shall have. Files of other tools do not say theirs.
            rules: For files of other tools, what is done where edges do not match one to one.
            choices: What they leave open.

        Raises:
            CircuitFormatError: The file is missing, truncated, of a newer version, or holds unknown edges.
            GraphMismatchError: It is of another universe, or edges do not match and no rule says what to do.
            ConfigurationError: A file of another tool keeps no edges, or a choice is missing.
        """
        from circuitgraph.circuits.file import check_counts, read_circuit, refuse, require_universe

        path = Path(path)
        if universe is not None:
            from circuitgraph.circuits.conversion import read_circuit_as
            from circuitgraph.circuits.formats.content import MergeRules
            from circuitgraph.circuits.formats.file_format import FileChoices
            from circuitgraph.circuits.formats.registry import recognised_format

            if (known := recognised_format(path)) is not None:
                return read_circuit_as(path, known, universe, rules or MergeRules(), choices or FileChoices())
        found = read_circuit(path)
        require_universe(path, found.universe, universe)
        try:
            circuit = cls.from_edges(found.universe, found.scores, ablation=found.ablation, provenance=found.provenance)
        except CircuitGraphError as error:
            refuse(path, "edges", str(error))
        n_raw = check_counts(path, circuit, found.provenance)
        return circuit if n_raw == circuit.n_raw else replace(circuit, n_raw=n_raw)
