"""Rank all edges of a model by one method: checked, run, and kept with where the scores came from.

`rank_edges` is for users; `pruning.runs.discover` calls `check_ranking` before any work, and `ranked`, which also says
which edges the circuit has of a method that searches for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.torch_state import with_gradients
from pruning.execution.objectives import check_objective
from pruning.execution.probe import Probe
from pruning.frozen.constants import given_values
from pruning.methods.method import Method, RefusesModels, Search, Searcher, require_ablation, usual_ablation
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.prompt_rules import refuse_equal_sides
from pruning.prompts.runnable import require_runnable
from pruning.runs.fields import plain
from pruning.runs.method_settings import method_with
from pruning.runs.provenance import made_with, model_provenance
from pruning.tasks import TaskData
from pruning.whole_numbers import MOST_SEED, whole_number

SPLIT = "train"
"""Edges are ranked by a task's training prompts, so that circuits can be measured on the others."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a method left.

    Attributes:
        scores: Of every edge.
        search: The circuit of a method that searches for one, or None.
        constants: What cut edges carried under optimal ablation; else None.
    """

    scores: EdgeScores
    search: Search | None
    constants: AblationValues | None = None


@with_gradients
def rank_edges(
    compiled: CompiledModel,
    task: TaskData | EncodedPairs,
    method: Method | str = "eap",
    settings: Mapping[str, object] | None = None,
    *,
    objective: str | None = None,
    ablation: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    constants: AblationValues | None = None,
) -> EdgeScores:
    """Score every edge of a model's graph; `pruning.top_edges` makes circuits of the scores.

    Args:
        compiled: The model.
        task: A task, of which the training prompts are taken, or prompts.
        method: The name of a method (see `pruning.methods.registry.METHODS`), or a method with its settings.
        settings: Settings of the method by name, such as `{"steps": 30}`; only with its name.
        objective: What is minimised; by default what suits the method, else the task's own.
        ablation: What cut edges carry; by default counterfactual, zero for Tracr models where the method can.
        batch_size: Prompts run at once at most; fewer where memory runs out.
        seed: Of everything random.
        say: Called with a line when something had to change.
        constants: What cut edges carry under optimal ablation, as `pruning.learn_constants` gives them; None learns
            them first, for sets of edges drawn at random.

    Returns:
        One score per edge, with the method, what a score estimates, and where they came from.

    Raises:
        ConfigurationError: The method can make nothing of the objective, the objective nothing of the prompts, the
            graph is edited, or there are no prompts, or ones that the model cannot run.
        PromptFormatError: No prompt differs from its counterfactual.
        NotFiniteError: Scores are NaN or infinite; the message names the prompts.
        UnknownNameError: No such method, setting, objective or ablation.

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
    pairs = task.split(SPLIT) if isinstance(task, TaskData) else task
    probe = Probe(
        compiled=compiled, pairs=pairs, objective=objective or objective_of(method, task),
        ablation=usual_ablation(method, compiled.universe.family) if ablation is None else ablation,
        batch_size=whole_number("batch_size", batch_size, least=1), say=say, constants=constants,
    )  # fmt: skip
    if constants is not None:
        given_values(constants, probe.ablation)
    check_ranking(compiled, pairs, method, probe.objective, probe.ablation)
    return ranked(method, probe, task, seed=whole_number("seed", seed, most=MOST_SEED)).scores


def objective_of(method: Method, task: TaskData | EncodedPairs) -> str | None:
    """What a method compares on a task where nothing was chosen; None where it compares nothing.

    Args:
        method: The method.
        task: A task, of which the training prompts are taken, or prompts.
    """
    if isinstance(task, TaskData):
        return method.default_objective(task.split(SPLIT), task.objective)
    return method.default_objective(task, None)


def ranked(method: Method, probe: Probe, task: TaskData | EncodedPairs, *, seed: int) -> Ranked:
    """Run a method whose model and prompts were checked.

    Args:
        method: The method.
        probe: The model, the prompts, and what is compared.
        task: What the prompts are of, for the provenance.
        seed: Of everything random.

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
    scores = EdgeScores.of(
        compiled.universe, values, method=method.name, direction=method.direction, estimates=method.estimates,
        ablation=probe.ablation, provenance=provenance,
    )  # fmt: skip
    constants = probe.learnt if probe.ablation == "optimal" else None
    return Ranked(scores=scores, search=search, constants=constants)


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
    compiled: CompiledModel, pairs: EncodedPairs, method: Method, objective: str | None, ablation: str
) -> None:
    """Refuse what gives no scores, before any work.

    Args:
        compiled: The model.
        pairs: The prompts.
        method: The method.
        objective: What is compared, or None.
        ablation: What cut edges carry.

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
        check_objective(objective, pairs)
    require_runnable(compiled, pairs)
    if ablation == "counterfactual":
        refuse_equal_sides(pairs)


def _provenance(compiled: CompiledModel, task: TaskData | EncodedPairs, pairs: EncodedPairs) -> dict[str, Any]:
    """The model and the prompts."""
    named: dict[str, Any] = {"data_hash": pairs.data_hash}
    if isinstance(task, TaskData):
        named = {"task": task.name, "task_options": dict(task.provenance), "data_hash": task.data_hash, "split": SPLIT}
    return {**model_provenance(compiled), **named, "n_prompts": len(pairs), **made_with(compiled)}
