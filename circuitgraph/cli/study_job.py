"""A study with everything decided and loaded: what it is, what it needs, and how to start it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.job import Job, about_model, telling_memory
from circuitgraph.cli.output import bytes_text, print_table, say
from circuitgraph.cli.progress import watching
from circuitgraph.cli.settings import ModelPlan, settle_objective
from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.frozen.disk import DiskCache
    from pruning.methods.edge_pruning.recipes import Recipe
    from pruning.methods.edge_pruning.state import StepRecord
    from pruning.regimes.study import Study
    from pruning.runs.checking.preflight import Preflight
    from pruning.tasks import TaskData

_QUARTERS = 4


@dataclass(frozen=True, kw_only=True)
class StudyJob:
    """A study, ready to start.

    Attributes:
        plan: The model as its config describes it.
        compiled: The model itself.
        tasks: The prompts by regime.
        circuits: Circuits already found, by regime.
        seeds: Seeds of the trainings.
        recipe: The settings.
        objective: What is compared; None takes the recipe's, else each task's own.
        ablation: What cut edges carry.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for them, or None.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.
        memory_bytes: What a training has to fit into; None takes what is free.
    """

    plan: ModelPlan
    compiled: CompiledModel
    tasks: Mapping[str, TaskData]
    circuits: Mapping[str, Sequence[Circuit]]
    seeds: Sequence[int]
    recipe: Recipe
    objective: str | None
    ablation: str
    cache_bytes: int
    disk_cache: DiskCache | None
    teacher_top_k: int | None
    memory_bytes: int | None

    @cached_property
    def trainings(self) -> dict[str, Job]:
        """The training of each regime that has no circuits yet."""
        return {
            name: Job(
                plan=self.plan,
                compiled=self.compiled,
                task=task,
                recipe=self.recipe,
                objective=settle_objective(self.objective, self.recipe, task.name),
                ablation=self.ablation,
                seed=self.seeds[0],
                cache_bytes=self.cache_bytes,
                disk_cache=self.disk_cache,
                teacher_top_k=self.teacher_top_k,
                memory_bytes=self.memory_bytes,
            )
            for name, task in self.tasks.items()
            if not self.circuits.get(name)
        }

    def check(
        self, *, n_random: int = 5, n_random_prompts: int | None = 32, strict: bool = False
    ) -> dict[str, Preflight]:
        """Refuse what could not be trained or measured, before it is tried.

        Args:
            n_random: Random circuits for each circuit, for the time.
            n_random_prompts: On how many prompts they run.
            strict: Whether doubts are errors.

        Returns:
            What was looked at, by regime.

        Raises:
            ConfigurationError: Something stands in the way in some regime; the message has all of it.
        """
        from pruning.runs.checking.preflight import preflight
        from pruning.runs.checking.requirements import raise_errors

        found = {
            name: self.trainings[name].look(n_random=n_random, n_random_prompts=n_random_prompts, splits=("test",))
            if name in self.trainings
            else preflight(
                self.compiled, task, self.recipe, ablation=self.ablation, splits=("test",), training=False,
                estimate_time=False,
            )
            for name, task in self.tasks.items()
        }  # fmt: skip
        every = [replace(one, text=f"{name}: {one.text}") for name, seen in found.items() for one in seen.findings]
        raise_errors(every, strict=strict)
        return found

    def to_dict(self) -> dict[str, Any]:
        """What would run, for `--dry-run --json`."""
        return {
            **about_model(self.compiled),
            "regimes": {
                name: {
                    "task": task.name,
                    "sizes": {split: len(pairs) for split, pairs in task.splits.items()},
                    "data_hash": task.data_hash,
                    "trained": name in self.trainings,
                }
                for name, task in self.tasks.items()
            },
            "seeds": list(self.seeds),
            "n_trainings": len(self.trainings) * len(self.seeds),
            "recipe": self.recipe.to_dict(),
            "objective": {name: job.objective for name, job in self.trainings.items()},
            "ablation": self.ablation,
            "teacher_top_k": self.teacher_top_k,
            "memory": {name: job.memory.to_dict() for name, job in self.trainings.items()},
        }

    def show(self, found: Mapping[str, Preflight] | None = None) -> None:
        """Say on standard error what will run.

        Args:
            found: What was looked at before, by regime, with its doubts.
        """
        universe, recipe = self.plan.universe, self.recipe
        dtype = str(self.compiled.dtype).removeprefix("torch.")
        rows = [
            ("model", f"{self.plan.name} ({dtype}, {self.compiled.device})"),
            ("universe", f"{universe.n_edges:,} edges; kv_heads {universe.kv_heads}, qkv {universe.qkv}"),
        ]
        for name, task in self.tasks.items():
            sizes = ", ".join(f"{len(pairs):,} {split}" for split, pairs in task.splits.items())
            given = len(self.circuits.get(name, ()))
            source = f"{given} circuit{'s' * (given > 1)} given" if given else f"trained for {len(self.seeds)} seeds"
            rows.append((f"regime {name}", f"{task.name}: {sizes} prompts; {source}"))
        if self.trainings:
            steps = f"{recipe.steps:,} steps of {recipe.batch_size} prompts"
            largest = self._largest
            rows += [
                ("recipe", f"{recipe.name}: {steps}, target sparsity {recipe.target_sparsity:g}"),
                ("trainings", f"{len(self.trainings) * len(self.seeds)}; cut edges carry: {self.ablation}"),
                ("memory", f"about {bytes_text(largest.estimate.total)} at most; {largest.describe()}"),
            ]
        for name, seen in (found or {}).items():
            rows += [(f"{name}: {what}", told) for what, told in seen.rows() if what not in (*seen.splits, "memory")]
        print_table(("what", "will run"), rows, to_stderr=True)
        for name, seen in (found or {}).items():
            findings = [replace(one, text=f"{name}: {one.text}").to_dict() for one in seen.findings]
            print_findings(findings, to_stderr=True)
        for name, task in self.tasks.items():
            for note in task.notes:
                say(f"note ({name}): {note}")

    @property
    def _largest(self) -> MemoryPlan:
        """The plan of the training that holds the most."""
        return max((job.memory for job in self.trainings.values()), key=lambda plan: plan.estimate.total)

    def run(
        self, out: Path, *, overwrite: bool, n_random: int, n_random_prompts: int | None, threshold: float
    ) -> Study:
        """Train what is not there, and measure.

        Args:
            out: The study's folder.
            overwrite: Whether to remove a study that is there.
            n_random: Random circuits for each circuit and each intersection.
            n_random_prompts: On how many prompts they run; None for all.
            threshold: Of the consensus circuits.
        """
        from pruning.regimes.study import run_regimes

        plans = [job.memory for job in self.trainings.values()]
        objectives = {name: job.objective for name, job in self.trainings.items()}
        told = telling_memory(self._largest.estimate) if plans else contextlib.nullcontext()
        with told, watching_each(self.recipe.steps, objectives) as watch:
            return run_regimes(
                self.compiled,
                self.tasks,
                seeds=self.seeds,
                recipe=self.recipe,
                circuits=self.circuits,
                out=out,
                overwrite=overwrite,
                objective=self.objective,
                ablation=self.ablation,
                n_random=n_random,
                n_random_prompts=n_random_prompts,
                threshold=threshold,
                cache_bytes=min((plan.cache_bytes for plan in plans), default=self.cache_bytes),
                disk_cache=self.disk_cache,
                teacher_top_k=self.teacher_top_k,
                micro_batch=min((plan.micro_batch for plan in plans), default=None),
                recompute=any(plan.recompute for plan in plans),
                watch=watch,
                tick=_tell_quarters,
                say=say,
            )


@contextlib.contextmanager
def watching_each(steps: int, objectives: Mapping[str, str]) -> Iterator[Callable[[str, int, StepRecord], None]]:
    """Show the progress of one training after another on standard error.

    Args:
        steps: How many steps each takes.
        objectives: What is minimised, by regime.

    Yields:
        What to call after each step, with the regime, the seed and the step.
    """
    with contextlib.ExitStack() as shown:
        current: list[Any] = [None, None]

        def watch(regime: str, seed: int, record: StepRecord) -> None:
            if current[0] != (regime, seed):
                shown.close()
                current[:] = (regime, seed), shown.enter_context(watching(steps, objectives[regime]))
            current[1](record)
            if record.step + 1 == steps:
                shown.close()  # so that what is said next stands below the bar

        yield watch


def _tell_quarters(regime: str, done: int, total: int) -> None:
    """A line at about every quarter of the way."""
    if done == total or (done * _QUARTERS // total) > (max(0, done - total // 16) * _QUARTERS // total):
        say(f"{regime}: {100 * done / total:.0f} % measured")


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
