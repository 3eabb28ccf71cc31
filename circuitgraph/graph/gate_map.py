"""Which trainable parameter gates which edge: an edited graph, read back into one index per edge.

Edges map to parameters, and the map belongs to the user. In a copy of the graph of
`circuitgraph.graph.build.build_graph`, removing an edge (or a node) fixes its gates at 0, `frozen=True` fixes
them at 1, and giving several edges the same `mask` ties them to one parameter. `GateMap.from_graph` takes
such a copy back, for training and evaluation alike; it refuses what cannot mean anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitgraph.errors import ConfigurationError, GraphEditError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    import networkx as nx

REMOVED = -1
FROZEN = -2
MAX_LISTED = 200
_EDGE_LISTS = ("removed_edges", "frozen_edges")


@dataclass(frozen=True, kw_only=True, eq=False)
class GateMap:
    """Edges to parameters.

    Attributes:
        universe: What fixes the edges.
        parameter_of_edge: For every edge the index of its parameter `[edge]`, int32; `REMOVED` (-1) where
            the gate is fixed at 0, `FROZEN` (-2) where it is fixed at 1. Parameters are numbered by their
            first edge.
        n_parameters: Length of the vector of trainable parameters.
        edges_per_parameter: How many edges each parameter gates `[parameter]`, int64.
        edits: What was changed, as JSON values for the provenance: counts of `removed`, `frozen` and `tied`
            edges, the names where there are at most 200 of them, and `sha256` of `parameter_of_edge`.

    Examples:
        >>> from circuitgraph.graph.build import build_graph
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> graph = build_graph(universe)
        >>> graph.remove_edge("input", "m0")
        >>> graph.edges["m0", "logits"]["frozen"] = True
        >>> graph.edges["input", "a0.h0<k>"]["mask"] = graph.edges["input", "a0.h0<q>"]["mask"]
        >>> gates = GateMap.from_graph(universe, graph)
        >>> gates.parameter_of_edge.tolist()
        [0, 0, 1, -1, 2, 3, 4, -2]
        >>> gates.expand(np.array([0.5, 0.25, 1, 1, 1])).tolist()
        [0.5, 0.5, 0.25, 0.0, 1.0, 1.0, 1.0, 1.0]
    """

    universe: Universe
    parameter_of_edge: np.ndarray
    n_parameters: int
    edges_per_parameter: np.ndarray
    edits: dict[str, Any]

    @classmethod
    def identity(cls, universe: Universe) -> GateMap:
        """One parameter per edge: the unedited graph, without building it."""
        return cls._of_masks(
            universe, np.arange(universe.n_edges, dtype=np.int64), np.zeros(universe.n_edges, dtype=bool)
        )

    @classmethod
    def keeping(cls, universe: Universe, edges: np.ndarray) -> GateMap:
        """One parameter for each of some edges, flat indices `[n]`; all others removed, without building the graph."""
        masks = np.full(universe.n_edges, REMOVED, dtype=np.int64)
        masks[edges] = edges
        return cls._of_masks(universe, masks, np.zeros(universe.n_edges, dtype=bool))

    @classmethod
    def from_graph(cls, universe: Universe, graph: nx.DiGraph) -> GateMap:
        """Take an edited copy of a universe's graph back.

        Args:
            universe: The universe of the compiled model.
            graph: A copy of `build_graph(universe)` in which edges or nodes were removed, edges were marked
                `frozen=True`, or edges were given the `mask` of another. Other attributes do not matter.

        Returns:
            The map.

        Raises:
            GraphEditError: A node or an edge was added, a structural edge was removed between two nodes that
                are there, a `mask` is missing or no edge's, `frozen` is no truth value, or a tie holds
                frozen and other edges.
            GraphMismatchError: The graph says that it was built for another universe.
        """
        _check_kind_of_graph(universe, graph)
        _check_nodes(universe, graph)
        _check_structural_edges(universe, graph)
        masks, frozen = _read_masks(universe, graph)
        _check_ties(universe, masks, frozen)
        return cls._of_masks(universe, masks, frozen)

    @classmethod
    def from_edits(cls, universe: Universe, edits: Mapping[str, Any]) -> GateMap:
        """Take edits back from a provenance, where they are listed edge by edge.

        Args:
            universe: The universe.
            edits: As of the attribute `edits`.

        Returns:
            The map.

        Raises:
            GraphEditError: There are more edits than are listed, or they are not those of the recorded `sha256`.
            UnknownNameError: The universe has no such edge.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> GateMap.from_edits(universe, {"removed": 1, "removed_edges": ["input->m0"]}).n_removed
            1
        """
        masks = np.arange(universe.n_edges, dtype=np.int64)
        frozen = np.zeros(universe.n_edges, dtype=bool)
        found = {name: [_index_of(universe, edge) for edge in edits.get(name, ())] for name in _EDGE_LISTS}
        ties = [[_index_of(universe, edge) for edge in group] for group in edits.get("tied_edges", ())]
        counts = {"removed": len(found["removed_edges"]), "frozen": len(found["frozen_edges"])}
        counts["tied"] = sum(map(len, ties))
        for name, n in counts.items():
            if n != edits.get(name, 0):
                raise GraphEditError(
                    f"{edits.get(name, 0):,} edges were {name} and {n:,} of them are listed by name (at most "
                    f"{MAX_LISTED} are), so the edited graph cannot be made from them"
                )
        masks[found["removed_edges"]] = -1
        frozen[found["frozen_edges"]] = True
        for group in ties:
            masks[group] = group[0]
        gate_map = cls._of_masks(universe, masks, frozen)
        if edits.get("sha256", gate_map.edits["sha256"]) != gate_map.edits["sha256"]:
            raise GraphEditError("the edges listed as removed, frozen and tied are not those of the recorded sha256")
        return gate_map

    @classmethod
    def _of_masks(cls, universe: Universe, masks: np.ndarray, frozen: np.ndarray) -> GateMap:
        parameter_of_edge = np.where(frozen, FROZEN, REMOVED).astype(np.int32)
        trained = np.flatnonzero((masks >= 0) & ~frozen)
        numbers, n_parameters = _number_by_first_edge(masks[trained])
        parameter_of_edge[trained] = numbers
        counts = np.bincount(numbers, minlength=n_parameters)
        edits = _summary(universe, parameter_of_edge, counts)
        for array in (parameter_of_edge, counts):
            array.flags.writeable = False
        return cls(
            universe=universe,
            parameter_of_edge=parameter_of_edge,
            n_parameters=n_parameters,
            edges_per_parameter=counts,
            edits=edits,
        )

    @property
    def n_removed(self) -> int:
        """Edges whose gate is fixed at 0."""
        return int(self.edits["removed"])

    @property
    def n_frozen(self) -> int:
        """Edges whose gate is fixed at 1."""
        return int(self.edits["frozen"])

    @property
    def min_sparsity(self) -> float:
        """Sparsity with every parameter at 1: the removed edges' share of the universe."""
        return self.n_removed / self.universe.n_edges

    @property
    def max_sparsity(self) -> float:
        """Sparsity with every parameter at 0: all but the frozen edges' share of the universe."""
        return 1.0 - self.n_frozen / self.universe.n_edges

    def expand(self, parameters: np.ndarray) -> np.ndarray:
        """Give every edge the value of its parameter.

        The two codes are indices from the end of the parameters followed by 1 and 0, so that one lookup
        serves every edge.

        Args:
            parameters: One value a parameter `[parameter]`.

        Returns:
            One value per edge `[edge]`, 0 where removed and 1 where frozen, of the parameters' dtype.

        Raises:
            ConfigurationError: The vector has another length.
        """
        parameters = np.asarray(parameters)
        if parameters.shape != (self.n_parameters,):
            raise ConfigurationError(
                f"expected one value for each of {self.n_parameters} parameters; got shape {parameters.shape}"
            )
        return np.append(parameters, np.array([1, 0], dtype=parameters.dtype))[self.parameter_of_edge]

    def settled(self, kept: np.ndarray) -> np.ndarray:
        """A set of kept edges as the edited graph has it: removed edges are never kept, frozen ones always.

        Args:
            kept: One boolean per edge of the universe `[edge]`.

        Returns:
            A new array where the graph was edited, else the given one.
        """
        if not self.n_removed and not self.n_frozen:
            return kept
        return (kept & (self.parameter_of_edge != REMOVED)) | (self.parameter_of_edge == FROZEN)

    def sparsity(self, parameters: np.ndarray) -> float:
        """`1 - Σ_e z(e) / |universe|`: every edge counts, tied or not, removed ones as 0, frozen ones as 1.

        Args:
            parameters: Gates between 0 and 1 `[parameter]`.

        Returns:
            The sparsity.
        """
        kept = float(np.dot(np.asarray(parameters, dtype=np.float64), self.edges_per_parameter)) + self.n_frozen
        return 1.0 - kept / self.universe.n_edges

    def check_target(self, target: float) -> None:
        """Refuse a target sparsity that no setting of the parameters reaches.

        Targets above 1 drive a Lagrangian harder and are reached by nobody, so they pass.

        Args:
            target: Target sparsity.

        Raises:
            ConfigurationError: Frozen edges keep the sparsity below the target, or removed ones above it.
        """
        n_edges = self.universe.n_edges
        if self.max_sparsity < target <= 1:
            raise ConfigurationError(
                f"target sparsity {target} cannot be reached: {self.n_frozen} of {n_edges} edges are frozen, "
                f"so at most {self.max_sparsity:.6f}; freeze fewer edges or lower the target"
            )
        if target < self.min_sparsity:
            raise ConfigurationError(
                f"target sparsity {target} cannot be reached: {self.n_removed} of {n_edges} edges are removed, "
                f"so at least {self.min_sparsity:.6f}; remove fewer edges or raise the target"
            )


