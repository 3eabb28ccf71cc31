"""Rank all edges of a model by one method: checked, run, and kept with where the scores came from.

`rank_edges` is for users; `pruning.runs.discover` calls `check_ranking` before any work, and `ranked`, which also says
which edges the circuit has of a method that searches for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from circuitgraph.circuits.combined_scores import both_directions
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.torch_state import with_gradients
from pruning.execution.objectives import check_objective
from pruning.execution.probe import Probe
from pruning.frozen.constants import given_values
from pruning.methods.method import (
    Method,
    OnePassBothWays,
    RefusesModels,
    Search,
    Searcher,
    require_ablation,
    require_one_direction,
    usual_ablation,
)
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.prompt_rules import refuse_equal_sides
from pruning.prompts.runnable import require_runnable
from pruning.prompts.swapped import (
    BOTH,
    DENOISING,
    NOISING,
    begins_with,
    both_ways,
    require_direction,
)
from pruning.runs.fields import plain
from pruning.runs.method_settings import method_with
from pruning.runs.provenance import made_with, model_provenance
from pruning.tasks import TaskData
from pruning.whole_numbers import MOST_SEED, whole_number

SWAPPED = "the training data with its sides swapped (where a side's answer is right for both, no other is wrong)"
SPLIT = "train"
"""Edges are ranked by a task's training prompts, so that circuits can be measured on the others."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a method left.

    Attributes:
        scores: Of every edge.
        search: The circuit of a method that searches for one, or None.
        constants: What cut edges carried under optimal ablation; else None.
        halves: Of both directions that were ranked one after the other: noising and denoising alone.
    """

    scores: EdgeScores
    search: Search | None
    constants: AblationValues | None = None
    halves: tuple[EdgeScores, EdgeScores] | None = None


@with_gradients
def rank_edges(
    compiled: CompiledModel,
    task: TaskData | EncodedPairs,
    method: Method | str = "eap",
    settings: Mapping[str, object] | None = None,
    *,
    direction: str | None = None,
    objective: str | None = None,
    ablation: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    constants: AblationValues | None = None,
    each: Callable[[EdgeScores, EdgeScores], None] | None = None,
) -> EdgeScores:
    """Score every edge of a model's graph; `pruning.top_edges` makes circuits of the scores.

    Args:
        compiled: The model.
        task: A task, of which the training prompts are taken, or prompts.
        method: The name of a method (see `pruning.methods.registry.METHODS`), or a method with its settings.
        settings: Settings of the method by name, such as `{"steps": 30}`; only with its name.
        direction: `noising`: the clean prompt runs, and cut edges carry the corrupted one; `denoising`: the pairs are
            swapped, and the full model on the corrupted prompt is the teacher; `both`: both, put together edge by edge
            (see `ranked_both`). By default noising, or as the task is that was given.
        objective: What is minimised; by default what suits the method, else the task's own.
        ablation: What cut edges carry; by default counterfactual, zero for Tracr models where the method can.
        batch_size: Prompts run at once at most; fewer where memory runs out.
        seed: Of everything random.
        say: Called with a line when something had to change.
        constants: What cut edges carry under optimal ablation, as `pruning.learn_constants` gives them; None learns
            them first, for sets of edges drawn at random.
        each: Of direction `both`: called with the scores of noising and of denoising alone, which what is returned no
            longer tells apart; not of a method that goes over both in one pass (`acdc`).

    Returns:
        One score per edge, with the method, what a score estimates, and where they came from.

    Raises:
        ConfigurationError: The method can make nothing of the objective, the objective nothing of the prompts, the
            graph is edited, or there are no prompts, or ones that the model cannot run.
        PromptFormatError: No prompt differs from its counterfactual.
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
        UnknownNameError: No such method, setting, direction, objective or ablation.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> scores = rank_edges(compiled, task)
        >>> scores.provenance["objective"], len(scores) == compiled.universe.n_edges
        ('cross-entropy', True)
    """
    method = _method(method, settings)
    ablation = usual_ablation(method, compiled.universe.family) if ablation is None else ablation
    direction = direction or (task.direction if isinstance(task, TaskData) else NOISING)
    require_direction(direction, ablation)
    require_one_direction(method, direction)
    task = in_direction(task, direction)
    probe = Probe(
        compiled=compiled, pairs=prompts_of(task), objective=objective or objective_of(method, task),
        ablation=ablation, batch_size=whole_number("batch_size", batch_size, least=1), say=say, constants=constants,
    )  # fmt: skip
    if constants is not None:
        given_values(constants, probe.ablation)
    check_ranking(compiled, probe.pairs, method, probe.objective, probe.ablation)
    seed = whole_number("seed", seed, most=MOST_SEED)
    if direction == BOTH:
        check_ranking(compiled, probe.pairs.swapped(), method, probe.objective, probe.ablation, what=SWAPPED)
        found = ranked_both(method, probe, task, seed=seed)
        if each is not None and found.halves is not None:
            each(*found.halves)
        return found.scores
    return ranked(method, probe, task, seed=seed, direction=direction).scores


def prompts_of(task: TaskData | EncodedPairs) -> EncodedPairs:
    """The prompts that edges are ranked by.

    Args:
        task: A task, of which the training prompts are taken, or prompts.
    """
    return task.split(SPLIT) if isinstance(task, TaskData) else task


def objective_of(method: Method, task: TaskData | EncodedPairs) -> str | None:
    """What a method compares on a task where nothing was chosen; None where it compares nothing.

    Args:
        method: The method.
        task: A task, of which the training prompts are taken, or prompts.
    """
    return method.default_objective(prompts_of(task), task.objective if isinstance(task, TaskData) else None)


def in_direction(task: TaskData | EncodedPairs, direction: str) -> TaskData | EncodedPairs:
    """A task or prompts as a direction takes them; both directions begin with noising.

    Args:
        task: A task, which knows whether it is swapped, or prompts, which are taken not to be.
        direction: `noising`, `denoising` or `both`.
    """
    if isinstance(task, TaskData):
        return task.towards(begins_with(direction))
    return task.swapped() if direction == DENOISING else task


def ranked(
    method: Method, probe: Probe, task: TaskData | EncodedPairs, *, seed: int, direction: str = NOISING
) -> Ranked:
    """Run a method whose model and prompts were checked.

    Args:
        method: The method.
        probe: The model, the prompts, and what is compared.
        task: What the prompts are of, for the provenance.
        seed: Of everything random.
        direction: `denoising` where the probe's prompts are swapped.

    Raises:
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
    """
    compiled = probe.compiled
    began = time.perf_counter()
    search = method.search(probe, seed=seed) if isinstance(method, Searcher) else None
    values = method.score(probe, seed=seed) if search is None else search.scores
    provenance = {
        **_provenance(compiled, task, probe.pairs),
        "objective": probe.objective,
        "settings": plain(method) if is_dataclass(method) else {},
        "source": method.source,
        "seed": seed,
        "seconds": time.perf_counter() - began,
    }
    if direction == DENOISING:
        provenance["prompts"] = "swapped"
    scores = EdgeScores.of(
        compiled.universe, values, method=method.name, direction=_looked_at(method, direction),
        estimates=method.estimates, ablation=probe.ablation, provenance=provenance,
    )  # fmt: skip
    constants = probe.learnt if probe.ablation == "optimal" else None
    return Ranked(scores=scores, search=search, constants=constants)


def ranked_both(method: Method, probe: Probe, task: TaskData | EncodedPairs, *, seed: int) -> Ranked:
    """Rank the edges in both directions, with one seed, and put the two together.

    A method that tries one edge after the other (ACDC) goes over the pairs and the swapped pairs in one pass, so that
    its threshold is on the sum of the two rises. Any other runs twice; see `both_directions` of
    `circuitgraph.circuits.combined_scores` for how its scores are joined.

    Args:
        method: The method.
        probe: The model and the prompts, not swapped.
        task: What the prompts are of, for the provenance.
        seed: Of everything random, in either direction.

    Raises:
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
    """
    if isinstance(method, OnePassBothWays):
        probe.say("both directions in one pass, by their mean: its threshold is half of that of their sum")
        found = ranked(method.for_both(), replace(probe, pairs=both_ways(probe.pairs)), task, seed=seed)
        assert found.search is not None
        search = method.of_both(found.search)
        about = {**found.scores.provenance, "prompts": "both ways"}
        for name in found.scores.about:
            about.pop(name, None)
        scores = EdgeScores.of(
            found.scores.universe, search.scores, method=method.name, direction=BOTH, estimates=method.estimates,
            ablation=probe.ablation, provenance={**about, "settings": plain(method) if is_dataclass(method) else {}},
        )  # fmt: skip
        return Ranked(scores=scores, search=search)
    probe.say("noising: the clean prompts, cut edges carry the corrupted ones")
    first = ranked(method, probe, task, seed=seed)
    probe.say("denoising: the corrupted prompts, cut edges carry the clean ones")
    turned = replace(probe, pairs=probe.pairs.swapped())
    second = ranked(method, turned, task, seed=seed, direction=DENOISING)
    halves = (first.scores, second.scores)
    return Ranked(scores=both_directions(*halves), search=None, halves=halves)


def _looked_at(method: Method, direction: str) -> str:
    """Where edges were looked at: ablating each in the swapped full model is restoring each in the corrupted run."""
    return DENOISING if (method.direction, direction) == (NOISING, DENOISING) else method.direction


def _method(method: Method | str, settings: Mapping[str, object] | None) -> Method:
    if isinstance(method, str):
        return method_with(method, settings)
    if settings:
        raise ConfigurationError(
            f"settings came twice: method {method.name!r} has its own already; give its name and settings, or the "
            "method alone"
        )
    return method


def check_ranking(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    method: Method,
    objective: str | None,
    ablation: str,
    *,
    what: str = "the training data",
) -> None:
    """Refuse what gives no scores, before any work.

    Args:
        compiled: The model.
        pairs: The prompts.
        method: The method.
        objective: What is compared, or None.
        ablation: What cut edges carry.
        what: What a message calls the prompts.

    Raises:
        ConfigurationError: The method can make nothing of the objective or the ablation, the objective nothing of the
            prompts, the graph is edited, or there are no prompts, or ones that the model cannot run.
        UnsupportedModelError: The method can make nothing of the model.
        PromptFormatError: No prompt differs from its counterfactual.
        UnknownNameError: No such objective or ablation.
    """
    require_ablation(method, ablation)
    if isinstance(method, RefusesModels):
        method.require_model(compiled)
    edited = {how: n for how in ("removed", "frozen", "tied") if (n := compiled.gate_map.edits.get(how))}
    if edited:
        raise ConfigurationError(
            f"edges are ranked in the whole graph, and this one is edited ({', '.join(edited)} edges); compile the "
            "model anew, and leave out of the scores what is of no interest"
        )
    if not len(pairs):
        raise ConfigurationError("there are no prompts to rank edges by; give some (--train-size)")
    if objective is not None:
        method.require(objective)
        check_objective(objective, pairs, what)
    require_runnable(compiled, pairs)
    if ablation == "counterfactual":
        refuse_equal_sides(pairs)


def _provenance(compiled: CompiledModel, task: TaskData | EncodedPairs, pairs: EncodedPairs) -> dict[str, Any]:
    """The model and the prompts."""
    named: dict[str, Any] = {"data_hash": pairs.data_hash}
    if isinstance(task, TaskData):
        named = {"task": task.name, "task_options": dict(task.provenance), "data_hash": task.data_hash, "split": SPLIT}
    return {**model_provenance(compiled), **named, "n_prompts": len(pairs), **made_with(compiled)}
