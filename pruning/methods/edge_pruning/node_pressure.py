"""Pressure on nodes: of two circuits with as many edges, the one with fewer heads and MLPs is easier to read.

A budget counts edges, and spreads them: a head that one edge leaves costs as much as an edge more out of a head that
is there anyway. Here a head or MLP w costs, beside its edges, how likely it is to be there at all,

    n_w = 1 − exp(−Σ_e z_e),    e over the edges out of w,

which is 0 where all its gates z are 0, 0.63 with one edge, and 1 with many. It is concave: where one edge more is
added costs less the more edges a node has, so edges gather in fewer nodes. The number of nodes `Σ n_w`, times a price
in units of the objective per node (recipe `node_price`), is added to the objective. It is a smooth stand-in for the
number of nodes with an edge, as the group lasso (Yuan and Lin 2006) is for the number of groups.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.graph.universe import Universe


class NodePressure:
    """The smooth number of heads and MLPs that write into kept edges.

    Args:
        universe: Whose edges the gates are of.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> gates = torch.zeros(universe.n_edges)
        >>> gates[universe.edge_index("a0.h0", "logits")] = 1
        >>> round(float(NodePressure(universe).nodes(gates)), 3)
        0.632
    """

    def __init__(self, universe: Universe) -> None:
        self._writers = torch.from_numpy(universe.writer_of_edge)
        self._n_writers = universe.n_writers
        self._counted = torch.from_numpy(~universe.reads_nothing)

    def nodes(self, gates: Float[Tensor, " edge"]) -> Float[Tensor, ""]:
        """The smooth number of nodes.

        Args:
            gates: In [0, 1].
        """
        leaving = gates.new_zeros(self._n_writers).index_add(0, self._writers, gates)
        return (1 - torch.exp(-leaving[self._counted])).sum()
