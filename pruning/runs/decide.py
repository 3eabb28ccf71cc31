"""From what a user chose to a run that is decided: the one rule for defaults.

What was chosen wins, then what the recipe says, then what the task and the model say:

    method       chosen, else gates trained by a recipe (`pruning.runs.decide_method`)
    recipe       chosen, else `tracr` for a compiled program, else `quick`; then what was chosen of it
    embeddings   chosen, else the recipe's, else `split` for a compiled program, else `joint`
    kv_heads     chosen, else the recipe's, else `native`
    qkv          chosen, else the recipe's, else `split`
    objective    chosen, else the recipe's, else the task's; of a method without a recipe what suits it and the prompts
    ablation     chosen, else the recipe's, else `zero` for a compiled program, else `counterfactual`; of a method
                 without a recipe one that it can do with
    task.seed    chosen, else the run's seed
    survivors_by chosen, else `gate-importance` where there are to be survivors
    n_effects    chosen, else 0 where prompts are divided into spans, else 150
    the rest     chosen, else the default of `RunRequest` and `RunSettings`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from circuitgraph.architectures.universe import decided_choices
from circuitgraph.errors import ConfigurationError
from circuitgraph.files.toml_text import toml_text
from circuitgraph.graph.ablations import default_ablation
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.score_source import settled
from pruning.runs.choices import Chosen, setting_kinds
from pruning.runs.decide_method import decided_method, recipe_to_change, trains_by_recipe
from pruning.runs.request import SURVIVORS_BY, ModelRequest, RunRequest, TaskRequest
from pruning.runs.settings import RunSettings

if TYPE_CHECKING:
    from pruning.tasks import Task


def decide(chosen: Mapping[str, Any], *, family: str, objective: str) -> tuple[RunRequest, RunSettings]:
    """What a run is asked for and how it is done, from what was chosen.

    Args:
        chosen: Values by full name, see `pruning.runs.choices`; with `model.name` and `task.name`.
        family: The model's family, such as `gpt2` or `tracr`.
        objective: The task's own objective.

    Raises:
        ConfigurationError: A value that makes no sense, or neither model nor task are named.
        UnknownNameError: A choice that there is not.

    Examples:
        >>> request, settings = decide(
        ...     {"model.name": "tracr:reverse", "task.name": "tracr-reverse", "recipe.steps": 50, "seed": 3},
        ...     family="tracr", objective="kl",
        ... )
        >>> request.recipe.name, request.recipe.steps, request.ablation, request.model.embeddings, request.task.seed
        ('tracr', 50, 'zero', 'split', 3)
    """
    other = None if trains_by_recipe(chosen) else decided_method(chosen)
    recipe = decided_recipe(chosen, family) if other is None else None
    asked = _section(chosen, "")
    model, task = _section(chosen, "model."), _section(chosen, "task.")
    for table, what in ((model, "model"), (task, "task")):
        if "name" not in table:
            raise ConfigurationError(f"which {what}? Give --{what}, or name it in a file ([{what}] name = …)")
    model |= decided_choices(
        family, {name: model.get(name) or getattr(recipe, name, None) for name in ("embeddings", "kv_heads", "qkv")}
    )
    task.setdefault("seed", asked.get("seed", 0))
    if task.get("spans"):
        asked.setdefault("n_effects", 0)  # single edges are not cut with spans yet
    if asked.get("survivors_by") or asked.get("survivors"):
        asked["survivors_by"] = settled(asked.get("survivors_by") or SURVIVORS_BY)
    if recipe is not None:
        asked["objective"] = asked.get("objective") or recipe.objective or objective
        asked["ablation"] = asked.get("ablation") or recipe.ablation or default_ablation(family)
    elif other is not None:
        compared = other.compared(asked.get("objective"), asked.get("ablation"), family)
        asked["objective"], asked["ablation"] = compared
        asked |= {"method": other.request, "selection": other.selection}
    request = RunRequest(model=ModelRequest(**model), task=TaskRequest(**task), recipe=recipe, **asked)
    return request, RunSettings(**_section(chosen, "settings."))


def decided_recipe(chosen: Mapping[str, Any], family: str) -> Recipe:
    """The recipe of a run, with what was chosen of it.

    Args:
        chosen: As of `decide`.
        family: The model's family.

    Raises:
        UnknownNameError: No such recipe.
        ConfigurationError: Settings of it that make no sense.
    """
    recipe = recipe_to_change(chosen, family)
    changes = _section(chosen, "recipe.")
    nothing = {name: None for name, value in changes.items() if value is None}
    if changes.get("warm_start"):
        changes["warm_start"] = settled(changes["warm_start"])
    changed = recipe.changed(**changes) if len(nothing) < len(changes) else recipe
    return replace(changed, **nothing) if nothing else changed


def _section(chosen: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The settings of one table, those of tables within it put together."""
    found: dict[str, Any] = {}
    for name in setting_kinds():
        if not name.startswith(prefix) or "." in name.removeprefix(prefix):
            continue
        inside = {one.removeprefix(f"{name}."): value for one, value in chosen.items() if one.startswith(f"{name}.")}
        if name in chosen:
            found[name.removeprefix(prefix)] = {**chosen[name], **inside} if inside else chosen[name]
        elif inside:
            found[name.removeprefix(prefix)] = inside
    return found


def task_options(chosen: Mapping[str, Any], task: Task) -> Chosen:
    """A task's options as they were typed, numbers read where the task's defaults are numbers.

    Args:
        chosen: As of `decide`.
        task: The task.

    Raises:
        ConfigurationError: A number was expected.
    """
    read = dict(chosen)
    for name in task.options:
        key = f"task.options.{name}"
        value = chosen.get(key)
        if isinstance(value, str):
            read[key] = task.read_option(name, value, key)
    return read


def run_text(request: RunRequest, settings: RunSettings, *, edited: bool = False) -> str:
    """A run as TOML, which `pruning.runs.choice_files.read_run_file` reads.

    Args:
        request: What is asked for.
        settings: How it is done.
        edited: Whether the graph was edited, or vectors were added in Python, which TOML does not hold.
    """
    note = (
        "# The graph was edited before this run: edges were removed, frozen or tied, or vectors were added. "
        "This file does not hold that.\n"
    )
    asked = request.to_dict()
    if request.n_random_prompts is None:
        asked["n_random_prompts"] = "all"
    return (note if edited else "") + toml_text({**asked, "settings": settings.to_dict()})
