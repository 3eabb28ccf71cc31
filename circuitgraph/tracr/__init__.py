"""RASP programs compiled by Tracr into small transformers whose circuits are known exactly.

Nineteen programs are shipped with their weights. `load_tracr("tracr:reverse")` gives a model and a tokenizer;
`ground_truth_edges("reverse")` the edges that its circuit must have, `load_ground_truth` also how they were found.
Nothing here needs Tracr or JAX, except `compile_program`, which made the weights.

References:
    Lindner et al., "Tracr: Compiled Transformers as a Laboratory for Interpretability", NeurIPS 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from circuitgraph.tracr.cutting import establish_ground_truth
    from circuitgraph.tracr.ground_truth import GroundTruth, ground_truth_edges, load_ground_truth
    from circuitgraph.tracr.loading import LoadedTracr, load_tracr
    from circuitgraph.tracr.model import TracrConfig, TracrModel
    from circuitgraph.tracr.programs import TracrProgram, get_program, program_names
    from circuitgraph.tracr.tokenizer import TracrTokenizer

__all__ = [
    "GroundTruth",
    "LoadedTracr",
    "TracrConfig",
    "TracrModel",
    "TracrProgram",
    "TracrTokenizer",
    "establish_ground_truth",
    "get_program",
    "load_ground_truth",
    "ground_truth_edges",
    "load_tracr",
    "program_names",
]

_HOME = {
    "GroundTruth": ".ground_truth",
    "LoadedTracr": ".loading",
    "TracrConfig": ".model",
    "TracrModel": ".model",
    "TracrProgram": ".programs",
    "TracrTokenizer": ".tokenizer",
    "establish_ground_truth": ".cutting",
    "get_program": ".programs",
    "load_ground_truth": ".ground_truth",
    "ground_truth_edges": ".ground_truth",
    "load_tracr": ".loading",
    "program_names": ".programs",
}

__getattr__ = load_on_use(__name__, _HOME)
