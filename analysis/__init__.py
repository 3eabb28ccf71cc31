"""Reading circuits: drawings, reports, curves and comparisons, as plain functions on saved circuits.

Works on `circuitgraph.Circuit` alone and never loads torch, so that a circuit, ours or another tool's, can
be studied on a laptop. Names load their module when used.
"""

from __future__ import annotations

__all__: list[str] = []
