"""What a run is asked for: model, task, method, what is compared with what. `pruning.runs.settings` says how.

A request is decided: nothing in it depends on a default elsewhere. `pruning.runs.decide` makes it from what a user
chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from circuitgraph.circuits.edge_scores import ORDERS
from circuitgraph.circuits.selection.rules import RULES, RuleOptions, check_rule
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.universe_rules import CHOICES
from pruning.evaluation.sampled import N_RANDOM_PROMPTS
from pruning.methods.edge_pruning.recipes import OBJECTIVE_NAMES, Recipe
from pruning.methods.method import require_one_direction
from pruning.methods.registry import METHODS
from pruning.methods.score_source import TRAINED, check_source
from pruning.prompts.spans import WAYS
from pruning.prompts.swapped import BOTH, DIRECTIONS, NOISING, require_direction
from pruning.prompts.text_rules import SPLITS
from pruning.runs.fields import Kind, check_fields, checked_table, number, one_of, plain
from pruning.runs.method_settings import method_with
from pruning.whole_numbers import MOST_SEED

N_EFFECTS = 150
"""Of how many edges the effects are measured beside a run."""
SURVIVORS_BY = "gate-importance"
"""The method that survivors are chosen by, where nothing was chosen."""
FRONT = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
"""The sparsities of further circuits that a ranking for all of them is cut at."""
BY_RECIPE = TRAINED
"""Registered methods that a run trains by a recipe, which has their settings; all others rank or search."""
OWN = "own"
"""The rule that takes the circuit of a method that searches for one, as it is."""
DEFAULT_SPARSITY = 0.97
"""The share of edges to cut by the scores of a method, where nothing was chosen; that of the recipe `quick`."""
SPANNED = (
    "eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "conductance", "gate-importance", "gate-gradients",
    "random", "subnetwork-probing",
)  # fmt: skip
"""Methods that rank edges of a universe with spans; all others walk its layers as if an edge were one."""
RULES_OF_RUN = (OWN, *(name for name in RULES if name != "stable"))
"""How a ranking becomes a circuit in a run; the rule `stable` takes several rankings."""
_SIZE = Kind(base=int, optional=False, least=0, none="none", names=(), label="size")


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A model and the granularity of its graph.

    Attributes:
        name: The model, see `circuitgraph.load_model`.
        embeddings: `joint` or `split`.
        kv_heads: `native` or `per_query`.
        qkv: `split` or `joint`.
        vectors: A file of vectors that are added to the model, see `circuitgraph.save_vectors`; or None.
    """

    name: str
    embeddings: str = one_of(*CHOICES["embeddings"], default="joint")
    kv_heads: str = one_of(*CHOICES["kv_heads"], default="native")
    qkv: str = one_of(*CHOICES["qkv"], default="split")
    vectors: str | None = None

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
        spans: How prompts, and with them the model's edges, are divided into spans of token positions: `task` or
            `positions`; None divides nothing.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = number(0, most=MOST_SEED)
    chat_template: bool = False
    bos: str = one_of("auto", "yes", "no", default="auto", kind="choice of bos")
    spans: str | None = one_of(*WAYS, default=None, kind="way to divide prompts into spans")

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "task.")
        for split, size in self.sizes.items():
            if split not in SPLITS:
                raise ConfigurationError(f"task.sizes has {split!r}; expected {', '.join(SPLITS)}")
            _SIZE.checked(f"task.sizes.{split}", size)


@dataclass(frozen=True, kw_only=True)
class MethodRequest:
    """A method that ranks edges or searches for a circuit, and trains by no recipe.

    Attributes:
        name: Its name, see `pruning.methods.registry`.
        options: Its own settings, those that were chosen.
    """

    name: str = one_of(*(name for name in METHODS if name not in BY_RECIPE), kind="method")
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "method.")
        method_with(self.name, self.options)


