"""The stages of a run that are the same for every method: check, and what the others have to leave.

What a method leaves is a `Learnt`: gates that were trained (`pruning.runs.trained_run`), or scores and perhaps a
circuit (`pruning.runs.ranked_run`). `pruning.runs.discover` puts the stages together and keeps what each of them made
before the next begins; what is measured afterwards is in `pruning.runs.measuring`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.stopping import Stop
from pruning.execution.objectives import check_objective, check_top_k
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.prompts.spans import require_same_spans
from pruning.prompts.swapped import BOTH
from pruning.runs.given_scores import check_given_scores
from pruning.runs.progress import Progress
from pruning.runs.rank import SWAPPED, check_ranking
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was kept of the gates or of the scores.

    Attributes:
        circuit: The circuit, without its dangling edges.
        raw_edges: Flat indices of the edges kept, dangling ones included `[n]`.
        trouble: Why the rule that was asked for was not taken, or an empty text.
        front: Further circuits of the same ranking, by the sparsity asked for; `selection` in their provenance says by
            which rule.
    """

    circuit: Circuit
    raw_edges: np.ndarray
    trouble: str
    front: Mapping[float, Circuit] = field(default_factory=dict)


@runtime_checkable
class Learnt(Protocol):
    """What a method leaves of a run, before edges are kept.

    Attributes:
        part: What the part of the result is called that it is: `gates` or `scores`.
        training: The training run with its gates, or None.
        is_worthless: Whether there is nothing in it to be kept, since the run was ended before its first step.
        ended_early: Whether steps are left that a later process can take.
        constants: What cut edges carried under optimal ablation while it was learnt; else None.
    """

    part: ClassVar[str]

    @property
    def training(self) -> TrainingRun | None:
        """The training run with its gates."""
        ...

    @property
    def is_worthless(self) -> bool:
        """Whether there is nothing to be kept."""
        ...

    @property
    def constants(self) -> AblationValues | None:
        """What cut edges carried under optimal ablation."""
        ...

    @property
    def ended_early(self) -> bool:
        """Whether steps are left."""
        ...

    def curve(self) -> pd.DataFrame:
        """A row a training step; empty where nothing was trained."""
        ...

    def edge_scores(self, run: Run) -> EdgeScores:
        """A score for every edge.

        Args:
            run: The run.
        """
        ...

    def keep(self, folder: ResultFolder) -> None:
        """Write it.

        Args:
            folder: The result's.
        """
        ...

    def kept(self, run: Run, progress: Progress, stop: Stop) -> Kept:
        """Decide which edges the circuit has.

        Args:
            run: The run.
            progress: Told what begins.
            stop: Who asked the run to stop.

        Raises:
            KeyboardInterrupt: The run was asked to stop a second time.
        """
        ...

    def provenance(self, run: Run, kept: Kept) -> dict[str, Any]:
        """Where the circuit came from, but for its measures.

        Args:
            run: The run.
            kept: What was kept.
        """
        ...

    def metrics(self) -> dict[str, Any]:
        """What is known of it before anything is evaluated: `seconds` and more."""
        ...

    def diagnoses(
        self, run: Run, kept: Kept, measures: Mapping[str, Mapping[str, Any]] | None, verdicts: Collection[str]
    ) -> list[str]:
        """What may be wrong, in words.

        Args:
            run: The run.
            kept: What was kept.
            measures: Of one split, by role, if there are any.
            verdicts: Names of what the figures say against the run.
        """
        ...


def check_run(run: Run) -> None:
    """Refuse, before any work, what could not be trained, ranked or evaluated.

    Args:
        run: The run.

    Raises:
        ConfigurationError: Settings that cannot work together, or no training prompts.
        UnknownNameError: No such objective or split.
        UnsupportedModelError: The method can make nothing of the model.
    """
    compiled, task, request = run.compiled, run.task, run.request
    for pairs in task.splits.values():
        if len(pairs):
            require_same_spans(compiled.universe, pairs)
    if not len(task.split("train")):
        raise ConfigurationError(f"task {task.name}: the train split is empty; there is nothing to learn from")
    trained_on = {f"task {task.name} (train)": task.split("train")}
    if request.direction == BOTH:
        trained_on[SWAPPED] = task.split("train").swapped()
    if run.method is not None:
        for what, pairs in trained_on.items():
            check_ranking(compiled, pairs, run.method, request.objective, request.ablation, what=what)
    else:
        check_top_k(request.teacher_top_k, run.objective, compiled.shape.d_vocab)
        compiled.gate_map.check_target(run.recipe.target_sparsity)
        for what, pairs in trained_on.items():
            check_objective(run.objective, pairs, what)
        check_given_scores(run)
    for split in run.splits:
        if not len(task.split(split)):
            raise ConfigurationError(
                f"task {task.name}: the {split} split is empty; leave it out of the splits to evaluate on"
            )


def how_evaluated(run: Run, kept: Kept) -> dict[str, Any]:
    """What it takes to evaluate again as was asked: for `state.json`.

    Args:
        run: The run.
        kept: What was kept.
    """
    dangling = sorted(set(kept.raw_edges.tolist()) - set(kept.circuit.edge_ids.tolist()))
    names = [kept.circuit.universe.edge_name(edge) for edge in dangling]
    return {
        "splits": list(run.splits),
        "n_random": run.request.n_random,
        "n_random_prompts": run.request.n_random_prompts,
        "n_effects": run.request.n_effects,
        "sparsities": list(kept.front),
        "dangling_edges": names,
    }
