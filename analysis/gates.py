"""Edges as alternatives, partners or shares: AND, OR and ADDER gates of a circuit, by effects in both directions.

A reader takes what several writers say. Cut one edge into it where all others are kept (*noising*), or restore one
where all others are cut (*denoising*); each is a first-order effect of that edge alone:

    AND    noising only: without it the reader fails, alone it does nothing; its partners are needed
    OR     denoising only: without it another one stands in, alone it is enough
    ADDER  both: it adds its share, whatever the others do

An edge counts as without effect in one direction where that effect is at most `threshold` of its other one; both are in
the objective's unit. Edges whose larger effect is below `least` of the largest into the same reader are no gate's.

Labels come from single-edge effects (`eap`, `exact`), not from circuits that noising and denoising found: a search
keeps one edge of an OR in noising and one of an AND in denoising, and a difference of sets would call that an ADDER.

References:
    arXiv 2505.10039 (NeurIPS 2025): AND, OR and ADDER gates by noising and denoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.comparable import model_difference
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.parentage import INHERITED
from circuitgraph.circuits.strength import SIGNED
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError

if TYPE_CHECKING:
    import networkx as nx

    from analysis.drawing.diagram import Drawing

AND, OR, ADDER = GATES = ("AND", "OR", "ADDER")
THRESHOLD, LEAST = 0.2, 0.01


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogicGates:
    """A circuit whose edges are labelled.

    Attributes:
        circuit: The edges, with |noising| + |denoising| as scores.
        noising: The effect of cutting each edge alone `[kept]`.
        denoising: The effect of restoring each edge alone `[kept]`.
        labels: `AND`, `OR`, `ADDER` or, where neither effect is large enough, an empty text, by edge.
        threshold: The share of an edge's larger effect up to which the smaller one counts as none.
        least: The share of the largest effect into its reader from which an edge has a label.
    """

    circuit: Circuit
    noising: Float[np.ndarray, " kept"]
    denoising: Float[np.ndarray, " kept"]
    labels: tuple[str, ...]
    threshold: float
    least: float

    def of(self, gate: str) -> tuple[str, ...]:
        """The edges of one kind of gate, by name.

        Args:
            gate: `AND`, `OR` or `ADDER`.

        Raises:
            UnknownNameError: No such gate.
        """
        if gate not in GATES:
            raise UnknownNameError.of("gate", gate, GATES)
        return tuple(name for name, label in zip(self.circuit, self.labels, strict=True) if label == gate)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per edge: `edge`, `writer`, `reader`, `noising`, `denoising`, `gate`; those of a reader together."""
        writers, readers = zip(*self.circuit.edges, strict=True) if len(self.circuit) else ((), ())
        return pd.DataFrame(
            {
                "edge": list(self.circuit), "writer": list(writers), "reader": list(readers),
                "noising": self.noising, "denoising": self.denoising, "gate": list(self.labels),
            }
        )  # fmt: skip

    @cached_property
    def receivers(self) -> pd.DataFrame:
        """A row per reader and kind of gate: `reader`, `gate`, `n` (senders), `senders`, with a space between them."""
        told = self.table[self.table["gate"] != ""]
        found = told.groupby(["reader", "gate"], sort=False)["writer"].agg(["size", " ".join]).reset_index()
        return found.set_axis(["reader", "gate", "n", "senders"], axis=1)

    @property
    def graph(self) -> nx.DiGraph:
        """The circuit as a fresh `nx.DiGraph`; kept edges have `gate`, `noising` and `denoising` as well."""
        graph = self.circuit.graph
        rows = zip(self.circuit.edges, self.labels, self.noising.tolist(), self.denoising.tolist(), strict=True)
        for (writer, reader), label, noising, denoising in rows:
            graph.edges[writer, reader].update(gate=label, noising=noising, denoising=denoising)
        return graph

    @property
    def smallest_faithful(self) -> Circuit:
        """What noising needs: all edges of AND and ADDER, and of each reader's OR the strongest."""
        return self._with_one_of(OR, (AND, ADDER), "smallest faithful")

    @property
    def smallest_complete(self) -> Circuit:
        """What the model cannot do without: all edges of OR and ADDER, and of each reader's AND the strongest."""
        return self._with_one_of(AND, (OR, ADDER), "smallest complete")

    def _with_one_of(self, one_of: str, all_of: Sequence[str], rule: str) -> Circuit:
        table = self.table.assign(score=self.circuit.scores)
        alternatives = table[table["gate"] == one_of]
        strongest = alternatives.loc[alternatives.groupby("reader")["score"].idxmax()]
        kept = pd.concat([table[table["gate"].isin(all_of)], strongest])
        about = {"selection": {"rule": rule, "threshold": self.threshold, "least": self.least}}
        return Circuit.from_edges(
            self.circuit.universe, dict(zip(kept["edge"], kept["score"], strict=True)),
            ablation=self.circuit.ablation, provenance={**self.circuit.provenance, **about},
        )  # fmt: skip

    @overload
    def draw(self, path: None = None, *, max_edges: int | None = None, width: str | float | None = None) -> Drawing: ...
    @overload
    def draw(self, path: str | Path, *, max_edges: int | None = None, width: str | float | None = None) -> Path: ...
    def draw(
        self, path: str | Path | None = None, *, max_edges: int | None = None, width: str | float | None = None
    ) -> Drawing | Path:
        """Draw the circuit with a colour and a line for each kind of gate; see `analysis.drawing.gates`.

        Args:
            path: Where to, or None for a drawing that a notebook shows.
            max_edges: As of `analysis.draw`.
            width: As of `analysis.draw`.
        """
        from analysis.drawing.gates import draw_gates

        return draw_gates(self.circuit, self.labels, path, max_edges=max_edges, width=width)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.labels.count(gate):,} {gate}" for gate in GATES)
        return f"<LogicGates of {len(self.circuit):,} edges: {counts}; threshold {self.threshold:g}>"


