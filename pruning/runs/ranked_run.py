"""A method that ranks edges or searches for a circuit: the stages of a run that are its own, rank → select."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen
from circuitgraph.circuits.selection.rules import choose_edges
from circuitgraph.circuits.sizes import edges_left
from circuitgraph.errors import why
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.stopping import Stop
from pruning.runs.diagnose import diagnose_selected
from pruning.runs.given_scores import ranked_as_run
from pruning.runs.left_scores import LeftScores
from pruning.runs.progress import Progress
from pruning.runs.rank import Ranked
from pruning.runs.request import DEFAULT_SPARSITY, OWN, SelectionRequest
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.runs.stages import Kept

NEAR_ENOUGH = 0.1
"""By what share a search may miss the size asked for without its being said."""


@dataclass(frozen=True, kw_only=True)
class RankedRun(LeftScores):
    """What a method leaves.

    Attributes:
        ranked: The scores, and the circuit that it found if it searches for one.
        seconds: What it took.
    """

    ranked: Ranked
    seconds: float

    @property
    def constants(self) -> AblationValues | None:
        """Those that edges were ranked with."""
        return self.ranked.constants

    def curve(self) -> pd.DataFrame:
        """No rows: nothing was trained step by step."""
        return pd.DataFrame()

    def edge_scores(self, run: Run) -> EdgeScores:
        """The method's scores."""
        del run
        return self.ranked.scores

    def keep(self, folder: ResultFolder) -> None:
        """Write the scores."""
        self.keep_scores(folder, self.ranked.scores)

    def kept(self, run: Run, progress: Progress, stop: Stop) -> Kept:
        """Choose the edges of the circuit, and those of further ones, by the rule asked for.

        A solver may find nothing or be ended; the rule `top` takes its place then, so that there is a circuit in any
        case.
        """
        selection = run.request.selection
        assert selection is not None
        progress.say(f"choosing edges by the rule {selection.rule}")
        chosen, trouble = self._chosen(selection, stop)
        circuit, front = _described(chosen, selection.sparsity), {}
        for sparsity in run.request.sparsities:
            rule = "top" if selection.rule == OWN else selection.rule
            asked = replace(selection, rule=rule, sparsity=sparsity)
            further, why_not = self._chosen(asked, stop)
            front[sparsity], trouble = _described(further, sparsity), trouble or why_not
        return Kept(circuit=circuit, raw_edges=np.sort(chosen.edges), trouble=trouble, front=front)

    def _chosen(self, selection: SelectionRequest, stop: Stop) -> tuple[Chosen, str]:
        """The edges, and why the rule was not taken that was asked for, or an empty text."""
        scores, search = self.ranked.scores, self.ranked.search
        if selection.rule == OWN:
            assert search is not None
            about = {"rule": OWN, **search.about}
            return Chosen(scores=scores, edges=np.flatnonzero(search.kept), selection=about), ""
        n = None if selection.sparsity is None else edges_left(scores.universe, selection.sparsity)
        try:
            with stop.open():
                return choose_edges([scores], selection.rule, selection.options(n)), ""
        except KeyboardInterrupt as error:
            stop.note(error)
            reason = f"the run was ended by {stop.name}"
        except Exception as error:  # noqa: BLE001 - the edges are ranked; a circuit of them is not lost by it
            reason = why(error)
        n = edges_left(scores.universe, DEFAULT_SPARSITY) if n is None else n
        usual = SelectionRequest(rule="top", sparsity=selection.sparsity or DEFAULT_SPARSITY, by=selection.by)
        trouble = f"No edges were chosen by the rule {selection.rule} ({reason}): the circuit has the {n:,} largest."
        return choose_edges([scores], "top", usual.options(n)), trouble

    def provenance(self, run: Run, kept: Kept) -> dict[str, Any]:
        """Where the circuit came from: what the scores say of themselves, and the rule."""
        return {
            **self.ranked.scores.provenance,
            "cpu_kernels": run.compiled.uses_cpu_kernels,
            "selection": kept.circuit.provenance["selection"],
        }

    def metrics(self) -> dict[str, Any]:
        """What the ranking took."""
        return {"seconds": self.seconds, "ranking_seconds": self.seconds}

    def diagnoses(
        self, run: Run, kept: Kept, measures: Mapping[str, Mapping[str, Any]] | None, verdicts: Collection[str]
    ) -> list[str]:
        """What may be wrong with the circuit."""
        del measures
        return [*diagnose_selected(kept.circuit, verdicts=verdicts), *self._size(run, kept)]

    def _size(self, run: Run, kept: Kept) -> list[str]:
        """Where a search for a circuit of a wanted size found one of another."""
        selection, found = run.request.selection, len(kept.raw_edges)
        if selection is None or selection.rule != OWN or selection.sparsity is None:
            return []
        wanted = edges_left(run.compiled.universe, selection.sparsity)
        if abs(found - wanted) <= NEAR_ENOUGH * wanted:
            return []
        near = f"The circuit has {found:,} edges, as near to {wanted:,} edges as the search came"
        return [f"{near}; --rule top cuts its scores at that size."]


def _described(chosen: Chosen, sparsity: float | None) -> Circuit:
    """The circuit; its selection also says which sparsity was asked for."""
    circuit = chosen.circuit()
    return circuit.with_provenance({"selection": {**circuit.provenance["selection"], "sparsity": sparsity}})


def rank_run(run: Run, progress: Progress, stop: Stop) -> RankedRun:
    """Score every edge by the training prompts.

    Args:
        run: The run.
        progress: Told what begins.
        stop: Who asked the run to stop: nothing is given back then.

    Raises:
        KeyboardInterrupt: The run was asked to stop.
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
    """
    began = time.perf_counter()
    method = run.method
    assert method is not None
    with stop.open():
        found = ranked_as_run(method, run, run.request.objective, progress, direction=run.request.direction)
    return RankedRun(ranked=found, seconds=time.perf_counter() - began)
