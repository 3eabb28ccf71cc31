"""Whether a circuit can be measured with a model: of its universe, and as its graph was edited."""

from __future__ import annotations

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import GraphMismatchError
from circuitgraph.graph.liveness import effective_edges


def require_universe(compiled: CompiledModel, circuit: Circuit, name: str = "the circuit's universe") -> None:
    """Refuse a circuit of another universe than the model's.

    Args:
        compiled: The model.
        circuit: The circuit.
        name: What the message calls its universe.

    Raises:
        GraphMismatchError: They differ; the message says in what first.
    """
    difference = circuit.universe.first_difference(compiled.universe)
    if difference is not None:
        raise GraphMismatchError(
            f"{name} is not the compiled model's: {difference}; compile the model with the "
            "circuit's choices of embeddings, kv_heads and qkv"
        )


def require_edits(compiled: CompiledModel, circuit: Circuit, name: str = "the circuit") -> None:
    """Refuse a circuit that the model's edited graph cannot be.

    Args:
        compiled: The model.
        circuit: The circuit, of the model's universe.
        name: What the message calls it.

    Raises:
        GraphMismatchError: It keeps edges that were removed from the graph, or cuts frozen ones that would not dangle.
    """
    settled = compiled.gate_map.settled(circuit.mask)
    if settled is circuit.mask or np.array_equal(settled, circuit.mask):
        return
    removed = np.flatnonzero(circuit.mask & ~settled)
    if len(removed):
        raise GraphMismatchError(
            f"{name} keeps {len(removed)} edges that were removed from the model's graph "
            f"({_first_names(circuit, removed)}); measure it with the model that it was found with, or cut them first, "
            "with circuit.without(...)"
        )
    frozen = np.flatnonzero(effective_edges(compiled.universe, settled, circuit.ablation) & ~circuit.mask)
    if len(frozen):
        raise GraphMismatchError(
            f"{name} cuts {len(frozen)} edges that the model's graph keeps frozen ({_first_names(circuit, frozen)}); "
            "measure it with the model that it was found with, or measure its mask, which is run with them"
        )


def _first_names(circuit: Circuit, edges: np.ndarray) -> str:
    names = [circuit.universe.edge_name(int(edge)) for edge in edges[:3]]
    return ", ".join(names) + (" …" if len(edges) > 3 else "")
