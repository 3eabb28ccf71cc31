"""Rank all edges of a model by one method: checked, run, and kept with where the scores came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.ablations import default_ablation
from circuitgraph.torch_state import with_gradients
from pruning.execution.objectives import check_objective
from pruning.execution.probe import Probe
from pruning.methods.method import RANKING_ABLATIONS, Method
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
    objective = objective or method.default_objective(pairs, task.objective if isinstance(task, TaskData) else None)
    ablation = _default_ablation(compiled, method) if ablation is None else ablation
    _check(compiled, pairs, method, objective, ablation)
    batch_size, seed = whole_number("batch_size", batch_size, least=1), whole_number("seed", seed, most=MOST_SEED)
    probe = Probe(
        compiled=compiled, pairs=pairs, objective=objective, ablation=ablation, batch_size=batch_size, say=say
    )
    began = time.perf_counter()
    values = method.score(probe, seed=seed)
    provenance = {
        **_provenance(compiled, task, pairs),
        "objective": objective,
        "settings": plain(method) if is_dataclass(method) else {},
        "source": method.source,
        "seed": seed,
        "seconds": time.perf_counter() - began,
    }
    return EdgeScores.of(
        compiled.universe, values, method=method.name, direction=method.direction, estimates=method.estimates,
        ablation=ablation, provenance=provenance,
    )  # fmt: skip


def _method(method: Method | str, settings: Mapping[str, object] | None) -> Method:
    if isinstance(method, str):
        return method_with(method, settings)
    if settings:
        raise ConfigurationError(
            f"settings came twice: method {method.name!r} has its own already; give its name and settings, or the "
            "method alone"
        )
    return method


def _default_ablation(compiled: CompiledModel, method: Method) -> str:
    usual = default_ablation(compiled.universe.family)
    return usual if usual in method.ablations else method.ablations[0]


def _check(compiled: CompiledModel, pairs: EncodedPairs, method: Method, objective: str | None, ablation: str) -> None:
    """Refuse what gives no scores, before any work."""
    if ablation not in RANKING_ABLATIONS:
        raise UnknownNameError.of("ablation", ablation, RANKING_ABLATIONS)
    if ablation not in method.ablations:
        raise ConfigurationError(
            f"method {method.name!r} needs {' or '.join(method.ablations)} ablation; got {ablation!r}. It goes between "
            "a prompt and its counterfactual, and constants have none"
        )
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
