"""From the names of a run to a run that can start: config first, then weights and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.architectures import family_of
from circuitgraph.architectures.universe import universe_of
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from pruning.prompts.swapped import begins_with
from pruning.runs.choice_files import read_run_file
from pruning.runs.decide import decide, task_options
from pruning.runs.request import RunRequest
from pruning.runs.settings import RunSettings
from pruning.tasks import get_task, load_task
from pruning.tasks.spans import with_spans_of

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.forward.vectors import Vector
    from pruning.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run that is decided, and whose model's config was read; no weights are loaded.

    Attributes:
        request: What is asked for.
        settings: How it is done.
        universe: Which edges the model's graph has.
    """

    request: RunRequest
    settings: RunSettings
    universe: Universe

    def load(self) -> Run:
        """Load the weights, compile them, and make the prompts."""
        from pruning.runs.run import Run, with_objective

        compiled, asked = self.load_model(), self.request.task
        task = load_task(
            asked.name, compiled.tokenizer, sizes=asked.sizes or None, seed=asked.seed, options=asked.options or None,
            chat_template=asked.chat_template, bos=asked.bos,
        )  # fmt: skip
        task = task.towards(begins_with(self.request.direction))
        if asked.spans:
            task = task.with_spans(asked.spans)
            compiled = with_spans_of(compiled, task)
        return Run(compiled=compiled, task=task, request=with_objective(self.request, task), settings=self.settings)

    def load_model(self) -> CompiledModel:
        """Load the weights and compile them."""
        from circuitgraph.compiled.compile import compile_model
        from circuitgraph.models import load_model

        model, settings = self.request.model, self.settings
        loaded = load_model(model.name, dtype=settings.dtype, device=settings.device)
        return compile_model(
            loaded, embeddings=model.embeddings, kv_heads=model.kv_heads, qkv=model.qkv, verify=settings.verify,
            vectors=_vectors(model.vectors),
        )  # fmt: skip


def plan_run(chosen: Mapping[str, Any]) -> PlannedRun:
    """Decide a run from what was chosen, with the config of its model.

    Args:
        chosen: Values by full name, see `pruning.runs.choices`; with `model.name` and `task.name`.

    Raises:
        ConfigurationError: A value that makes no sense, or neither model nor task are named.
        UnknownNameError: A choice that there is not, or no such task.
        ModelNotFoundError: There is no such model.
        UnsupportedModelError: Its architecture is not understood.

    Examples:
        >>> plan = plan_run({"model.name": "tracr:reverse", "task.name": "tracr-reverse", "recipe.steps": 9})
        >>> plan.request.recipe.name, plan.request.ablation, plan.universe.n_edges
        ('tracr', 'zero', 94)
    """
    for what in ("task", "model"):
        if not isinstance(chosen.get(f"{what}.name"), str):
            raise ConfigurationError(f"which {what}? Give --{what}, or a file that names it: [{what}] name = …")
    task = get_task(chosen["task.name"])
    return plan_with(task_options(chosen, task), objective=task.objective)


def plan_with(chosen: Mapping[str, Any], *, objective: str) -> PlannedRun:
    """Decide a run whose task may be none that is known by name.

    Args:
        chosen: As of `plan_run`.
        objective: The task's own objective.

    Raises:
        ConfigurationError: A value that makes no sense.
        UnknownNameError: A choice that there is not.
        ModelNotFoundError: There is no such model.
        UnsupportedModelError: Its architecture is not understood.
    """
    from circuitgraph.models import load_config

    config = load_config(chosen["model.name"])
    family = family_of(config.model_type)
    family.check_config(config)
    request, settings = decide(chosen, family=family.name, objective=objective)
    model = request.model
    universe = universe_of(
        family, family.shape(config), embeddings=model.embeddings, kv_heads=model.kv_heads, qkv=model.qkv
    )
    names = tuple(vector.name for vector in _vectors(model.vectors))
    return PlannedRun(request=request, settings=settings, universe=replace(universe, virtual=names))


def _vectors(file: str | None) -> tuple[Vector, ...]:
    from circuitgraph.compiled.vector_files import load_vectors

    return () if file is None else load_vectors(file)


def read_run(path: str | Path) -> PlannedRun:
    """The run that a result's folder or its `run.toml` describes, to start it again.

    Args:
        path: The folder or the file.

    Raises:
        ConfigurationError: It cannot be read, or describes no run.
        ModelNotFoundError: Its model is not there any more.
    """
    return plan_run(read_run_file(path))
