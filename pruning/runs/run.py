"""A run with everything decided and loaded: model, prompts, what is asked for and how it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from circuitgraph.circuits.sizes import edges_left
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.method import Method, Searcher
from pruning.prompts.swapped import begins_with
from pruning.runs.checking.memory import training_memory
from pruning.runs.choices import METHOD, RECIPE, Chosen, full_name, of_keywords, of_method, of_model
from pruning.runs.decide import decide
from pruning.runs.method_settings import method_with
from pruning.runs.rank import objective_of
from pruning.runs.request import OWN, RunRequest
from pruning.runs.settings import RunSettings
from pruning.tasks import TaskData, get_task

if TYPE_CHECKING:
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.frozen.disk import DiskCache

EVALUATED = ("validation", "test")
_LOADED = ("model.", "task.", "settings.device", "settings.dtype", "settings.verify")
"""Settings of what is loaded already where a run is started from Python."""


class RunChoices(TypedDict, total=False):
    """What may be chosen of a run by a keyword from Python; see `RunRequest`, `RunSettings` and `Recipe`."""

    direction: str
    objective: str | None
    ablation: str | None
    seed: int
    method: Method | str | None
    rule: str
    splits: Any
    n_random: int
    n_random_prompts: int | None
    n_effects: int
    survivors: int | None
    survivors_by: str
    warm_start: str
    front: Any
    teacher_top_k: int | None
    memory_bytes: int | None
    cache_bytes: int
    disk_cache: DiskCache | None
    micro_batch: int | None
    recompute: bool | None
    replay: bool | None
    checkpoint_every_seconds: int
    checkpoint_every_steps: int
    time_limit_seconds: int | None
    steps: int
    target_sparsity: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, ready to start.

    Attributes:
        compiled: The model.
        task: The prompts.
        request: What is asked for.
        settings: How it is done.
    """

    compiled: CompiledModel
    task: TaskData
    request: RunRequest
    settings: RunSettings

    @property
    def recipe(self) -> Recipe:
        """The settings of the training; a run of another method has none."""
        recipe = self.request.recipe
        assert recipe is not None, "only a run that trains has a recipe"
        return recipe

    @property
    def objective(self) -> str:
        """What is compared in training."""
        assert self.request.objective is not None, "only a method that trains nothing may compare nothing"
        return self.request.objective

    @cached_property
    def method(self) -> Method | None:
        """The method that ranks the edges, ready to run; None where gates are trained by a recipe.

        Raises:
            ConfigurationError: The sparsity asked for is not the size that its settings ask for.
        """
        asked, selection = self.request.method, self.request.selection
        if asked is None or selection is None:
            return None
        method = method_with(asked.name, asked.options)
        if selection.rule == OWN and selection.sparsity is not None:
            assert isinstance(method, Searcher)
            return method.for_edges(edges_left(self.compiled.universe, selection.sparsity))
        return method

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the circuit is evaluated on."""
        return evaluated_splits(self.task) if self.request.splits is None else self.request.splits

    @cached_property
    def memory(self) -> MemoryPlan:
        """What the run is expected to hold at its peak, and how it is run so that it fits."""
        return training_memory(
            self.compiled, self.task.splits["train"], self.settings, batch_size=self.recipe.batch_size,
            ablation=self.request.ablation, teacher_top_k=self.request.teacher_top_k,
        )  # fmt: skip

    def fitted(self, plan: MemoryPlan | None) -> Run:
        """The run, done as a memory plan says.

        Args:
            plan: The plan; None leaves it as it is.
        """
        return replace(self, settings=self.settings.fitted(plan))


def evaluated_splits(task: TaskData) -> tuple[str, ...]:
    """The splits that a circuit is evaluated on by default: validation and test, where they have prompts."""
    return tuple(split for split in EVALUATED if len(task.splits.get(split, ())))


def run_of(compiled: CompiledModel, task: TaskData, recipe: Recipe | str | None, given: Mapping[str, Any]) -> Run:
    """A run of a model and prompts that are there already, from what Python's keywords choose.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: A recipe, its name, or None for the model's own.
        given: What else was chosen, see `RunChoices`.

    Raises:
        UnknownNameError: No such setting, recipe, objective or ablation.
        ConfigurationError: A value that makes no sense, or a setting of what is loaded already.
    """
    if not isinstance(compiled, CompiledModel):
        raise ConfigurationError(
            f"the model must be compiled, with circuitgraph.compile_model; got a {type(compiled).__name__}"
        )
    if not isinstance(task, TaskData):
        raise ConfigurationError(
            "the task must be what pruning.load_task gives (or pruning.task_from_pairs, of your own prompts); got a "
            f"{type(task).__name__}"
        )
    method = None if given.get("method") is None else of_method(given["method"])[METHOD]
    for name in given:
        if name not in ("disk_cache", "method") and full_name(name, method).startswith(_LOADED):
            raise ConfigurationError(
                f"{name} is decided already: it belongs to the model or the prompts that were given; load them with it"
            )
    chosen = of_keywords(given)
    if recipe is not None:
        chosen[RECIPE] = recipe
    return run_from(compiled, task, chosen)


def run_from(compiled: CompiledModel, task: TaskData, chosen: Mapping[str, Any]) -> Run:
    """A run of a model and prompts that are there already.

    Args:
        compiled: The model.
        task: The prompts.
        chosen: What else was chosen, by full name; what it says of the model and of the prompts is not looked at.

    Raises:
        UnknownNameError: No such recipe, objective or ablation.
        ConfigurationError: A value that makes no sense.
    """
    others = {name: value for name, value in chosen.items() if not name.startswith(_LOADED)}
    decided = {**of_model(compiled), **of_task(task), **others}
    request, settings = decide(decided, family=compiled.family.name, objective=task.objective)
    task = task.towards(begins_with(request.direction))
    return Run(compiled=compiled, task=task, request=with_objective(request, task), settings=settings)


def with_objective(request: RunRequest, task: TaskData) -> RunRequest:
    """What a method compares on these prompts, where nothing was chosen.

    Args:
        request: What is asked for.
        task: The prompts.
    """
    asked = request.method
    if request.objective is not None or asked is None or not len(task.splits.get("train", ())):
        return request
    return replace(request, objective=objective_of(method_with(asked.name, asked.options), task))


def of_task(task: TaskData) -> Chosen:
    """How prompts that are there already were made.

    Args:
        task: The prompts.
    """
    made = task.provenance
    chosen: Chosen = {"task.name": task.name}
    if "direction" in made:
        chosen["direction"] = made["direction"]
    for name in ("seed", "chat_template", "bos", "spans"):
        if name in made:
            chosen[f"task.{name}"] = made[name]
    options, sizes = made.get("options"), made.get("sizes")
    if isinstance(options, Mapping):
        chosen["task.options"] = {str(name): value for name, value in options.items()}
    if isinstance(sizes, Mapping) and _takes_sizes(task.name):
        chosen["task.sizes"] = dict(sizes)
    return chosen


def _takes_sizes(name: str) -> bool:
    """Whether a task's splits have sizes to choose; one that is made of all inputs decides itself."""
    try:
        return get_task(name).sizes is not None
    except ValueError:
        return True  # pairs in memory
