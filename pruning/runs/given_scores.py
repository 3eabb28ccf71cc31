"""Scores that a training begins with: α that start by them, and edges that survive by them.

Either names a method, which ranks the edges by the training prompts with its usual settings, or a place with scores
that were saved (`circuitgraph rank`, `discover --method`, a file of another tool). Scores of another universe are
refused. What counts is an edge's strength (`circuitgraph.circuits.strength`): the size of a gradient or a difference,
the score itself of trained gates.

    warm start   α = init_mean + init_std · z, z the standardised logarithm of the strength (`Gates.start_from`)
    survivors    the n strongest edges are trained, all others are removed in the graph: their gates are 0, and the
                 sparsity counts them as cut. All else is as ever: the circuit is measured in the whole graph
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.sizes import edges_left
from circuitgraph.circuits.strength import strengths_of
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.gate_map import GateMap
from pruning.execution.probe import Probe
from pruning.methods.edge_pruning.recipes import OWN_WARM_STARTS, Recipe
from pruning.methods.method import Method
from pruning.methods.registry import method_named
from pruning.methods.score_source import is_place
from pruning.prompts.swapped import BOTH, NOISING
from pruning.runs.progress import Progress
from pruning.runs.rank import SPLIT, Ranked, check_ranking, objective_of, ranked, ranked_both
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run

BATCH_SIZE = 8
"""Prompts that a method runs at once, where nothing was chosen; fewer where memory runs out."""
SURVIVORS, WARM_START = "survivors", "warm_start"
"""What scores are for: names in a circuit's provenance, and of the folders that keep them beside checkpoints."""
OPEN_AT_MOST = 0.8
"""Of the survivors at the start, where the sparsity is held exactly: gates that are all open cannot move."""


class GivenScores:
    """The scores that a run begins with, each source asked once.

    Args:
        run: The run.
        progress: Told what begins.
        folder: Where the result is kept; a run that goes on there takes the scores that it began with.
    """

    def __init__(self, run: Run, progress: Progress, folder: ResultFolder | None = None) -> None:
        self._run, self._progress, self._folder = run, progress, folder
        self._by_source: dict[str, EdgeScores] = {}
        self._by_use: dict[str, EdgeScores] = {}
        self.about: dict[str, Any] = {}

    def trained(self) -> Run:
        """The run as it is trained: on survivors alone where there are to be some."""
        request = self._run.request
        if request.survivors is None or request.survivors_by is None:
            return self._run
        scores = self._of(SURVIVORS, request.survivors_by)
        run = on_survivors(self._run, scores)
        told = {"n": request.survivors, "start_sparsity": run.recipe.start_sparsity}
        self.about[SURVIVORS] = {**told, **_about(request.survivors_by, scores)}
        self._progress.say(f"training the {request.survivors:,} strongest edges by {scores.method}; all others are cut")
        return run

    def start(self) -> Float[Tensor, " edge"] | None:
        """How strong each edge is, where the recipe's warm start takes such scores."""
        source = self._run.recipe.warm_start
        if source in OWN_WARM_STARTS:
            return None
        scores = self._of(WARM_START, source)
        self.about[WARM_START] = _about(source, scores)
        return torch.from_numpy(strengths_of(scores.values, scores.estimates)).float()

    def keep(self) -> None:
        """Keep them beside the run's checkpoints, so that it goes on with the same."""
        if self._folder is not None:
            for use, scores in self._by_use.items():
                scores.save(self._folder.checkpoints / use, overwrite=True)

    def _of(self, use: str, source: str) -> EdgeScores:
        kept = None if self._folder is None or not self._folder.resumes else self._folder.checkpoints / use
        if kept is not None and kept.is_dir():
            self._by_use[use] = EdgeScores.load(kept, universe=self._run.compiled.universe)
            return self._by_use[use]
        if source not in self._by_source:
            self._by_source[source] = self._read(source) if is_place(source) else self._ranked(source)
        self._by_use[use] = self._by_source[source]
        return self._by_use[use]

    def _read(self, source: str) -> EdgeScores:
        scores, ablation = _load(source, self._run.compiled), self._run.request.ablation
        if scores.ablation != ablation:
            self._progress.say(
                f"note: the scores in {source} were found under {scores.ablation} ablation, this run has {ablation}"
            )
        return scores

    def _ranked(self, name: str) -> EdgeScores:
        method, run = method_named(name), replace(self._run, compiled=_whole(self._run.compiled))
        return ranked_as_run(method, run, objective_of(method, run.task), self._progress).scores


