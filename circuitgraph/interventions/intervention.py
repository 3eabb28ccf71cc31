"""An intervention: by how much edges are turned up or down, as data on a universe. Without torch.

A change α of an edge and a strength β make the gate `1 + βα`: what the reader gets of the writer, as a multiple of what
the writer says. 0 changes nothing, −1 at strength 1 takes the edge away, −2 turns its sign, 1 doubles it. The
strength is chosen when the intervention is used, so one file holds a whole line of interventions, through the model as
it is (Stoehr et al. 2024, "Activation scaling for steering and interpreting language models", whose scalars are one per
site, layer and position; here they are one per edge, of which one per writer is the case that all its edges share it).

What is scaled is what a writer says itself, so a gate that is neither 0 nor 1 has a meaning only where an edge that is
cut carries nothing: under zero ablation. Under the other ablations an edge's gate goes from the ablated value to the
model's own, and 1.5 or −1 would be a mixture of two prompts; gates outside of [0, 1] are refused there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.provenance import provenance_text
from circuitgraph.errors import (
    CircuitFormatError,
    CircuitGraphError,
    ConfigurationError,
    GraphMismatchError,
    UnknownNameError,
)
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.json_document import read_document
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.edge_input import Edges, read_edges
from circuitgraph.graph.universe import Universe
from circuitgraph.graph.virtual import require_no_vectors
from circuitgraph.interventions.positions import PositionChange

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit

FORMAT = "circuitgraph intervention"
FORMAT_VERSION = 1
_FIELDS, _OPTIONAL = ("universe", "ablation", "edges", "provenance"), ("at_positions",)
_HINT = "as Intervention.save writes it. A circuit is run with `circuitgraph run CIRCUIT`"
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Intervention:
    """Edges turned up or down. Build one with `from_edges`, `from_writers` or `load`.

    Attributes:
        universe: What fixes the edges.
        changes: The change α of each edge `[edge]`, float64, read-only; 0 for those left alone.
        ablation: What an edge whose gate is 0 carries.
        provenance_json: Where it came from, as JSON text.
        at_positions: Changes of writers at some token positions alone, on top of those of edges.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> off = Intervention.from_writers(universe, {"a0.h0": -1})
        >>> off
        Intervention on 2 of 8 edges, of 1 writer (zero ablation)
        >>> dict(off)
        {'a0.h0->m0': -1.0, 'a0.h0->logits': -1.0}
        >>> off.gates(0.5).tolist().count(0.5)
        2
    """

    universe: Universe
    changes: Float[np.ndarray, " edge"]
    ablation: str = "zero"
    provenance_json: str = "{}"
    at_positions: tuple[PositionChange, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers, and make them read-only."""
        changes = np.array(self.changes, dtype=np.float64)
        if changes.shape != (self.universe.n_edges,):
            raise ConfigurationError(
                f"an intervention has one change for each of the universe's {self.universe.n_edges:,} edges; got shape "
                f"{changes.shape}. Use Intervention.from_edges for some of them"
            )
        wrong = np.flatnonzero(~np.isfinite(changes))
        if wrong.size:
            name = self.universe.edge_name(int(wrong[0]))
            raise ConfigurationError(f"the change of edge {name} is {changes[wrong[0]]}; changes must be finite")
        if self.ablation not in ABLATIONS:
            raise ConfigurationError(f"ablation must be one of {', '.join(ABLATIONS)}; got {self.ablation!r}")
        changes.setflags(write=False)
        object.__setattr__(self, "changes", changes)
        object.__setattr__(self, "at_positions", tuple(self.at_positions))
        if self.at_positions:
            self._check_positions()

    def _check_positions(self) -> None:
        if self.ablation != "zero":
            raise ConfigurationError(
                f"changes at positions multiply what a writer says, which needs ablation 'zero'; got {self.ablation!r}"
            )
        require_no_vectors(self.universe.virtual, "changes at positions")
        if self.universe.spans:
            raise ConfigurationError(
                f"the universe has spans of positions ({', '.join(self.universe.spans)}): change the edges of a span, "
                "such as m0@" + self.universe.spans[0] + "->…, or give positions in the universe without spans"
            )
        for one in self.at_positions:
            if one.writer not in self.universe.writers:
                raise UnknownNameError.of("writer", one.writer, self.universe.writers)

    @classmethod
    def from_edges(
        cls, universe: Universe, edges: Edges, *, change: float | Iterable[float] | None = None,
        ablation: str = "zero", provenance: Mapping[str, object] | None = None,
    ) -> Intervention:  # fmt: skip
        """Change some edges.

        Args:
            universe: What fixes the edges.
            edges: A mapping of edges to changes; or edges as of `Circuit.from_edges`, with `change`.
            change: Their change, one for all or one for each; by default -1, which takes them away.
            ablation: What an edge whose gate is 0 carries.
            provenance: Where it came from, as JSON values.

        Raises:
            UnknownNameError: No such edge.
            ConfigurationError: An edge comes twice, or numbers do not fit or are not finite.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> dict(Intervention.from_edges(universe, ["input->m0"], change=0.5))
            {'input->m0': 0.5}
        """
        if isinstance(edges, Mapping):
            ids, values = read_edges(universe, edges, None)
            if change is not None:
                raise ConfigurationError("changes came twice: as the values of the mapping of edges and as `change`")
        else:
            ids, values = read_edges(universe, edges, None)
            change = -1.0 if change is None else change
            values = np.broadcast_to(np.asarray(change if np.isscalar(change) else list(change), float), ids.shape)  # type: ignore[arg-type]
        changes = np.zeros(universe.n_edges)
        changes[ids] = values
        return cls(
            universe=universe, changes=changes, ablation=ablation, provenance_json=provenance_text(provenance or {})
        )

    @classmethod
    def from_writers(
        cls, universe: Universe, writers: Mapping[str, float], *, ablation: str = "zero",
        provenance: Mapping[str, object] | None = None,
    ) -> Intervention:  # fmt: skip
        """Change everything that some writers say.

        Args:
            universe: What fixes the edges.
            writers: Names of writers, such as `a9.h9`, `m3` or `input`, with the change of all their edges.
            ablation: What an edge whose gate is 0 carries.
            provenance: Where it came from, as JSON values.

        Raises:
            UnknownNameError: No such writer.
            ConfigurationError: A change is not finite.
        """
        known = {name: index for index, name in enumerate(universe.writers)}
        per_writer = np.zeros(universe.n_writers)
        for name, change in writers.items():
            if name not in known:
                raise UnknownNameError.of("writer", name, known)
            per_writer[known[name]] = change
        return cls.of_writers(universe, per_writer, ablation=ablation, provenance=provenance)

    @classmethod
    def of_writers(
        cls, universe: Universe, changes: Float[np.ndarray, " writer"], *, ablation: str = "zero",
        provenance: Mapping[str, object] | None = None,
    ) -> Intervention:  # fmt: skip
        """The same with a number for every writer, in their order."""
        return cls(
            universe=universe, changes=np.asarray(changes, dtype=np.float64)[universe.writer_of_edge],
            ablation=ablation, provenance_json=provenance_text(provenance or {}),
        )  # fmt: skip

    @classmethod
    def from_positions(
        cls, universe: Universe, changes: Iterable[PositionChange], *, provenance: Mapping[str, object] | None = None
    ) -> Intervention:
        """Change what writers say at some token positions alone.

        Args:
            universe: What fixes the writers.
            changes: One for each writer and set of positions; several at one position add up.
            provenance: Where it came from, as JSON values.

        Raises:
            UnknownNameError: No such writer.
            ConfigurationError: A universe with spans, or with vectors.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> Intervention.from_positions(universe, [PositionChange(writer="m0", positions="last", change=-1)])
            Intervention on 0 of 8 edges, of 0 writers, and on 1 writer at some positions (zero ablation)
        """
        return cls(
            universe=universe, changes=np.zeros(universe.n_edges), provenance_json=provenance_text(provenance or {}),
            at_positions=tuple(changes),
        )  # fmt: skip

    # ---------------------------------------------------------------- what it does

    def gates(self, strength: float = 1.0) -> Float[np.ndarray, " edge"]:
        """A gate for every edge: `1 + strength · change`.

        Args:
            strength: How much of it; 0 is the model as it is, negative numbers go the other way.

        Raises:
            ConfigurationError: Gates outside of [0, 1] under another ablation than `zero`, a strength that is not
                finite, or changes at positions, which no gate of an edge can say.
        """
        if self.at_positions:
            raise ConfigurationError(
                f"the intervention changes {self.at_positions[0].writer} at some positions alone, and the gate of an "
                "edge holds at all of them: it can be run on the whole model alone, with intervene(…) or "
                "`circuitgraph run --with`"
            )
        if not np.isfinite(strength):
            raise ConfigurationError(f"strength must be a finite number; got {strength}")
        gates = 1 + strength * self.changes
        outside = np.flatnonzero((gates < -_ROUNDING) | (gates > 1 + _ROUNDING))
        if self.ablation != "zero" and outside.size:
            edge = int(outside[0])
            raise ConfigurationError(
                f"at strength {strength:g} edge {self.universe.edge_name(edge)} has the gate {gates[edge]:g}, which "
                f"means nothing under {self.ablation} ablation: it would mix two prompts. Gates outside of 0 to 1 need "
                "ablation 'zero'"
            )
        return gates

    def on_circuit(self, circuit: Circuit, strength: float = 1.0) -> Float[np.ndarray, " edge"]:
        """The gates of a circuit that is run with it: cut edges stay cut.

        Args:
            circuit: The circuit.
            strength: How much of it.

        Raises:
            GraphMismatchError: A circuit of another universe.
            ConfigurationError: A circuit that was found under another ablation than the intervention is for.
        """
        self.require_universe(circuit.universe, "the circuit")
        if circuit.ablation != self.ablation:
            raise ConfigurationError(
                f"the circuit was found under {circuit.ablation} ablation and the intervention is for {self.ablation} "
                f"ablation: a cut edge carries one or the other. Make the intervention with "
                f"ablation={circuit.ablation!r}, or run it on the whole model"
            )
        return np.where(circuit.mask, self.gates(strength), 0.0)

    # ---------------------------------------------------------------- what it is

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it came from, a fresh copy."""
        return json.loads(self.provenance_json)

    @property
    def edge_ids(self) -> np.ndarray:
        """Flat indices of the changed edges."""
        return np.flatnonzero(self.changes)

    @property
    def writers(self) -> dict[str, float | None]:
        """Writers of changed edges, with the change that all their edges share; None where they do not."""
        ends = self.universe.writer_of_edge
        found: dict[str, float | None] = {}
        for writer in np.unique(ends[self.edge_ids]).tolist():
            changes = np.unique(self.changes[ends == writer])
            found[self.universe.writers[writer]] = float(changes[0]) if len(changes) == 1 else None
        return found

    def __len__(self) -> int:
        return len(self.edge_ids)

    def __iter__(self) -> Iterator[str]:
        return (self.universe.edge_name(int(edge)) for edge in self.edge_ids)

    def keys(self) -> list[str]:
        """Names of changed edges."""
        return list(self)

    def __getitem__(self, edge: str) -> float:
        ids, _ = read_edges(self.universe, [edge], None)
        return float(self.changes[ids[0]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervention):
            return NotImplemented
        same = self.universe == other.universe and self.ablation == other.ablation
        return same and self.at_positions == other.at_positions and bool((self.changes == other.changes).all())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        edges = f"{len(self):,} of {self.universe.n_edges:,} edges, of {_writers(len(self.writers))}"
        n_there = len({one.writer for one in self.at_positions})
        there = f", and on {_writers(n_there)} at some positions" if n_there else ""
        return f"Intervention on {edges}{there} ({self.ablation} ablation)"

    def without_small(self, below: float) -> Intervention:
        """The same without changes that are no larger than a threshold.

        Args:
            below: Changes of at most this size become 0.

        Raises:
            ConfigurationError: It is no number from 0.
        """
        if not 0 <= below < float("inf"):
            raise ConfigurationError(f"changes are small below a number from 0 on; got {below}")
        changes = np.where(np.abs(self.changes) > below, self.changes, 0.0)
        return replace(self, changes=changes)

    def require_universe(self, universe: Universe, what: str = "the model") -> None:
        """Refuse another universe.

        Args:
            universe: That of what it is to be used on.
            what: What that is, for the message.

        Raises:
            GraphMismatchError: They differ; the message says in what.
        """
        if universe != self.universe:
            raise GraphMismatchError(
                f"the intervention is of another universe than {what}: {self.universe.first_difference(universe)}. "
                "Compile the model with the intervention's choices"
            )

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all.

        Args:
            path: The file; an existing one is replaced.

        Raises:
            OutputError: The file cannot be written.
        """
        edges = {name: float(self.changes[edge]) for name, edge in zip(self, self.edge_ids, strict=True)}
        whole = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "universe": self.universe.to_dict(),
            "ablation": self.ablation, "edges": edges, "provenance": self.provenance,
        }  # fmt: skip
        if self.at_positions:
            whole["at_positions"] = [one.to_dict() for one in self.at_positions]
        return write_atomically(Path(path), json.dumps(whole, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Intervention:
        """Read what `save` wrote.

        Args:
            path: The file.

        Raises:
            CircuitFormatError: No such file, or it is no intervention, of a newer version, or damaged; the message
                says where.
        """
        path = Path(path)
        values = read_document(
            path, format=FORMAT, version=FORMAT_VERSION, fields=_FIELDS, optional=_OPTIONAL, hint=_HINT
        )
        try:
            for name in ("universe", "provenance"):
                if not isinstance(values[name], dict):
                    raise ConfigurationError(f"{name!r} has to be an object; got {type(values[name]).__name__}")
            universe, edges = Universe.from_dict(values["universe"]), values["edges"]
            if not isinstance(edges, dict) or not all(type(value) in (int, float) for value in edges.values()):
                raise ConfigurationError("'edges' has to be an object of edge names and numbers")
            found = cls.from_edges(universe, edges, ablation=values["ablation"], provenance=values["provenance"])
            at_positions = values.get("at_positions", [])
            if not isinstance(at_positions, list):
                raise ConfigurationError("'at_positions' has to be a list of changes at positions")
            return replace(found, at_positions=tuple(map(PositionChange.from_dict, at_positions)))
        except (CircuitGraphError, TypeError, OverflowError) as error:
            raise CircuitFormatError(f"{path}: {error}") from None


def _writers(n: int) -> str:
    return f"{n:,} writer{'' if n == 1 else 's'}"
