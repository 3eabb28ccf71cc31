"""What a run is asked for: model, task, method, what is compared with what. `pruning.runs.settings` says how.

A request is decided: nothing in it depends on a default elsewhere. `pruning.runs.decide` makes it from what a user
chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.universe import CHOICES
from pruning.evaluation.sampled import N_RANDOM_PROMPTS
from pruning.methods.edge_pruning.recipes import OBJECTIVE_NAMES, Recipe
from pruning.prompts.text_rules import SPLITS
from pruning.runs.fields import Kind, check_fields, checked_table, number, one_of, plain
from pruning.whole_numbers import MOST_SEED

N_EFFECTS = 150
"""Of how many edges the effects are measured beside a run."""
FRONT = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
"""The sparsities of further circuits that a ranking for all of them is cut at."""
_SIZE = Kind(base=int, optional=False, least=0, none="none", names=(), label="size")


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A model and the granularity of its graph.

    Attributes:
        name: The model, see `circuitgraph.load_model`.
        embeddings: `joint` or `split`.
        kv_heads: `native` or `per_query`.
        qkv: `split` or `joint`.
    """

    name: str
    embeddings: str = one_of(*CHOICES["embeddings"], default="joint")
    kv_heads: str = one_of(*CHOICES["kv_heads"], default="native")
    qkv: str = one_of(*CHOICES["qkv"], default="split")

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "model.")


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """Prompts, as `pruning.load_task` makes them.

    Attributes:
        name: The task.
        options: Its own options.
        sizes: Prompts by split; splits not named keep the task's default.
        seed: Which prompts are drawn.
        chat_template: Whether each prompt is wrapped as a user's message.
        bos: `auto`, `yes` or `no`.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = number(0, most=MOST_SEED)
    chat_template: bool = False
    bos: str = one_of("auto", "yes", "no", default="auto", kind="choice of bos")

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "task.")
        for split, size in self.sizes.items():
            if split not in SPLITS:
                raise ConfigurationError(f"task.sizes has {split!r}; expected {', '.join(SPLITS)}")
            _SIZE.checked(f"task.sizes.{split}", size)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is asked for.

    Attributes:
        model: The model and its graph.
        task: The prompts.
        recipe: The method's settings.
        objective: What is compared.
        ablation: What cut edges carry.
        seed: Of training and of the random circuits.
        splits: Splits to evaluate on; None takes validation and test, where they have prompts.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of a split they run, drawn once; None for all.
        n_effects: Of how many edges, and all heads and MLPs, the effects are measured; 0 for none at all.
        front: Sparsities at which further circuits of the same ranking are kept and measured, on the last of the
            splits; None takes a usual few where the recipe ranks for all (control `nested`), else none.
        teacher_top_k: How many of the full model's likeliest tokens the training is towards, and the mass of all
            others as one; None keeps the whole vocabulary. It stands here and not among the settings of how a run is
            done, since it changes the loss, and so the circuit.

    Raises:
        ConfigurationError: A value of another type, or that makes no sense.
        UnknownNameError: No such objective, ablation or split.
    """

    model: ModelRequest
    task: TaskRequest
    recipe: Recipe
    objective: str = one_of(*OBJECTIVE_NAMES)
    ablation: str = one_of(*(name for name in ABLATIONS if name != "optimal"))
    seed: int = number(0, most=MOST_SEED)
    splits: tuple[str, ...] | None = None
    n_random: int = number(10)
    n_random_prompts: int | None = number(N_RANDOM_PROMPTS, least=1, none="all")
    n_effects: int = number(N_EFFECTS)
    front: tuple[float, ...] | None = None
    teacher_top_k: int | None = number(None, least=1)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        twice = [name for name in dict.fromkeys(self.splits or ()) if (self.splits or ()).count(name) > 1]
        if twice:
            raise ConfigurationError(f"splits names {', '.join(twice)} more than once")
        for sparsity in self.front or ():
            if not 0 <= sparsity <= 1:
                percent = f"; did you mean {sparsity / 100:g}?" if 1 < sparsity <= 100 else ""
                raise ConfigurationError(f"front: a sparsity is from 0 to 1; got {sparsity:g}{percent}")

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities of further circuits, rising."""
        if self.front is None:
            return FRONT if self.recipe.control == "nested" else ()
        return tuple(sorted(set(self.front)))

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return plain(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> RunRequest:
        """What `to_dict` gave; fields that are left out have their defaults.

        Args:
            found: Values by field, of `model`, `task` and `recipe` a table each.

        Raises:
            ConfigurationError: A value of another type, or one is missing that has no default.
            UnknownNameError: No such field.
        """
        made = checked_table(found, cls, "setting of a run")
        for name, within in (("model", ModelRequest), ("task", TaskRequest), ("recipe", Recipe)):
            made[name] = within(**checked_table(made[name], within, f"{name} setting", f"{name}."))
        return cls(**made)
