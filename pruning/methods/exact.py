"""Exact edge patching: each edge cut in a run of its own, and the objective compared. What attribution estimates.

    noising:    score(e) = L(everything but e) − L(full model)
    denoising:  score(e) = L(corrupted run) − L(corrupted run with e restored)

Means over prompts; positive where the edge is needed. A cut edge carries what its writer says in the ablated run, a
restored one what it says in the clean run; everything after it is computed anew. An edge costs a forward pass from its
reader on, so all edges of GPT-2 small cost some 16,000 passes over the prompts. Many edges run in one batch, see
`circuitgraph.forward.cuts`; how long it will take is said before it begins.

Where this differs from the published code (hannamw/EAP-IG, `exact`): that runs all edges from the start, one at a time;
a grouped key or value head has one reader here, and cutting an edge into it changes all query heads that it serves.

References:
    Wang et al. 2023, Interpretability in the Wild (arXiv 2211.00593): path patching.
    Hanna, Pezzelle, Belinkov 2024, Have Faith in Faithfulness (arXiv 2403.17806), and its code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.errors import UnknownNameError
from circuitgraph.forward.cuts import Cut, run_cuts
from circuitgraph.forward.uncut import UncutRun
from circuitgraph.graph.universe import Universe
from pruning.execution.probe import Probe
from pruning.methods.answers import path_objective
from pruning.methods.eap import SIDES
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.encoding import EncodedPairs

CELLS_AT_ONCE = {"cpu": 512, "cuda": 8192}
"""Tokens, over all edges and prompts of a batch, by device; as of `pruning.evaluation.effects`."""
_ANY_DEVICE = 512


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Exact edge patching.

    Attributes:
        direction: `noising`: each edge ablated in the full model; `denoising`: each restored where all are ablated.

    Raises:
        UnknownNameError: No such direction.

    Examples:
        >>> Exact(direction="denoising").ablations
        ('counterfactual',)
    """

    name: ClassVar[str] = "exact"
    summary: ClassVar[str] = "change of the objective when the edge alone is cut, or restored, each in a run of its own"
    source: ClassVar[str] = "path patching (Wang et al. 2023); Hanna, Pezzelle, Belinkov 2024, code of EAP-IG"
    cost: ClassVar[str] = "about half a forward for each edge"

    direction: str = field(default="noising", metadata={"names": SIDES})

    def __post_init__(self) -> None:
        if self.direction not in SIDES:
            raise UnknownNameError.of("direction", self.direction, SIDES)

    @property
    def estimates(self) -> str:
        """What a score says."""
        if self.direction == "denoising":
            return "fall of the objective when the edge is restored in the corrupted run, exactly"
        return "rise of the objective when the edge is ablated, exactly"

    @property
    def ablations(self) -> tuple[str, ...]:
        """Restoring needs a run to restore in."""
        return RANKING_ABLATIONS if self.direction == "noising" else ("counterfactual",)

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """As of EAP, or the squared error where answers are numbers.

        Args:
            pairs: The prompts.
            of_task: Not looked at.
        """
        return path_objective(pairs)

    def require(self, objective: str) -> None:
        """Take any objective: no gradient is taken.

        Args:
            objective: Its name.
        """

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not used: nothing is random.

        Returns:
            One number per edge.
        """
        forecast = Forecast(probe.compiled.universe, len(probe.pairs), probe.say)
        return probe.mean(lambda batch: self._of(probe, batch, forecast))

    @torch.no_grad()
    def _of(self, probe: Probe, batch: PairBatch, forecast: Forecast) -> Tensor:
        """The scores' sum over the prompts of one batch."""
        compiled, n_prompts = probe.compiled, len(batch.clean.input_ids)
        began = time.perf_counter()
        if self.direction == "noising":
            tokens, values, teacher = batch.clean, compiled.whole_values(probe.ablated(batch)), None
        else:
            compiled.require_no_vectors()  # the live run is that of the counterfactuals, which have none
            tokens = batch.corrupted
            teacher, values = compiled.run_with_values(batch.clean)
        bound, vectors = compiled.runnable_with_vectors.bound, compiled.vectors
        run = UncutRun(bound, compiled.shape, compiled.universe, tokens, values, kept=None, vectors=vectors)
        forecast.tell(time.perf_counter() - began, n_prompts)
        teacher = run.logits if teacher is None else teacher
        uncut = float(probe.compare(run.logits, teacher, batch))
        found = torch.zeros(compiled.universe.n_edges, dtype=torch.float64)
        most = max(1, CELLS_AT_ONCE.get(compiled.device.type, _ANY_DEVICE) // batch.clean.input_ids.numel())
        for edges, cuts in _cuts(compiled.universe, most):
            losses = [float(probe.compare(logits, teacher, batch)) for logits in run_cuts(run, cuts)]
            found[edges] = torch.tensor(losses, dtype=torch.float64) - uncut
        return (found if self.direction == "noising" else -found) * n_prompts


def _cuts(universe: Universe, most: int) -> Iterator[tuple[slice, list[Cut]]]:
    """All edges, those into one block together, so many at a time; with where they stand in the flat gate vector."""
    for block in universe.blocks:
        for first in range(block.edges.start, block.edges.stop, most):
            edges = slice(first, min(first + most, block.edges.stop))
            writers, readers = universe.endpoints(np.arange(edges.start, edges.stop))
            pairs = zip(writers.tolist(), readers.tolist(), strict=True)
            yield edges, [Cut(writer=writer, reader=reader) for writer, reader in pairs]


class Forecast:
    """Says once how long all edges will take, from one run of the whole model.

    Args:
        universe: Which edges there are.
        n_prompts: Prompts in all.
        say: Called with a line.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> Forecast(universe, 8, print).tell(2.0, 4)
        exact edge patching: 8 edges on 8 prompts, about 21 s
    """

    def __init__(self, universe: Universe, n_prompts: int, say: Callable[[str], None]) -> None:
        self.universe, self.n_prompts, self.say = universe, n_prompts, say
        self.told = False

    def tell(self, seconds: float, n_prompts: int) -> None:
        """Say it, unless it was said.

        Args:
            seconds: What a run of the whole model took.
            n_prompts: On how many prompts.
        """
        if self.told:
            return
        self.told = True
        blocks = self.universe.blocks
        runs = sum(block.n_readers * block.n_writers * (1 - i / len(blocks)) for i, block in enumerate(blocks))
        whole = seconds * runs * self.n_prompts / n_prompts
        length = (
            f"{whole:.0f} s" if whole < 120 else f"{whole / 60:.0f} min" if whole < 7200 else f"{whole / 3600:.1f} h"
        )
        self.say(f"exact edge patching: {self.universe.n_edges:,} edges on {self.n_prompts:,} prompts, about {length}")