@dataclass(frozen=True, kw_only=True)
class SelectionRequest:
    """How the scores of a method become a circuit.

    Attributes:
        rule: `top`, `threshold`, `greedy` or `connected` (see `circuitgraph.circuits.selection`), or `own`: the circuit
            that the method itself found.
        sparsity: Share of edges to cut, before dangling ones are dropped; None with the rule `threshold`, and where the
            rule `own` takes whatever the method finds.
        threshold: Rule `threshold` only: the least score.
        by: What edges are ranked by: `strength`, `size` or `signed`.
        exactly: Rule `connected` only: whether exactly as many edges are kept, or at most.
        time_limit: Rule `connected` only: seconds for the solver.
    """

    rule: str = one_of(*RULES_OF_RUN, default="top")
    sparsity: float | None = None
    threshold: float | None = None
    by: str = one_of(*ORDERS, default="strength", kind="order")
    exactly: bool = True
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        """Check every field, and that they go together."""
        check_fields(self, "selection.")
        if self.sparsity is not None:
            check_sparsity("target sparsity", self.sparsity)
        if self.rule != OWN:
            check_rule(self.rule, self.options(None if self.sparsity is None else 0))

    def options(self, n: int | None) -> RuleOptions:
        """What the rule is told.

        Args:
            n: How many edges.
        """
        return RuleOptions(n=n, threshold=self.threshold, by=self.by, exactly=self.exactly, time_limit=self.time_limit)


