"""Options that belong together, as one parameter of a command.

A command that is decorated with `grouped` takes a dataclass of options as one parameter; on the command line each of
its fields is an option. So `discover`, `check` and `study` declare the settings of a run once.

Options of a run have no defaults of their own: what is not given is not chosen, and `pruning.runs.decide` has the
rule for it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from circuitgraph.cli import method_options, options, resume_options
from circuitgraph.cli.prompt_options import Spans
from circuitgraph.cli.settings import named_values
from circuitgraph.errors import ConfigurationError

_GIB = 2**30
USUAL: Mapping[str, Any] = {"settings.disk_cache_bytes": 2 * _GIB}
"""What the command line chooses by itself; from Python there is no disk cache unless one is given."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make each field of a command's dataclass parameters an option.

    Args:
        command: The command's function.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if not is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = hint
        within = get_type_hints(hint, include_extras=True)
        for one in fields(hint):
            default = inspect.Parameter.empty if one.default is MISSING else one.default
            parameters.append(
                inspect.Parameter(
                    one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=within[one.name]
                )
            )

    @functools.wraps(command)
    def with_groups(**given: Any) -> None:
        made = {name: cls(**{one.name: given.pop(one.name) for one in fields(cls)}) for name, cls in groups.items()}
        command(**given, **made)

    about: Any = with_groups
    about.__signature__ = inspect.Signature(parameters)
    about.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_groups


def _given(group: Any, names: dict[str, str]) -> dict[str, Any]:
    """The options of a group that were given, by the full names of the settings they choose."""
    values = {name: getattr(group, option) for option, name in names.items()}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What is learnt, and how."""

    method: method_options.Method = None
    recipe: options.Recipe = None
    rule: method_options.Rule = None
    target_sparsity: options.TargetSparsity = None
    warm_start: method_options.WarmStart = None
    survivors: method_options.Survivors = None
    survivors_by: method_options.SurvivorsBy = None
    steps: options.Steps = None
    batch_size: options.BatchSize = None
    direction: options.DirectionOfRun = None
    ablation: options.Ablation = None
    objective: options.Objective = None
    teacher_top_k: options.TeacherTopK = None

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        from pruning.runs.choice_files import read_recipe_file
        from pruning.runs.choices import METHOD, of_method

        found: dict[str, Any] = {} if self.method is None else of_method(self.method)
        if self.recipe is not None:
            is_file = self.recipe.endswith(".toml") or Path(self.recipe).is_file()
            found |= read_recipe_file(self.recipe) if is_file else {"recipe": self.recipe}
        if self.target_sparsity is not None:
            first, *others = _sparsities(self.target_sparsity)
            if others:
                usual = {} if METHOD in found else {"recipe": "nested"}
                found = {**usual, "front": (first, *others)} | found
            found["recipe.target_sparsity"] = first
        names = {name: f"recipe.{name}" for name in ("steps", "batch_size", "warm_start")}
        names |= {
            name: name for name in ("direction", "ablation", "objective", "teacher_top_k", "survivors", "survivors_by")
        }
        names["rule"] = "selection.rule"
        return found | _given(self, names)


def _sparsities(text: str) -> list[float]:
    """One sparsity or several.

    Raises:
        ConfigurationError: One is no number.
    """
    from circuitgraph.errors import ConfigurationError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(
            f"--target-sparsity: expected a share such as 0.97, or several such as 0.9,0.95,0.99; got {text!r}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """The granularity of the graph, and what is added to the model."""

    embeddings: options.Embeddings = None
    kv_heads: options.KvHeads = None
    qkv: options.Qkv = None
    vectors: options.Vectors = None

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        return _given(self, {name: f"model.{name}" for name in ("embeddings", "kv_heads", "qkv", "vectors")})


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompts."""

    train_size: options.TrainSize = None
    validation_size: options.ValidationSize = None
    test_size: options.TestSize = None
    chat_template: options.ChatTemplateOfRun = None
    bos: options.BosOfRun = None
    spans: Spans = None

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        names = {f"{split}_size": f"task.sizes.{split}" for split in ("train", "validation", "test")}
        return _given(self, {**names, **{name: f"task.{name}" for name in ("chat_template", "bos", "spans")}})


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where and in how much memory."""

    device: options.DeviceOfRun = None
    dtype: options.DtypeOfRun = None
    cache_gib: options.CacheGib = None
    disk_cache_gib: options.DiskCacheGibOfRun = None
    cache_dir: options.CacheDir = None
    memory_gib: options.MemoryGibOfRun = None
    no_verify: options.NoVerify = False

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        found = _given(self, {name: f"settings.{name}" for name in ("device", "dtype")})
        sizes = {"cache_gib": "cache_bytes", "disk_cache_gib": "disk_cache_bytes", "memory_gib": "memory_bytes"}
        for option, name in sizes.items():
            given = getattr(self, option)
            if given is not None:
                if not math.isfinite(given):
                    raise ConfigurationError(f"--{option.replace('_', '-')} must be a number of GiB; got {given}")
                found[f"settings.{name}"] = round(given * _GIB)
        if self.cache_dir is not None:
            found["settings.disk_cache_folder"] = str(self.cache_dir)
        return found | ({"settings.verify": False} if self.no_verify else {})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which model, which task, and what is measured; every setting by name, and those of an earlier run."""

    model: options.ModelOfRun = None
    task: options.TaskOfRun = None
    task_option: options.TaskOption = None
    seed: options.SeedOfRun = None
    n_random: options.NRandomOfRun = None
    random_prompts: options.RandomPromptsOfRun = None
    like: options.Like = None
    set_: options.Set = None

    def over(self, *groups: Any) -> dict[str, Any]:
        """What was chosen in all: an earlier run's settings, then the options', then those of `--set`.

        Args:
            groups: Other groups of options.

        Raises:
            ConfigurationError: A value of another type, or a file that cannot be read.
            UnknownNameError: No such setting.
        """
        from pruning.runs.choice_files import read_run_file
        from pruning.runs.choices import METHOD, read_settings, with_method

        chosen = dict(USUAL)
        chosen |= {} if self.like is None else read_run_file(self.like)
        for group in (self, *groups):
            found = group.chosen()
            if METHOD in found:
                chosen = with_method(chosen, found[METHOD])
            if "recipe" in found:  # another recipe: what an earlier run changed of its own does not hold
                chosen = {name: value for name, value in chosen.items() if not name.startswith("recipe.")}
            chosen |= found
        by_name = read_settings(self.set_ or (), method=chosen.get(METHOD))
        return (with_method(chosen, by_name[METHOD]) if METHOD in by_name else chosen) | by_name

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        named = named_values("--task-option", self.task_option or [])
        found: dict[str, Any] = {f"task.options.{name}": value for name, value in named.items()}
        if self.random_prompts is not None:
            found["n_random_prompts"] = options.count_or_all(self.random_prompts)
        return found | _given(
            self, {"model": "model.name", "task": "task.name", "seed": "seed", "n_random": "n_random"}
        )


@dataclass(frozen=True, kw_only=True)
class EndOptions:
    """What is done with a run."""

    resume: resume_options.Resume = None
    time_limit: resume_options.TimeLimit = None
    strict: options.Strict = False
    dry_run: options.DryRun = False
    overwrite: options.Overwrite = False
    as_json: options.Json = False

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by the full name of a setting."""
        if self.time_limit is None:
            return {}
        from pruning.runs.choices import read_settings

        return read_settings([f"settings.time_limit_seconds={self.time_limit}"], "--time-limit")
