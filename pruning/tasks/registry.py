"""Where tasks are registered and looked up.

Built-in task modules register themselves when the first task is looked up. Another package's tasks are
found through the entry-point group `circuitgraph.tasks`: an entry point's name is the task's name, its
value the module whose `@register_task` makes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext

ENTRY_POINT_GROUP = "circuitgraph.tasks"
DEFAULT_SIZES: Mapping[str, int] = MappingProxyType({"train": 200, "validation": 200, "test": 200})
_BUILT_IN = (
    "agreement", "antonyms", "boolean", "capitals", "docstring", "entrainment", "facts",
    "gendered_pronoun", "greater_than", "hypernymy", "induction", "ioi", "jsonl", "negative_polarity", "nonce_plurals",
    "reflexive_agreement", "tracr",
)  # fmt: skip

TaskFunction = Callable[[TaskContext], Iterable[PromptPair] | Mapping[str, EncodedPairs]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A registered task.

    Attributes:
        name: What users call it; a name ending in `:PATH` takes a file.
        description: One sentence.
        objective: The objective it is trained with by default.
        sizes: The prompts of each split by default; None if the task itself decides.
        options: Its own options, with their defaults.
        example: A rendered example, where none can be made without a model.
        function: What makes the prompts.
        shares_prompts: Whether its splits may hold the same prompts.
    """

    name: str
    description: str
    objective: str
    sizes: Mapping[str, int] | None
    options: Mapping[str, object]
    example: str | None
    function: TaskFunction
    shares_prompts: bool = False

    def read_option(self, name: str, text: str, called: str) -> object:
        """The value of an option as it was typed: a number where the default is one.

        Args:
            name: The option; of one that the task does not have, the text is given back.
            text: What was typed.
            called: What the message calls the option.

        Raises:
            ConfigurationError: A number was expected.
        """
        default = self.options.get(name)
        if not isinstance(default, int):
            return text
        try:
            return int(text)
        except ValueError:
            raise ConfigurationError(f"{called}: expected a number, such as {default}; got {text!r}") from None


_TASKS: dict[str, Task] = {}


def register_task(
    name: str,
    *,
    description: str,
    objective: str = "kl",
    sizes: Mapping[str, int] | None = DEFAULT_SIZES,
    options: Mapping[str, object] | None = None,
    example: str | None = None,
    shares_prompts: bool = False,
) -> Callable[[TaskFunction], TaskFunction]:
    """Register a generator as a task; use as a decorator.

    The function gets a `TaskContext`. Usually it yields `PromptPair`s, each once and in random order, from
    which the splits are dealt: a pair with a `split` goes there, the others fill test, then validation,
    then train, so that more training prompts leave the test split as it is. A function that makes token ids
    itself returns the splits instead, as `EncodedPairs` by name. Prompts of the same tokens in two splits are
    refused, unless the task says that it is defined by all its inputs (`shares_prompts`).

    Args:
        name: The task's name.
        description: One sentence for `circuitgraph tasks`.
        objective: The default objective.
        sizes: The default sizes; None if the function decides.
        options: Options that `load_task` takes for it, with defaults.
        example: A rendered example; by default one is made.
        shares_prompts: Whether its splits may hold the same prompts.

    Returns:
        The decorator; it gives the function back unchanged.

    Raises:
        ConfigurationError: The name is taken.

    Examples:
        >>> @register_task("parity", description="Whether a number is even.")
        ... def parity(context):
        ...     for (n,) in context.product(range(2, 100)):
        ...         odd = ["even", "odd"]
        ...         yield PromptPair(
        ...             clean=f"The number {n} is", corrupted=f"The number {n - 1} is",
        ...             answer=" " + odd[n % 2], wrong_answer=" " + odd[(n - 1) % 2],
        ...         )
        >>> unregister_task("parity")
    """

    def decorate(function: TaskFunction) -> TaskFunction:
        taken = _TASKS.get(name)
        if taken is not None and _home(taken.function) != _home(function):
            raise ConfigurationError(f"a task named {name!r} is already registered; choose another name")
        _TASKS[name] = Task(
            name=name,
            description=description,
            objective=objective,
            sizes=sizes,
            options=options or {},
            example=example,
            function=function,
            shares_prompts=shares_prompts,
        )
        return function

    return decorate


def _home(function: TaskFunction) -> tuple[str, str]:
    """Say where a function was written; running its definition again gives the same."""
    return function.__module__, function.__qualname__


def unregister_task(name: str) -> None:
    """Forget a task, for tests and notebooks."""
    if name not in _TASKS:
        raise UnknownNameError.of("task", name, _TASKS)
    del _TASKS[name]


def task_names() -> list[str]:
    """List every task, those of other packages included, sorted."""
    _load_built_in()
    return sorted({*_TASKS, *_plugins()})


def get_task(name: str) -> Task:
    """Look a task up.

    Args:
        name: The task's name, or `jsonl:PATH`.

    Returns:
        The task; for a name with a path the one registered as `…:PATH`.

    Raises:
        UnknownNameError: There is no such task.
        ConfigurationError: Another package's task cannot be imported.
    """
    _load_built_in()
    with_path = name.partition(":")[0] + ":PATH"
    if name in _TASKS:
        return _TASKS[name]
    if with_path in _TASKS:
        return _TASKS[with_path]
    plugin = _plugins().get(name)
    if plugin is None:
        path = name if name.endswith((".jsonl", ".json")) else "PATH"
        raise UnknownNameError.of("task", name, task_names(), f"Prompts of your own: jsonl:{path}.")
    _load_plugin(plugin)
    return _TASKS[name]


def _load_built_in() -> None:
    """Import the built-in task modules, which register themselves."""
    for module in _BUILT_IN:
        importlib.import_module(f"pruning.tasks.{module}")


def _plugins() -> dict[str, EntryPoint]:
    """Find the tasks that other packages announce."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load_plugin(point: EntryPoint) -> None:
    """Import another package's task and check that it registered itself."""
    try:
        point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"task {point.name!r} is announced by {point.value!r}, which cannot be imported ({error}); "
            "repair or remove that package"
        ) from error
    if point.name not in _TASKS:
        raise ConfigurationError(
            f"task {point.name!r} is announced by {point.value!r}, but importing that registers no such "
            f"task; decorate its generator with @register_task({point.name!r}, …)"
        )