def _index_of(universe: Universe, edge: object) -> int:
    source, _, target = str(edge).partition("->")
    return universe.edge_index(source, target)


def _number_by_first_edge(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """Renumber masks 0, 1, … in the order of their first edge, so that equal ties give equal maps."""
    if masks.size == 0 or bool(np.all(np.diff(masks) > 0)):
        return np.arange(masks.size, dtype=np.int64), int(masks.size)
    values, first, inverse = np.unique(masks, return_index=True, return_inverse=True)
    rank = np.empty(values.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(values.size)
    return rank[inverse], int(values.size)


def _summary(universe: Universe, parameter_of_edge: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    removed = np.flatnonzero(parameter_of_edge == REMOVED)
    frozen = np.flatnonzero(parameter_of_edge == FROZEN)
    shared = np.flatnonzero(counts > 1)
    n_tied = int(counts[shared].sum())
    edits: dict[str, Any] = {
        "removed": len(removed),
        "frozen": len(frozen),
        "tied": n_tied,
        "tie_groups": len(shared),
        "sha256": hashlib.sha256(parameter_of_edge.astype("<i4").tobytes()).hexdigest(),
    }
    for name, edges in (("removed_edges", removed), ("frozen_edges", frozen)):
        if 0 < len(edges) <= MAX_LISTED:
            edits[name] = [universe.edge_name(int(edge)) for edge in edges]
    if 0 < n_tied <= MAX_LISTED:
        groups = [np.flatnonzero(parameter_of_edge == parameter) for parameter in shared]
        edits["tied_edges"] = [[universe.edge_name(int(edge)) for edge in group] for group in groups]
    return edits


def _check_kind_of_graph(universe: Universe, graph: nx.DiGraph) -> None:
    if not graph.is_directed() or graph.is_multigraph():
        raise GraphEditError(
            f"expected an nx.DiGraph, a copy of the model's graph; got {type(graph).__name__}; "
            "edit `compiled.graph.copy()`"
        )
    declared = graph.graph.get("universe")
    if declared is not None and declared != universe.to_dict():
        difference = universe.first_difference(Universe.from_dict(declared))
        raise GraphMismatchError(f"the graph was built for another universe: {difference} (model against graph)")


def _check_nodes(universe: Universe, graph: nx.DiGraph) -> None:
    known = {*universe.writers, *universe.readers}
    for node in graph:
        if node not in known:
            raise GraphEditError(
                f"the graph has an added node; {UnknownNameError.of('node', node, known)} "
                "Nodes and edges can be removed, frozen or tied, not added"
            )


def _check_structural_edges(universe: Universe, graph: nx.DiGraph) -> None:
    expected = universe.structural_edges()
    for source, target in expected:
        if source in graph and target in graph and not graph.has_edge(source, target):
            raise GraphEditError(
                f"structural edge {source}->{target} was removed while both its ends are in the graph; it "
                "says which readers a head is made of and has no gate. To cut it, remove the edges into "
                f"{source}, or the node {target}"
            )
    for source, target in expected:
        if graph.has_edge(source, target) and "mask" in graph.edges[source, target]:
            raise GraphEditError(f"structural edge {source}->{target} was given a mask; it has no gate to train")
    structural = set(expected)
    # What enters a head or an embedding; what enters a reader is checked as its masks are read.
    for name in universe.writers:
        if name not in graph or name in universe.readers:
            continue
        for source in graph.predecessors(name):
            if (source, name) not in structural:
                raise _added_edge(universe, source, name)


def _added_edge(universe: Universe, source: str, target: str) -> GraphEditError:
    reason = f"{target} is no reader"
    try:
        universe.edge_index(source, target)
    except UnknownNameError as error:
        reason = str(error)
    return GraphEditError(
        f"the graph has an added edge {source}->{target}: {reason}. Edges can be removed, frozen or tied, not added"
    )


def _read_masks(universe: Universe, graph: nx.DiGraph) -> tuple[np.ndarray, np.ndarray]:
    """Mask of every edge, -1 where it was removed, and whether it is frozen `[edge]`."""
    masks = np.full(universe.n_edges, -1, dtype=np.int64)
    frozen = np.zeros(universe.n_edges, dtype=bool)
    offsets = universe.reader_offsets.tolist()
    for part in universe.parts:
        position_of = {name: index for index, name in enumerate(universe.writers[part.writers])}
        for index, reader in enumerate(universe.readers[part.readers], start=part.readers.start):
            n_writers = offsets[index + 1] - offsets[index]
            for source, _, data in graph.in_edges(reader, data=True) if reader in graph else ():
                position = position_of.get(source, n_writers)
                if position >= n_writers:
                    raise _added_edge(universe, source, reader)
                edge = offsets[index] + position
                mask = data.get("mask")
                if type(mask) is not int or not 0 <= mask < universe.n_edges:
                    mask = _checked_mask(universe, source, reader, mask)
                masks[edge] = mask
                if "frozen" in data:
                    frozen[edge] = _checked_frozen(source, reader, data["frozen"])
    return masks, frozen


def _checked_mask(universe: Universe, source: str, target: str, mask: object) -> int:
    is_integer = isinstance(mask, (int, np.integer)) and not isinstance(mask, bool)
    if is_integer and 0 <= int(mask) < universe.n_edges:  # type: ignore[arg-type]
        return int(mask)  # type: ignore[arg-type]
    came = "it is missing" if mask is None else f"got {mask!r}"
    raise GraphEditError(
        f"edge {source}->{target}: mask must be a whole number from 0 to {universe.n_edges - 1}; {came}. "
        "To fix a gate at 0, remove the edge; to fix it at 1, set frozen=True"
    )


def _checked_frozen(source: str, target: str, value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise GraphEditError(f"edge {source}->{target}: frozen must be True or False; got {value!r}")


def _check_ties(universe: Universe, masks: np.ndarray, frozen: np.ndarray) -> None:
    has_frozen = np.zeros(universe.n_edges, dtype=bool)
    has_frozen[masks[frozen]] = True
    mixed = np.flatnonzero((masks >= 0) & ~frozen & has_frozen[masks])
    if mixed.size:
        free = int(mixed[0])
        fixed = int(np.flatnonzero(frozen & (masks == masks[free]))[0])
        raise GraphEditError(
            f"edges {universe.edge_name(fixed)} (frozen) and {universe.edge_name(free)} (not frozen) share "
            f"mask {masks[free]}; ties are kept or cut whole: freeze both or neither"
        )
