"""Greedy nodes: heads and MLPs tried one by one, from the last layer on, gone for good where it hardly matters.

    for each layer, from the last to the first:
        for each of its heads, then its MLP: cut all edges out of it
            if new − current < threshold: current = new, else put them back

`current` is the objective of the model as it is, all that went before it gone, so the threshold bounds each single
step, not the distance from the full model. The circuit has all edges between the writers that are left; embeddings are
never tried. A score is the *rise* `new − current` that was measured when the edge's writer was tried, so that
`score >= threshold` is the circuit; writers that were not tried get the largest rise.

Each trial runs the model from the tried layer on, all prompts at once (`circuitgraph.forward.without_writers`).

Where this differs from the published code (jgcarrasco/circuit-extraction): there the KL is taken at the last position;
here at all asked ones, which is the same where prompts have answers of one token. What leaves the model afterwards is
for `circuitgraph.extract` to say, which folds edges as well as nodes.

References:
    García-Carrasco, Maté, Trujillo 2024, "Extracting Interpretable Task-Specific Circuits from Large Language Models
    for Faster Inference" (arXiv 2412.15750).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from circuitgraph.circuits.strength import RISE_WHEN_TRIED
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.without_writers import WithoutWriters
from circuitgraph.graph.universe import Universe
from pruning.execution.finite import require_numbers
from pruning.execution.probe import Probe
from pruning.frozen.batch import FrozenBatch
from pruning.methods.answers import ComparesWithModel
from pruning.methods.method import RANKING_ABLATIONS, Search

_CELLS_AT_ONCE = {"cpu": 2048, "cuda": 65536}
"""How many tokens run at once, at least one prompt."""


@dataclass(frozen=True, kw_only=True)
class GreedyNodes(ComparesWithModel):
    """The greedy rule for nodes (García-Carrasco et al. 2024).

    Attributes:
        threshold: A head or MLP stays if the objective rises by this much or more without it.
        mlps: Whether MLPs are tried, too.

    Raises:
        ConfigurationError: A threshold that is not above 0.

    Examples:
        >>> GreedyNodes(threshold=0.1).name
        'greedy-nodes'
    """

    name: ClassVar[str] = "greedy-nodes"
    summary: ClassVar[str] = "heads and MLPs tried one by one from the last layer on, gone where it hardly matters"
    source: ClassVar[str] = "García-Carrasco et al. 2024, Extracting Interpretable Task-Specific Circuits from LLMs"
    direction = "noising"
    cost: ClassVar[str] = "a forward from the tried layer on for each head and MLP"
    estimates = RISE_WHEN_TRIED
    ablations = RANKING_ABLATIONS

    threshold: float = 0.02
    mlps: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ConfigurationError(f"method 'greedy-nodes': threshold must be a number above 0; got {self.threshold}")

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not looked at: nothing is drawn.

        Returns:
            The rise of the objective when the edge's writer was tried.
        """
        return self.search(probe, seed=seed).scores

    def search(self, probe: Probe, *, seed: int = 0) -> Search:
        """Search for the circuit.

        Args:
            probe: The model and the prompts.
            seed: Not looked at: nothing is drawn.
        """
        del seed
        universe, found = probe.compiled.universe, greedy_nodes(probe, self)
        n_kept, n_tried = int((found.rises >= self.threshold).sum()), int(np.isfinite(found.rises).sum())
        probe.say(f"greedy nodes kept {n_kept:,} of {n_tried:,} heads and MLPs at threshold {self.threshold:.4g}")
        rises = found.rises[universe.writer_of_edge]
        most = max(self.threshold, float(np.nanmax(found.rises, initial=-np.inf)))
        scores = np.nan_to_num(rises, nan=most)
        about = {"threshold": self.threshold, "mlps": self.mlps, "n_tried": n_tried, "n_kept": n_kept}
        return Search(scores=scores, kept=scores >= self.threshold, about={**about, "objective": found.value})

    def for_edges(self, n: int) -> GreedyNodes:
        """No such search: how many edges are left is not known before.

        Args:
            n: How many.

        Raises:
            ConfigurationError: Always; the message says what to do.
        """
        raise ConfigurationError(
            f"method 'greedy-nodes' goes by its threshold ({self.threshold:g}), and cannot be asked for {n:,} edges; "
            "leave out the target sparsity and set the threshold, or take the rule top, which cuts its scores at a size"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundNodes:
    """What a search found.

    Attributes:
        rises: By writer, the rise of the objective when it was tried; NaN where it was not `[writer]`.
        value: The objective of the circuit.
    """

    rises: Float[np.ndarray, " writer"]
    value: float


def greedy_nodes(probe: Probe, settings: GreedyNodes | None = None) -> FoundNodes:
    """Try all heads and MLPs.

    Args:
        probe: The model and the prompts.
        settings: The threshold, and whether MLPs are tried.

    Raises:
        NotFiniteError: The objective is NaN or infinite; the message names the prompts.
    """
    settings = settings or GreedyNodes()
    universe = probe.compiled.universe
    parts = [_Part.of(probe, prompts) for prompts in _groups(probe)]
    gone = np.zeros((universe.n_layers, universe.n_heads + 1), dtype=bool)
    writers, rises = _writers(universe), np.full(universe.n_writers, np.nan)
    current = _objective(probe, parts, gone, universe.n_layers - 1)
    for layer in range(universe.n_layers)[::-1]:
        for place in range(universe.n_heads + settings.mlps):
            gone[layer, place] = True
            value = _objective(probe, parts, gone, layer)
            rise = rises[writers[layer, place]] = value - current
            if rise < settings.threshold:
                current = value
            else:
                gone[layer, place] = False
    return FoundNodes(rises=rises, value=current)


def _writers(universe: Universe) -> np.ndarray:
    """The writer that each head is, and, in the last column, each MLP `[layer part]`."""
    found = np.zeros((universe.n_layers, universe.n_heads + 1), dtype=np.int64)
    for block in universe.blocks:
        if block.kind == "attention":
            found[block.layer, :-1] = block.first_written + np.arange(universe.n_heads)
        elif block.kind == "mlp":
            found[block.layer, -1] = block.first_written
    return found


def _groups(probe: Probe) -> Iterator[np.ndarray]:
    """All prompts, each once, of one length each."""
    cells = _CELLS_AT_ONCE.get(probe.compiled.device.type, _CELLS_AT_ONCE["cpu"])
    for length, members in probe.frozen.by_length.items():
        most = max(1, cells // length)
        yield from (members[start : start + most] for start in range(0, len(members), most))


def _objective(probe: Probe, parts: list[_Part], gone: np.ndarray, layer: int) -> float:
    """The objective's mean over all prompts, with writers of a layer and of later ones gone."""
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        logits = part.runs.logits(gone, first=layer)
        loss = probe.compare(logits, part.runs.full, part.frozen.pairs).double().cpu()
        total += loss * (len(part.prompts) / len(probe.pairs))
    require_numbers(total, probe.frozen, "objectives of candidates")
    return float(total)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Prompts of one length."""

    runs: WithoutWriters
    frozen: FrozenBatch
    prompts: np.ndarray

    @classmethod
    def of(cls, probe: Probe, prompts: np.ndarray) -> _Part:
        """Run the full model on prompts."""
        compiled, frozen = probe.compiled, probe.frozen.batch(prompts)
        runs = WithoutWriters(compiled.bound, compiled.shape, frozen.pairs.clean, frozen.values)
        return cls(runs=runs, frozen=frozen, prompts=prompts)
