"""A circuit as a small model of its own: constants for what it cuts, copies of the weights that it keeps.

    Circuit + CompiledModel + ablation values ──folding──▶ layout and constants ──▶ ExtractedCircuit ──▶ folder

Start at `Circuit.extract`. Importing this package loads no torch; names load their module when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitgraph.extract.extraction import extract_circuit
    from circuitgraph.extract.module import ExtractedCircuit
    from circuitgraph.extract.saving import load_extracted, save_extracted
    from circuitgraph.extract.speed import SpeedUp, measure_speed_up

__all__ = [
    "ExtractedCircuit",
    "SpeedUp",
    "extract_circuit",
    "load_extracted",
    "measure_speed_up",
    "save_extracted",
]

_HOME = {
    "ExtractedCircuit": "module",
    "SpeedUp": "speed",
    "extract_circuit": "extraction",
    "load_extracted": "saving",
    "measure_speed_up": "speed",
    "save_extracted": "saving",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines a public name, the first time it is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
