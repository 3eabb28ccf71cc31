"""A run as the command line shows it before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.output import bytes_text, print_table, say

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.memory.estimate import MemoryEstimate
    from pruning.runs.checking.preflight import Preflight
    from pruning.runs.run import Run

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
    """What is shown of a run.

    Attributes:
        run: The run.
    """

    run: Run

    def to_dict(self) -> dict[str, Any]:
        """What would run, for `--dry-run --json`."""
        run, request = self.run, self.run.request
        disk, asked = run.settings.disk_cache(), request.to_dict()
        return {
            **about_model(run.compiled),
            "task": run.task.name,
            "sizes": {name: len(pairs) for name, pairs in run.task.splits.items()},
            "data_hash": run.task.data_hash,
            "objective": request.objective,
            "ablation": request.ablation,
            **{name: asked[name] for name in ("recipe", "method", "selection")},
            "seed": request.seed,
            "teacher_top_k": request.teacher_top_k,
            "disk_cache": None if disk is None else {"folder": str(disk.folder), "bytes": disk.budget_bytes},
            "memory": None if request.recipe is None else run.memory.to_dict(),
            "request": asked,
            "settings": run.settings.to_dict(),
        }

    def show(self, found: Preflight | None = None) -> None:
        """Say on standard error what will run.

        Args:
            found: What was looked at before, with its doubts.
        """
        looked_at = [] if found is None else [row for row in found.rows() if row[0] not in (*found.splits, "memory")]
        print_table(("what", "will run"), [*self._rows(), *looked_at], to_stderr=True)
        if found is not None:
            print_findings([one.to_dict() for one in found.findings], to_stderr=True)
        for note in self.run.task.notes:
            say(f"note: {note}")

    def _rows(self) -> list[tuple[str, str]]:
        run, compiled = self.run, self.run.compiled
        universe, request = compiled.universe, run.request
        dtype = str(compiled.dtype).removeprefix("torch.")
        counts = f"{universe.n_edges:,} edges, {universe.n_writers:,} writers, {universe.n_readers:,} readers"
        choices = f"embeddings {universe.embeddings}, kv_heads {universe.kv_heads}, qkv {universe.qkv}"
        sizes = ", ".join(f"{len(pairs):,} {name}" for name, pairs in run.task.splits.items())
        lengths = run.task.splits["train"].lengths
        shortest = "" if lengths.min() == lengths.max() else f"{lengths.min()} to "
        return [
            ("model", f"{request.model.name} ({dtype}, {compiled.device})"),
            ("universe", f"{counts}; {choices}"),
            ("task", f"{run.task.name}: {sizes} prompts; training prompts of {shortest}{lengths.max()} tokens"),
            *(self._method_rows() if request.recipe is None else self._recipe_rows()),
        ]

    def _compared(self) -> tuple[str, str]:
        request = self.run.request
        direction = "" if request.direction == "noising" else f"; direction: {request.direction}"
        return "compared by", f"{request.objective or 'nothing'}; cut edges carry: {request.ablation}{direction}"

    def _recipe_rows(self) -> list[tuple[str, str]]:
        """What is trained, and what that holds."""
        recipe, memory, seed = self.run.recipe, self.run.memory, self.run.request.seed
        steps = f"{recipe.steps:,} steps of {recipe.batch_size} prompts"
        parts = memory.estimate.to_dict()
        total = bytes_text(parts.pop("total"))
        held = ", ".join(f"{bytes_text(n)} {part}" for part, n in parts.items() if n >= _NAMED_BYTES)
        return [
            ("recipe", f"{recipe.name}: {steps}, target sparsity {recipe.target_sparsity:g}, seed {seed}"),
            self._compared(),
            ("frozen runs", self._frozen_runs()),
            ("memory", f"about {total} at most (an estimate: {held}); {memory.describe()}"),
        ]

    def _method_rows(self) -> list[tuple[str, str]]:
        """How edges are ranked, and how a circuit is made of that."""
        request, method = self.run.request, self.run.method
        asked, selection = request.method, request.selection
        assert method is not None and asked is not None and selection is not None
        options = ", ".join(f"{name} {value}" for name, value in asked.options.items()) or "its usual settings"
        size = "" if selection.sparsity is None else f" at sparsity {selection.sparsity:g}"
        return [
            ("method", f"{asked.name} ({options}), seed {request.seed}; it costs {method.cost}"),
            ("circuit", f"rule {selection.rule}{size}"),
            self._compared(),
        ]

    def _frozen_runs(self) -> str:
        """Where runs that never change are kept."""
        disk, top = self.run.settings.disk_cache(), self.run.request.teacher_top_k
        held = f"up to {bytes_text(self.run.memory.cache_bytes)} in memory, "
        held += f"{bytes_text(disk.budget_bytes)} in {disk.folder}" if disk is not None else "none on disk"
        return held + (f"; of the full model its {top:,} likeliest tokens and the rest as one" if top else "")
