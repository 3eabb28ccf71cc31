"""Reading circuits: drawings, reports, curves and comparisons, as plain functions on saved circuits.

Works on `circuitgraph.Circuit` alone and never loads torch, so that a circuit, ours or another tool's, can
be studied on a laptop. Names load their module when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.curves import plot_curve
    from analysis.drawing import circuit_to_dot, draw
    from analysis.report import write_report

__all__ = [
    "circuit_to_dot",
    "draw",
    "plot_curve",
    "write_report",
]

_HOME = {
    "circuit_to_dot": "analysis.drawing",
    "draw": "analysis.drawing",
    "plot_curve": "analysis.curves",
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
