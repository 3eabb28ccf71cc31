"""Gates trained in both directions: two trainings of one recipe and seed, and the mean of their masks.

Training one set of gates on both at once lets the two gradients fight, so the paper trains twice and averages. The
circuit has the edges with the largest mean, as many as the target sparsity asks: as many as either training alone would
keep. What is measured is measured by noising, as any other circuit.

References:
    arXiv 2505.10039, on Edge Pruning by noising and denoising.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.combined_scores import both_directions
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.sizes import edges_left
from circuitgraph.errors import TrainingError
from circuitgraph.stopping import Stop, Stopped
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.swapped import BOTH, DENOISING, NOISING
from pruning.runs.diagnose import diagnose_selected
from pruning.runs.left_scores import LeftScores
from pruning.runs.progress import Progress
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.runs.stages import Kept
from pruning.runs.trained_run import Trained, train_gates
from pruning.selection.best import best_edges

RULE = "mean mask"


@dataclass(frozen=True, kw_only=True)
class TrainedTwice(LeftScores):
    """What two trainings leave.

    Attributes:
        noising: The training on the pairs.
        denoising: The training on the swapped pairs.
        scores: The mean of the two masks, for every edge.
    """

    noising: Trained
    denoising: Trained
    scores: EdgeScores

    @property
    def constants(self) -> None:
        """None: cut edges carry the other prompt."""

    def curve(self) -> pd.DataFrame:
        """A row a training step, with its direction."""
        named = ((NOISING, self.noising), (DENOISING, self.denoising))
        return pd.concat([trained.curve().assign(direction=name) for name, trained in named], ignore_index=True)

    def edge_scores(self, run: Run) -> EdgeScores:
        """The mean of the masks."""
        del run
        return self.scores

    def keep(self, folder: ResultFolder) -> None:
        """Write the scores."""
        self.keep_scores(folder, self.scores)

    def kept(self, run: Run, progress: Progress, stop: Stop) -> Kept:
        """The edges with the largest mean, at the target sparsity and at those of further circuits."""
        del progress, stop
        target = run.recipe.target_sparsity
        circuit, edges = self._at(run, target)
        front = {sparsity: self._at(run, sparsity)[0] for sparsity in run.request.sparsities}
        return Kept(circuit=circuit, raw_edges=edges, trouble="", front=front)

    def _at(self, run: Run, sparsity: float) -> tuple[Circuit, Any]:
        keep = edges_left(run.compiled.universe, sparsity)
        edges, scores = best_edges(self.scores.values, run.compiled.gate_map, keep=keep)
        about = {"selection": {"rule": RULE, "sparsity": sparsity}}
        made = Circuit.from_edges(
            run.compiled.universe, edges, scores=scores, ablation=run.request.ablation, provenance=about
        )
        return made, edges

    def provenance(self, run: Run, kept: Kept) -> dict[str, Any]:
        """Where the circuit came from: what a training says, and that there were two."""
        first = self.noising.provenance(run, kept)
        return {**first, **self.scores.about, "selection": kept.circuit.provenance["selection"]}

    def metrics(self) -> dict[str, Any]:
        """What the two trainings took."""
        seconds = self.noising.seconds + self.denoising.seconds
        return {"seconds": seconds, "training_seconds": seconds, "frozen_runs": self.noising.frozen_runs}

    def diagnoses(
        self, run: Run, kept: Kept, measures: Mapping[str, Mapping[str, Any]] | None, verdicts: Collection[str]
    ) -> list[str]:
        """What may be wrong with the circuit."""
        del run, measures
        return diagnose_selected(kept.circuit, verdicts=verdicts)


def train_both(run: Run, progress: Progress, stop: Stop, frozen: FrozenRuns | None = None) -> TrainedTwice:
    """Train gates on the pairs, then anew on the swapped pairs, by the same recipe and seed.

    Args:
        run: The run, its prompts not swapped.
        progress: Told what begins, and of every step.
        stop: Who asked the run to stop: nothing is given back then.
        frozen: As of `train_gates`, for the pairs.

    Raises:
        KeyboardInterrupt: The run was asked to stop.
        TrainingError: One of the trainings ended early.
    """
    trained, scores = [], []
    for direction in (NOISING, DENOISING):
        progress.say(f"training by {direction}")
        asked = replace(run.request, direction=direction)
        one = replace(run, task=run.task.towards(direction), request=asked)
        found = train_gates(one, progress, stop, None, frozen if direction == NOISING else None)
        if found.run.interrupted:
            raise Stopped(stop.name or "SIGINT")
        if found.run.stopped_by:
            raise TrainingError(found.run.stopped_by)
        trained.append(found)
        scores.append(found.edge_scores(one))
    assert run.request.direction == BOTH
    return TrainedTwice(noising=trained[0], denoising=trained[1], scores=both_directions(*scores))
