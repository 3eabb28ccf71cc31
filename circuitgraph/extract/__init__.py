"""A circuit as a small model of its own: constants for what it cuts, copies of the weights that it keeps.

    Circuit + CompiledModel + ablation values ──folding──▶ layout and constants ──▶ ExtractedCircuit ──▶ folder

Start at `extract_circuit`. Importing this package loads no torch; names load their module when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from circuitgraph.extract.extraction import extract_circuit
    from circuitgraph.extract.module import ExtractedCircuit
    from circuitgraph.extract.saving import load_extracted, save_extracted
    from circuitgraph.extract.size import parameters_without_embeddings
    from circuitgraph.extract.speed import SpeedUp, measure_speed_up

__all__ = [
    "ExtractedCircuit",
    "SpeedUp",
    "extract_circuit",
    "load_extracted",
    "measure_speed_up",
    "parameters_without_embeddings",
    "save_extracted",
]

_HOME = {
    "ExtractedCircuit": ".module",
    "SpeedUp": ".speed",
    "extract_circuit": ".extraction",
    "load_extracted": ".saving",
    "measure_speed_up": ".speed",
    "parameters_without_embeddings": ".size",
    "save_extracted": ".saving",
}

__getattr__ = load_on_use(__name__, _HOME)
