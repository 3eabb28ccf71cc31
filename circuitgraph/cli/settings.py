"""A model before it is loaded, and what commands on saved circuits take from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from circuitgraph.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from circuitgraph.architectures import ModelShape
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.forward.vectors import Vector
    from circuitgraph.graph.universe import Universe
    from circuitgraph.models import LoadedModel

TRACR = "tracr"


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """A model as its config describes it, no weights loaded.

    Attributes:
        name: As the user gave it.
        config: Its config.
        shape: Its sizes.
        universe: Its graph's universe.
        vectors: What is added to it.
    """

    name: str
    config: Any
    shape: ModelShape
    universe: Universe
    vectors: tuple[Vector, ...] = ()

    @property
    def is_tracr(self) -> bool:
        """Whether it is a Tracr-compiled program."""
        return self.config.model_type == TRACR

    def load(self, *, dtype: str, device: str) -> LoadedModel:
        """Load the weights and the tokenizer."""
        from circuitgraph.models import load_model

        return load_model(self.name, dtype=dtype, device=device)

    def compile(self, loaded: LoadedModel, *, verify: bool) -> CompiledModel:
        """Compile the loaded model with the choices made."""
        from circuitgraph.compiled.compile import compile_model

        universe = self.universe
        return compile_model(
            loaded,
            embeddings=universe.embeddings,
            kv_heads=universe.kv_heads,
            qkv=universe.qkv,
            verify=verify,
            vectors=self.vectors,
        )


def plan_of(compiled: CompiledModel) -> ModelPlan:
    """The plan of a model that is compiled already.

    Args:
        compiled: The model.
    """
    model: Any = compiled.model
    return ModelPlan(
        name=compiled.name, config=model.config, shape=compiled.shape, universe=compiled.universe,
        vectors=compiled.vectors,
    )  # fmt: skip


def plan_model(name: str, *, vectors: str | Path | None = None, **choices: str | None) -> ModelPlan:
    """Read a model's config and settle its universe.

    Args:
        name: The model.
        vectors: A file of vectors that are added to it.
        choices: The granularity of its graph, `embeddings`, `kv_heads` and `qkv`; None takes the family's own.

    Returns:
        The plan.

    Raises:
        ModelNotFoundError: There is no such model.
        UnsupportedModelError: Its architecture is not understood.
        ConfigurationError: The choices do not fit it.
        CircuitFormatError: The file holds no vectors.
    """
    from circuitgraph.architectures import family_of
    from circuitgraph.architectures.universe import decided_choices, universe_of
    from circuitgraph.models import load_config

    config = load_config(name)
    family = family_of(config.model_type)
    family.check_config(config)
    shape = family.shape(config)
    universe = universe_of(family, shape, **decided_choices(family.name, choices))
    if vectors is None:
        return ModelPlan(name=name, config=config, shape=shape, universe=universe)
    from circuitgraph.compiled.vector_files import load_vectors

    added = load_vectors(vectors)
    universe = replace(universe, virtual=tuple(vector.name for vector in added))
    return ModelPlan(name=name, config=config, shape=shape, universe=universe, vectors=added)


def ablation_of_circuit(chosen: str | None, circuit: Circuit) -> str:
    """What cut edges carry when a saved circuit runs: the user's choice, else what it was found with.

    Raises:
        UnknownNameError: No such ablation.
    """
    from circuitgraph.graph.ablations import ABLATIONS

    ablation = chosen or circuit.ablation
    if ablation not in ABLATIONS:
        raise UnknownNameError.of("ablation", ablation, ABLATIONS)
    return ablation


def settle_sizes(**sizes: int | None) -> dict[str, int] | None:
    """Prompts by split, of those that were given; None if none was.

    Raises:
        ConfigurationError: A negative size.
    """
    given = {split: size for split, size in sizes.items() if size is not None}
    for split, size in given.items():
        if size < 0:
            raise ConfigurationError(f"--{split}-size must be 0 or more; got {size}")
    return given or None


def task_options(task: str, given: dict[str, str]) -> dict[str, object]:
    """A task's options as they were typed, numbers read where the defaults are numbers.

    Args:
        task: The task.
        given: Options as text; unknown ones are left for the task to refuse.

    Raises:
        UnknownNameError: No such task.
        ConfigurationError: A number was expected.
    """
    from pruning.tasks import get_task

    if not given:
        return {}
    known = get_task(task)
    return {name: known.read_option(name, text, f"--task-option {name}") for name, text in given.items()}


def parse_named(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read `NAME=VALUE` options.

    Raises:
        ConfigurationError: No `=`, or nothing on one side of it.

    Examples:
        >>> parse_named("--regime", ["ask=ask.jsonl"])
        [('ask', 'ask.jsonl')]
    """
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise ConfigurationError(f"{option}: expected NAME=VALUE; got {text!r}")
        pairs.append((name.strip(), value.strip()))
    return pairs


def named_values(option: str, texts: Sequence[str]) -> dict[str, str]:
    """The same where a name has one value.

    Raises:
        ConfigurationError: As of `parse_named`, or a name with two values.

    Examples:
        >>> named_values("--group", ["ioi=copying", "ioi=copying"])
        {'ioi': 'copying'}
    """
    pairs = parse_named(option, texts)
    given = dict(pairs)
    for name, value in pairs:
        if given[name] != value:
            raise ConfigurationError(f"{option}: {name!r} is given twice, as {value!r} and as {given[name]!r}")
    return given


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as `0,1,2`.

    Raises:
        ConfigurationError: Something else, or a seed twice.

    Examples:
        >>> parse_seeds("0, 1,2")
        (0, 1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigurationError(f"--seeds: expected numbers from 0 with commas between, such as 0,1,2; got {text!r}")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"--seeds: each seed once; got {text!r}")
    return seeds


def parse_layers(option: str, text: str, n_layers: int) -> range:
    """Read a layer, or a range of them.

    Args:
        option: The option's name, for messages.
        text: Such as `3` or `2-5`, counted from 0, both ends included.
        n_layers: How many layers the model has.

    Raises:
        ConfigurationError: Something else, or no such layers.

    Examples:
        >>> parse_layers("--layers", "2-5", 12)
        range(2, 6)
    """
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < n_layers):
        raise ConfigurationError(
            f"{option}: expected a layer or a range such as 2-5, from 0 to {n_layers - 1}; got {text!r}"
        )
    return range(int(first), int(last) + 1)