def ranked_as_run(
    method: Method, run: Run, objective: str | None, progress: Progress, *, direction: str = NOISING
) -> Ranked:
    """Rank the edges by a run's training prompts, under its ablation, with its seed.

    Args:
        method: The method.
        run: The run, its graph whole.
        objective: What is compared, or None.
        progress: Told what begins, and when something had to change.
        direction: `both` puts two rankings together; any other is that of the run's prompts.

    Raises:
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
    """
    compiled, pairs = run.compiled, run.task.split(SPLIT)
    progress.say(
        f"ranking {compiled.universe.n_edges:,} edges by {method.name}, on {len(pairs):,} training prompts "
        f"({method.cost})"
    )
    probe = Probe(
        compiled=compiled, pairs=pairs, objective=objective, ablation=run.request.ablation,
        batch_size=run.settings.micro_batch or BATCH_SIZE, say=progress.say,
    )  # fmt: skip
    if direction == BOTH:
        return ranked_both(method, probe, run.task, seed=run.request.seed)
    return ranked(method, probe, run.task, seed=run.request.seed, direction=run.task.direction)


def _whole(compiled: CompiledModel) -> CompiledModel:
    """The model with its whole graph."""
    return replace(compiled, gate_map=GateMap.identity(compiled.universe))


def _about(source: str, scores: EdgeScores) -> dict[str, Any]:
    """What a circuit's provenance says of scores that its training began with."""
    settings = scores.provenance.get("settings")
    return {"by": source, "method": scores.method, "settings": settings, "scores": scores.digest}


def on_survivors(run: Run, scores: EdgeScores) -> Run:
    """The run as it is trained: in the graph of the survivors, from a sparsity that they can have.

    Args:
        run: The run, with survivors asked for.
        scores: What they are chosen by.
    """
    n, compiled = run.request.survivors, run.compiled
    assert n is not None
    gate_map = GateMap.keeping(compiled.universe, scores.order()[:n])
    recipe = started_later(run.recipe, n / compiled.universe.n_edges)
    return replace(run, compiled=replace(compiled, gate_map=gate_map), request=replace(run.request, recipe=recipe))


def started_later(recipe: Recipe, share: float) -> Recipe:
    """A recipe whose sparsity begins where a share of the edges can have it.

    Args:
        recipe: The recipe.
        share: Of the edges that are trained.

    Examples:
        >>> from pruning.methods.edge_pruning.recipes import recipe_named
        >>> started_later(recipe_named("quick"), 0.05).start_sparsity, recipe_named("quick").start_sparsity
        (0.96, 0.9)
    """
    most = share if recipe.control == "lagrangian" else OPEN_AT_MOST * share
    return recipe if recipe.start_sparsity >= 1 - most else replace(recipe, start_sparsity=1 - most)


def check_given_scores(run: Run) -> None:
    """Refuse, before any work, scores that a training cannot begin with.

    Args:
        run: The run, whose gates are trained by a recipe.

    Raises:
        ConfigurationError: A method can make nothing of this task or ablation, or survivors are fewer than the edges
            that are to be kept, or more than there are.
        CircuitFormatError: There are no scores at a place.
        GraphMismatchError: They are of another universe.
    """
    compiled, request = run.compiled, run.request
    sources = [] if run.recipe.warm_start in OWN_WARM_STARTS else [run.recipe.warm_start]
    if request.survivors is not None and request.survivors_by is not None:
        sources.append(request.survivors_by)
        _check_survivors(run, request.survivors)
    for source in dict.fromkeys(sources):
        if is_place(source):
            _load(source, compiled)
        else:
            method = method_named(source)
            objective = objective_of(method, run.task)
            check_ranking(_whole(compiled), run.task.split(SPLIT), method, objective, request.ablation)


def _check_survivors(run: Run, n: int) -> None:
    compiled, request = run.compiled, run.request
    n_edges = compiled.universe.n_edges
    edited = {how: count for how in ("removed", "frozen", "tied") if (count := compiled.gate_map.edits.get(how))}
    if edited:
        raise ConfigurationError(
            f"survivors are chosen in the whole graph, and this one is edited ({', '.join(edited)} edges); leave out "
            "survivors, or compile the model anew"
        )
    if n > n_edges:
        raise ConfigurationError(f"survivors: {n:,} edges are to survive, and the graph has {n_edges:,}")
    least = min((run.recipe.target_sparsity, *request.sparsities))
    wanted = edges_left(compiled.universe, least)
    if wanted >= n:
        raise ConfigurationError(
            f"survivors: {n:,} edges are to survive, and sparsity {least:g} keeps {wanted:,}, so there is nothing to "
            "train; let more survive, or cut more"
        )


def _load(source: str, compiled: CompiledModel) -> EdgeScores:
    return EdgeScores.load(Path(source), universe=compiled.universe)