def check_sparsity(name: str, sparsity: float) -> None:
    """Refuse what is no share.

    Args:
        name: What the message calls it.
        sparsity: What was given.

    Raises:
        ConfigurationError: It is below 0 or above 1.
    """
    if not 0 <= sparsity <= 1:
        percent = f"; did you mean {sparsity / 100:g}?" if 1 < sparsity <= 100 else ""
        raise ConfigurationError(f"{name}: a sparsity is from 0 to 1; got {sparsity:g}{percent}")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is asked for: gates trained by a recipe, or another method with a rule of selection.

    Attributes:
        model: The model and its graph.
        task: The prompts.
        recipe: The settings of the training, where gates are trained.
        method: The method, where none are.
        selection: How its scores become a circuit.
        direction: `noising`: the clean prompt, cut edges carry the corrupted one; `denoising`: the pairs swapped, with
            the full model on the corrupted prompt as the teacher; `both`: found by both together, and measured by
            noising (see `pruning.runs.rank.ranked_both` and `pruning.runs.trained_twice`).
        objective: What is compared; None with a method that compares nothing.
        ablation: What cut edges carry.
        seed: Of training and of the random circuits.
        splits: Splits to evaluate on; None takes validation and test, where they have prompts.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of a split they run, drawn once; None for all.
        n_effects: Of how many edges, and all heads and MLPs, the effects are measured; 0 for none at all.
        survivors: How many edges are trained at all: the strongest by the scores of `survivors_by`, all others are
            removed in the graph; None trains all.
        survivors_by: The name of a method that ranks edges, or the place of saved scores; with survivors only.
        front: Sparsities at which further circuits of the same ranking are kept and measured, on the last of the
            splits; None takes a usual few where the recipe ranks for all (control `nested`), else none. With a method
            all are cut from its scores, by the same rule, or by `top` where the rule is `own`.
        teacher_top_k: How many of the full model's likeliest tokens the training is towards, and the mass of all
            others as one; None keeps the whole vocabulary. It stands here and not among the settings of how a run is
            done, since it changes the loss, and so the circuit.

    Raises:
        ConfigurationError: A value of another type, or that makes no sense.
        UnknownNameError: No such objective, ablation or split.
    """

    model: ModelRequest
    task: TaskRequest
    recipe: Recipe | None = None
    method: MethodRequest | None = None
    selection: SelectionRequest | None = None
    direction: str = one_of(*DIRECTIONS, default=NOISING)
    objective: str | None = one_of(*OBJECTIVE_NAMES)
    ablation: str = one_of(*ABLATIONS)
    seed: int = number(0, most=MOST_SEED)
    splits: tuple[str, ...] | None = None
    n_random: int = number(10)
    n_random_prompts: int | None = number(N_RANDOM_PROMPTS, least=1, none="all")
    n_effects: int = number(N_EFFECTS)
    survivors: int | None = number(None, least=1)
    survivors_by: str | None = None
    front: tuple[float, ...] | None = None
    teacher_top_k: int | None = number(None, least=1)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        if (self.recipe is None) == (self.method is None) or (self.selection is None) != (self.method is None):
            raise ConfigurationError(
                "a run trains gates by a recipe, or has a method and a selection; give the one or the other"
            )
        if self.task.spans:
            _check_spans(self)
        if self.survivors is not None and self.recipe is None:
            raise ConfigurationError("survivors are the edges whose gates are trained, and nothing is trained here")
        if (self.survivors is None) != (self.survivors_by is None):
            raise ConfigurationError("survivors says how many edges are trained, survivors_by which; give both")
        if self.survivors_by is not None:
            check_source("method for survivors", self.survivors_by)
        if self.recipe is not None and self.objective is None:
            raise ConfigurationError("objective: training compares something; name what")
        require_direction(self.direction, self.ablation)
        if self.method is not None:
            require_one_direction(method_with(self.method.name, self.method.options), self.direction)
        twice = [name for name in dict.fromkeys(self.splits or ()) if (self.splits or ()).count(name) > 1]
        if twice:
            raise ConfigurationError(f"splits names {', '.join(twice)} more than once")
        if self.front and self.selection is not None and self.selection.rule == "threshold":
            raise ConfigurationError(
                "rule 'threshold' goes by a score: it has no circuits of several sparsities (front)"
            )
        for sparsity in self.front or ():
            check_sparsity("front", sparsity)

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the training; 0 where nothing is trained by a recipe."""
        return 0 if self.recipe is None else self.recipe.steps

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities of further circuits, rising."""
        if self.front is None:
            return FRONT if self.recipe is not None and self.recipe.control == "nested" else ()
        return tuple(sorted(set(self.front)))

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return plain(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> RunRequest:
        """What `to_dict` gave; fields that are left out have their defaults.

        Args:
            found: Values by field, of `model`, `task`, `recipe`, `method` and `selection` a table each.

        Raises:
            ConfigurationError: A value of another type, or one is missing that has no default.
            UnknownNameError: No such field.
        """
        made = checked_table(found, cls, "setting of a run")
        for name, within in _TABLES.items():
            if made.get(name) is not None:
                made[name] = within(**checked_table(made[name], within, f"{name} setting", f"{name}."))
        return cls(**made)


_TABLES: dict[str, type] = {
    "model": ModelRequest,
    "task": TaskRequest,
    "recipe": Recipe,
    "method": MethodRequest,
    "selection": SelectionRequest,
}


def _check_spans(request: RunRequest) -> None:
    """Refuse what does not know spans of token positions.

    Raises:
        ConfigurationError: Something was asked for that does not.
    """
    recipe, method = request.recipe, request.method
    not_known = {
        f"method {method.name!r}" if method else "": method is not None and method.name not in SPANNED,
        f"warm_start {recipe.warm_start!r}" if recipe else "": recipe is not None
        and recipe.warm_start in METHODS
        and recipe.warm_start not in SPANNED,
        f"survivors by {request.survivors_by!r}": request.survivors is not None
        and request.survivors_by in METHODS
        and request.survivors_by not in SPANNED,
        f"n_effects {request.n_effects} (single edges cut)": request.n_effects > 0,
        "direction 'both'": request.direction == BOTH,
    }
    refused = [what for what, asked in not_known.items() if asked]
    if refused:
        raise ConfigurationError(
            f"{', '.join(refused)}: does not know spans of token positions; choose another, or leave --spans out"
        )
