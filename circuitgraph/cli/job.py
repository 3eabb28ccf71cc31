"""A training run with everything decided and loaded: what it is, what it needs, and how to start it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.output import bytes_text, print_table, say
from circuitgraph.cli.settings import ModelPlan

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.memory.estimate import MemoryEstimate
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.frozen.disk import DiskCache
    from pruning.methods.edge_pruning.recipes import Recipe
    from pruning.methods.edge_pruning.state import StepRecord
    from pruning.runs.checking.preflight import Preflight
    from pruning.runs.discover import Discovery
    from pruning.runs.measuring import Counting
    from pruning.runs.result_folder import ResultFolder
    from pruning.tasks import TaskData

EVALUATED = ("validation", "test")
_NAMED_BYTES = 2**20
"""Parts of the memory that take less are not named."""


def about_model(compiled: CompiledModel) -> dict[str, Any]:
    """A compiled model, for `--dry-run --json`."""
    return {
        **compiled.identity,
        "dtype": str(compiled.dtype).removeprefix("torch."),
        "device": str(compiled.device),
        "universe": compiled.universe.to_dict(),
        "n_edges": compiled.universe.n_edges,
    }


@contextmanager
def telling_memory(estimate: MemoryEstimate) -> Iterator[None]:
    """Where memory runs out nevertheless, show on standard error what a run was to hold.

    Args:
        estimate: Of the run.
    """
    from circuitgraph.errors import out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            rows = [(part.replace("_", " "), bytes_text(n)) for part, n in estimate.to_dict().items()]
            print_table(("what the run was to hold", ">memory"), rows, to_stderr=True)
        raise


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run, ready to start.

    Attributes:
        plan: The model as its config describes it.
        compiled: The model itself.
        task: The prompts.
        recipe: The settings.
        objective: What is compared.
        ablation: What cut edges carry.
        seed: Of everything random.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for them, or None.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.
        memory_bytes: What the run has to fit into; None takes what is free.
    """

    plan: ModelPlan
    compiled: CompiledModel
    task: TaskData
    recipe: Recipe
    objective: str
    ablation: str
    seed: int
    cache_bytes: int
    disk_cache: DiskCache | None = None
    teacher_top_k: int | None = None
    memory_bytes: int | None = None

    def look(
        self,
        *,
        n_random: int = 10,
        n_random_prompts: int | None = 32,
        sample: int | None = None,
        splits: Sequence[str] | None = None,
    ) -> Preflight:
        """Look at model, prompts and settings before any work.

        Args:
            n_random: Random circuits to compare with, for the time.
            n_random_prompts: On how many prompts of each split they run, at most; None for all.
            sample: Prompts that the model is run on, about; None for the usual number.
            splits: What is measured on; by default validation and test, where the task has them.
        """
        from pruning.runs.checking.preflight import SAMPLE, preflight

        return preflight(
            self.compiled,
            self.task,
            self.recipe,
            objective=self.objective,
            ablation=self.ablation,
            splits=self.splits if splits is None else splits,
            n_random=n_random,
            n_random_prompts=n_random_prompts,
            cache_bytes=self.cache_bytes,
            teacher_top_k=self.teacher_top_k,
            memory_bytes=self.memory_bytes,
            sample=SAMPLE if sample is None else sample,
        )

    def check(self, *, n_random: int = 10, n_random_prompts: int | None = 32, strict: bool = False) -> Preflight:
        """Refuse what could not be trained, before it is tried.

        Args:
            n_random: Random circuits to compare with, for the time.
            n_random_prompts: On how many prompts of each split they run, at most; None for all.
            strict: Whether doubts are errors.

        Returns:
            What was looked at, with what is doubtful.

        Raises:
            ConfigurationError: Something stands in the way; the message has all of it.
        """
        found = self.look(n_random=n_random, n_random_prompts=n_random_prompts)
        found.require(strict=strict)
        return found

    @property
    def splits(self) -> list[str]:
        """The splits that the circuit is evaluated on."""
        return [name for name in EVALUATED if len(self.task.splits.get(name, ()))]

    @cached_property
    def memory(self) -> MemoryPlan:
        """What the run is expected to hold at its dearest moment, and how it is run so that it fits."""
        from pruning.runs.checking.memory import training_memory

        return training_memory(
            self.compiled,
            self.task.splits["train"],
            batch_size=self.recipe.batch_size,
            ablation=self.ablation,
            cache_bytes=self.cache_bytes,
            teacher_top_k=self.teacher_top_k,
            memory_bytes=self.memory_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """What would run, for `--dry-run --json`."""
        return {
            **about_model(self.compiled),
            "task": self.task.name,
            "sizes": {name: len(pairs) for name, pairs in self.task.splits.items()},
            "data_hash": self.task.data_hash,
            "objective": self.objective,
            "ablation": self.ablation,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "teacher_top_k": self.teacher_top_k,
            "disk_cache": self._disk_cache(),
            "memory": self.memory.to_dict(),
        }

    def _disk_cache(self) -> dict[str, Any] | None:
        if self.disk_cache is None:
            return None
        return {"folder": str(self.disk_cache.folder), "bytes": self.disk_cache.budget_bytes}

    def show(self, found: Preflight | None = None) -> None:
        """Say on standard error what will run.

        Args:
            found: What was looked at before, with its doubts.
        """
        looked_at = [] if found is None else [row for row in found.rows() if row[0] not in (*found.splits, "memory")]
        print_table(("what", "will run"), [*self._rows(), *looked_at], to_stderr=True)
        if found is not None:
            print_findings([one.to_dict() for one in found.findings], to_stderr=True)
        for note in self.task.notes:
            say(f"note: {note}")

    def _rows(self) -> list[tuple[str, str]]:
        universe, recipe, memory = self.plan.universe, self.recipe, self.memory
        dtype = str(self.compiled.dtype).removeprefix("torch.")
        counts = f"{universe.n_edges:,} edges, {universe.n_writers:,} writers, {universe.n_readers:,} readers"
        choices = f"embeddings {universe.embeddings}, kv_heads {universe.kv_heads}, qkv {universe.qkv}"
        sizes = ", ".join(f"{len(pairs):,} {name}" for name, pairs in self.task.splits.items())
        lengths = self.task.splits["train"].lengths
        shortest = "" if lengths.min() == lengths.max() else f"{lengths.min()} to "
        steps = f"{recipe.steps:,} steps of {recipe.batch_size} prompts"
        parts = memory.estimate.to_dict()
        total = bytes_text(parts.pop("total"))
        held = ", ".join(f"{bytes_text(n)} {part}" for part, n in parts.items() if n >= _NAMED_BYTES)
        return [
            ("model", f"{self.plan.name} ({dtype}, {self.compiled.device})"),
            ("universe", f"{counts}; {choices}"),
            (
                "task",
                f"{self.task.name}: {sizes} prompts; training prompts of {shortest}{lengths.max()} tokens",
            ),
            ("recipe", f"{recipe.name}: {steps}, target sparsity {recipe.target_sparsity:g}, seed {self.seed}"),
            ("compared by", f"{self.objective}; cut edges carry: {self.ablation}"),
            ("frozen runs", self._frozen_runs()),
            ("memory", f"about {total} at most (an estimate: {held}); {memory.describe()}"),
        ]

    def _frozen_runs(self) -> str:
        """Where runs that never change are kept."""
        disk, top = self.disk_cache, self.teacher_top_k
        held = f"up to {bytes_text(self.memory.cache_bytes)} in memory, "
        held += f"{bytes_text(disk.budget_bytes)} in {disk.folder}" if disk is not None else "none on disk"
        return held + (f"; of the full model its {top:,} likeliest tokens and the rest as one" if top else "")

    def run(
        self,
        watch: Callable[[StepRecord], None],
        *,
        n_random: int,
        n_random_prompts: int | None,
        folder: ResultFolder,
        checked: Preflight,
        counting: Counting | None = None,
    ) -> Discovery:
        """Train, keep and evaluate.

        Args:
            watch: Called after every step.
            n_random: Random circuits to compare with.
            n_random_prompts: On how many prompts of each split they run, at most; None for all.
            folder: Where the result is kept.
            checked: What was looked at before, so that it is not looked at again.
            counting: Shows how far evaluation and effects are.
        """
        from pruning.runs.discover import discover

        with telling_memory(self.memory.estimate):
            return discover(
                self.compiled,
                self.task,
                self.recipe,
                objective=self.objective,
                ablation=self.ablation,
                seed=self.seed,
                splits=self.splits,
                n_random=n_random,
                n_random_prompts=n_random_prompts,
                cache_bytes=self.memory.cache_bytes,
                disk_cache=self.disk_cache,
                teacher_top_k=self.teacher_top_k,
                micro_batch=self.memory.micro_batch,
                recompute=self.memory.recompute,
                out=folder,
                watch=watch,
                counting=counting,
                say=say,
                preflight=checked,
            )
