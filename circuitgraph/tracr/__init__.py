"""RASP programs compiled by Tracr into small transformers whose circuits are known exactly.

Two programs are shipped with their weights: `reverse` and `xproportion`. `load_tracr("tracr:reverse")`
gives a model and a tokenizer; `ground_truth_edges("reverse")` gives the edges that its circuit must have.
Nothing here needs Tracr or JAX, except `compile_program`, which made the weights.

References:
    Lindner et al., "Tracr: Compiled Transformers as a Laboratory for Interpretability", NeurIPS 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from circuitgraph.tracr.ground_truth import ground_truth_edges
    from circuitgraph.tracr.loading import LoadedTracr, load_tracr
    from circuitgraph.tracr.model import TracrConfig, TracrModel
    from circuitgraph.tracr.programs import TracrProgram, get_program, program_names
    from circuitgraph.tracr.tokenizer import TracrTokenizer

__all__ = [
    "LoadedTracr",
    "TracrConfig",
    "TracrModel",
    "TracrProgram",
    "TracrTokenizer",
    "get_program",
    "ground_truth_edges",
    "load_tracr",
    "program_names",
]

_HOME = {
    "LoadedTracr": ".loading",
    "TracrConfig": ".model",
    "TracrModel": ".model",
    "TracrProgram": ".programs",
    "TracrTokenizer": ".tokenizer",
    "get_program": ".programs",
    "ground_truth_edges": ".ground_truth",
    "load_tracr": ".loading",
    "program_names": ".programs",
}

__getattr__ = load_on_use(__name__, _HOME)