def logic_gates(
    noising: EdgeScores,
    denoising: EdgeScores,
    circuit: Circuit | None = None,
    *,
    threshold: float = THRESHOLD,
    least: float = LEAST,
) -> LogicGates:
    """Label edges by their effects in both directions.

    Args:
        noising: Single-edge effects in the full model: `rank_edges(…, "exact")` or `"eap"`.
        denoising: The same with `direction="denoising"`.
        circuit: The edges to label; by default all that get a label, less those that dangle.
        threshold: An edge has no effect in a direction where it is at most this share of its other effect.
        least: Edges whose larger effect is below this share of the largest into their reader get no label.

    Returns:
        The labels, as a table, as attributes of a graph, and as a drawing.

    Raises:
        GraphMismatchError: Scores and circuit are of different universes, or scores of different models or ablations.
        ConfigurationError: Scores that are no effects of single edges in the direction that they are given for, or
            of another method, objective, task or model's weights than the other's; shares that make no sense.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> def effects(direction: str, **values: float) -> EdgeScores:
        ...     found = np.zeros(universe.n_edges)
        ...     for head, value in values.items():
        ...         found[universe.edge_index(f"a0.{head}", "m0")] = value
        ...     return EdgeScores.of(universe, found, method="exact", direction=direction, estimates="a rise")
        >>> circuit = Circuit.from_edges(
        ...     universe, ["input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
        ... )
        >>> gates = logic_gates(effects("noising", h0=0.5), effects("denoising", h0=0.02, h1=0.3), circuit)
        >>> gates.of("AND"), gates.of("OR"), gates.receivers.values.tolist()
        (('a0.h0->m0',), ('a0.h1->m0',), [['m0', 'AND', 1, 'a0.h0'], ['m0', 'OR', 1, 'a0.h1']])
    """
    _check(noising, denoising, circuit)
    for name, share in (("threshold", threshold), ("least", least)):
        if not 0 <= share < 1:
            raise ConfigurationError(f"{name} is a share from 0 up to 1; got {share}")
    labels = _labels(noising, denoising, threshold, least)
    size = np.abs(noising.values) + np.abs(denoising.values)
    chosen = np.flatnonzero(labels != "") if circuit is None else circuit.edge_ids
    labelled = Circuit.from_edges(
        noising.universe, chosen, scores=size[chosen], ablation=noising.ablation,
        provenance=_agreed(noising, denoising) if circuit is None else circuit.provenance,
    )  # fmt: skip
    kept = labelled.edge_ids
    return LogicGates(
        circuit=labelled, noising=noising.values[kept], denoising=denoising.values[kept],
        labels=tuple(str(label) for label in labels[kept]), threshold=threshold, least=least,
    )  # fmt: skip


def _agreed(noising: EdgeScores, denoising: EdgeScores) -> dict[str, Any]:
    """Of which model and prompts both are, as far as they agree."""
    one, other = noising.provenance, denoising.provenance
    return {field: one[field] for field in INHERITED if field in one and one[field] == other.get(field)}


def _check(noising: EdgeScores, denoising: EdgeScores, circuit: Circuit | None) -> None:
    others = {"denoising": denoising.universe, **({} if circuit is None else {"circuit": circuit.universe})}
    for name, universe in others.items():
        difference = noising.universe.first_difference(universe)
        if difference is not None:
            raise GraphMismatchError(f"noising and {name} are of different universes: {difference}")
    difference = model_difference(noising.provenance, denoising.provenance)
    if difference is not None:
        raise GraphMismatchError(f"noising and denoising are of different models: {difference}")
    if noising.ablation != denoising.ablation:
        raise GraphMismatchError(
            f"noising was taken under {noising.ablation} ablation, denoising under {denoising.ablation}"
        )
    for wanted, scores in (("noising", noising), ("denoising", denoising)):
        if scores.direction != wanted or scores.estimates in SIGNED:
            raise ConfigurationError(
                f"gates are told apart by what each edge alone does in the {wanted} direction; the {wanted} scores are "
                f"by {scores.method!r}, direction {scores.direction!r}. Take rank_edges(…, 'eap' or 'exact', "
                f"direction={wanted!r})"
            )
    found = [{"method": one.method, **one.provenance} for one in (noising, denoising)]
    for field in ("method", "objective", "weights", "task"):
        first, second = (one.get(field) for one in found)
        if None not in (first, second) and first != second:
            raise ConfigurationError(
                f"noising and denoising scores have to be sizes of the same thing, and their {field} is {first!r} and "
                f"{second!r}; rank both alike but for the direction"
            )


def _labels(noising: EdgeScores, denoising: EdgeScores, threshold: float, least: float) -> np.ndarray:
    """A label for every edge of the universe `[edge]`."""
    cut, restored = np.abs(noising.values), np.abs(denoising.values)
    larger = np.maximum(cut, restored)
    offsets = noising.universe.reader_offsets
    most = np.repeat(np.maximum.reduceat(larger, offsets[:-1]), np.diff(offsets))
    labels = np.full(len(larger), ADDER, dtype=object)
    labels[restored <= threshold * cut] = AND
    labels[cut <= threshold * restored] = OR
    labels[(larger == 0) | (larger < least * most)] = ""
    return labels
