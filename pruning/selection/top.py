"""From edge scores to a circuit: the edges with the largest scores, with the other rules in `circuits.selection`."""

from __future__ import annotations

from circuitgraph.circuits.selection.top import top_edges

__all__ = ["top_edges"]
