"""From a Hugging Face transformer to a graph of its computation, and circuits in it.

`load_model` → `compile_model` → a graph whose edges carry gates → a masked forward pass → `Circuit`.
Importing this package imports neither torch nor transformers; a name's module is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph._version import __version__
from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from circuitgraph.batch import TokenBatch
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.combined_scores import combine_scores
    from circuitgraph.circuits.conversion import Conversion, convert_file, save_as
    from circuitgraph.circuits.edge_scores import EdgeScores
    from circuitgraph.circuits.formats.content import MergeRules
    from circuitgraph.circuits.formats.file_format import FileChoices
    from circuitgraph.circuits.selection.stable import stable_edges
    from circuitgraph.compiled.compile import compile_model
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.compiled.vector_files import load_vectors, save_vectors
    from circuitgraph.errors import CircuitGraphError
    from circuitgraph.extract.extraction import extract_circuit
    from circuitgraph.forward.vectors import Vector
    from circuitgraph.graph.build import build_graph
    from circuitgraph.graph.universe import Universe
    from circuitgraph.interventions.applied import intervene
    from circuitgraph.interventions.intervention import Intervention
    from circuitgraph.interventions.positions import PositionChange
    from circuitgraph.memory.estimate import MemoryEstimate
    from circuitgraph.memory.plan import MemoryPlan
    from circuitgraph.memory.sizes import ModelSizes, model_sizes
    from circuitgraph.models import LoadedModel, load_model

__all__ = [
    "Circuit",
    "CircuitGraphError",
    "CompiledModel",
    "Conversion",
    "EdgeScores",
    "FileChoices",
    "Intervention",
    "LoadedModel",
    "MemoryEstimate",
    "MemoryPlan",
    "MergeRules",
    "ModelSizes",
    "PositionChange",
    "TokenBatch",
    "Universe",
    "Vector",
    "__version__",
    "build_graph",
    "combine_scores",
    "compile_model",
    "convert_file",
    "extract_circuit",
    "intervene",
    "load_model",
    "load_vectors",
    "model_sizes",
    "save_as",
    "save_vectors",
    "stable_edges",
]

_HOME = {
    "Circuit": "circuitgraph.circuits.circuit",
    "CircuitGraphError": "circuitgraph.errors",
    "CompiledModel": "circuitgraph.compiled.model",
    "Conversion": "circuitgraph.circuits.conversion",
    "EdgeScores": "circuitgraph.circuits.edge_scores",
    "FileChoices": "circuitgraph.circuits.formats.file_format",
    "Intervention": "circuitgraph.interventions.intervention",
    "LoadedModel": "circuitgraph.models",
    "MemoryEstimate": "circuitgraph.memory.estimate",
    "MemoryPlan": "circuitgraph.memory.plan",
    "MergeRules": "circuitgraph.circuits.formats.content",
    "ModelSizes": "circuitgraph.memory.sizes",
    "PositionChange": "circuitgraph.interventions.positions",
    "TokenBatch": "circuitgraph.batch",
    "Universe": "circuitgraph.graph.universe",
    "Vector": "circuitgraph.forward.vectors",
    "build_graph": "circuitgraph.graph.build",
    "combine_scores": "circuitgraph.circuits.combined_scores",
    "compile_model": "circuitgraph.compiled.compile",
    "convert_file": "circuitgraph.circuits.conversion",
    "extract_circuit": "circuitgraph.extract.extraction",
    "intervene": "circuitgraph.interventions.applied",
    "load_model": "circuitgraph.models",
    "load_vectors": "circuitgraph.compiled.vector_files",
    "model_sizes": "circuitgraph.memory.sizes",
    "save_as": "circuitgraph.circuits.conversion",
    "save_vectors": "circuitgraph.compiled.vector_files",
    "stable_edges": "circuitgraph.circuits.selection.stable",
}

__getattr__ = load_on_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
