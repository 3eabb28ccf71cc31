"""Reading circuits: drawings, reports, curves and comparisons, as plain functions on saved circuits.

Works on `circuitgraph.Circuit` alone and never loads torch, so that a circuit, ours or another tool's, can
be studied on a laptop. Names load their module when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.algebra import complement, difference, intersection, symmetric_difference, union
    from analysis.curves import plot_curve
    from analysis.drawing import circuit_to_dot, draw
    from analysis.faithfulness import area_under_curves, pareto_front
    from analysis.overlap.families import adjust_p_values
    from analysis.overlap.matrices import overlap_matrix
    from analysis.overlap.tables import overlap_table, overlap_tests
    from analysis.report import write_report
    from analysis.seeds import consensus, inclusion_frequency, seed_intervals, stability_table
    from analysis.sparsity import block_density, score_concentration, sparsity_table

__all__ = [
    "adjust_p_values",
    "area_under_curves",
    "block_density",
    "circuit_to_dot",
    "complement",
    "consensus",
    "difference",
    "draw",
    "inclusion_frequency",
    "intersection",
    "overlap_matrix",
    "overlap_table",
    "overlap_tests",
    "pareto_front",
    "plot_curve",
    "score_concentration",
    "seed_intervals",
    "sparsity_table",
    "stability_table",
    "symmetric_difference",
    "union",
    "write_report",
]

_HOME = {
    "adjust_p_values": "analysis.overlap.families",
    "area_under_curves": "analysis.faithfulness",
    "block_density": "analysis.sparsity",
    "circuit_to_dot": "analysis.drawing",
    "complement": "analysis.algebra",
    "consensus": "analysis.seeds",
    "difference": "analysis.algebra",
    "draw": "analysis.drawing",
    "inclusion_frequency": "analysis.seeds",
    "intersection": "analysis.algebra",
    "overlap_matrix": "analysis.overlap.matrices",
    "overlap_table": "analysis.overlap.tables",
    "overlap_tests": "analysis.overlap.tables",
    "pareto_front": "analysis.faithfulness",
    "plot_curve": "analysis.curves",
    "score_concentration": "analysis.sparsity",
    "seed_intervals": "analysis.seeds",
    "sparsity_table": "analysis.sparsity",
    "stability_table": "analysis.seeds",
    "symmetric_difference": "analysis.algebra",
    "union": "analysis.algebra",
    "write_report": "analysis.report",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines a public name, the first time it is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
