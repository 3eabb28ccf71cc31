"""Whole heads by their importance, as scores of edges: which heads a small circuit should be made of.

Edges one by one are ranked best by the size of their own gradient (`gate-importance`), but the best edges lie spread
over nearly all heads. Here the gradients of all edges out of a head are added up first, in each batch: what would turn
the whole head up or down. The mean size of that sum, over levels and batches, is the head's importance, and an edge has
that of its less important end, of keys and values that of the most important head which reads them. MLPs, embeddings
and the logits count as more important than any head.

So the n strongest edges are those among the most important heads: `discover --survivors n --survivors-by
head-importance` trains a circuit within them, which has few heads. Ours; the sum is that of node gates (all edges of a
writer tied to one gate), taken along the path of `pruning.methods.gate_gradients`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from circuitgraph.graph.universe import Universe
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner
from pruning.execution.finite import require_numbers
from pruning.execution.probe import Probe
from pruning.methods.gate_gradients import AlongThePath, GatePath, along_path


@with_gradients
def writer_importance(runner: BatchRunner, path: GatePath, *, seed: int = 0) -> Float[np.ndarray, " writer"]:
    """How much each writer matters as a whole.

    Args:
        runner: Takes batches of the training data forward and backward; says what is minimised.
        path: Where gradients are taken.
        seed: Of the order of batches.

    Returns:
        The size of the gradient in all gates of a writer together, averaged over batches, each level counting alike.
    """
    universe = runner.compiled.universe
    writers = torch.from_numpy(universe.writer_of_edge)
    total = torch.zeros(universe.n_writers, dtype=torch.float64)
    for gradients in along_path(runner, path, seed):
        together = torch.zeros(len(gradients), universe.n_writers, dtype=torch.float64)
        size = together.index_add(1, writers, gradients.cpu().double()).abs().mean(0)
        total += size / size.mean().clamp(min=torch.finfo(size.dtype).tiny)
    return (total / len(path.levels)).numpy()


def edges_by_heads(universe: Universe, importance: Float[np.ndarray, " writer"]) -> Float[np.ndarray, " edge"]:
    """A score per edge: the importance of the less important head at its ends.

    Args:
        universe: What fixes the edges.
        importance: Of every writer, finite; only those of heads are looked at.

    Returns:
        Scores; those of edges between no heads are the largest head's.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> scores = edges_by_heads(universe, np.array([9.0, 3.0, 1.0, 9.0]))
        >>> edges = ("a0.h0", "m0"), ("input", "a0.h1<q>"), ("input", "m0")
        >>> [float(scores[universe.edge_index(*edge)]) for edge in edges]
        [3.0, 1.0, 3.0]
    """
    is_head = universe.writer_kinds == "head"
    most = importance[is_head].max()
    of_writer = np.where(is_head, importance, most)
    of_reader = np.full(universe.n_readers, most)
    for block in universe.blocks:
        if block.kind == "attention":
            served = np.full(block.n_readers, -np.inf)
            np.maximum.at(served, block.readers_of, importance[block.written][:, None])
            of_reader[block.readers] = served
    writers, readers = universe.endpoints(np.arange(universe.n_edges))
    return np.minimum(of_writer[writers], of_reader[readers])


@dataclass(frozen=True, kw_only=True)
class HeadImportance(AlongThePath):
    """Whole heads by the size of the gradient in all their gates together; the fields are those of `GatePath`."""

    name: ClassVar[str] = "head-importance"
    summary: ClassVar[str] = "edges by how much the heads at their ends matter as a whole"
    estimates = "size of the objective's gradient in all gates of a head together, of the less important end"

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Of the order of batches.

        Returns:
            The importance of the less important end, per edge.
        """
        importance = writer_importance(probe.runner, self, seed=seed)
        require_numbers(torch.from_numpy(importance), probe.frozen, "head importances")
        return edges_by_heads(probe.compiled.universe, importance)
