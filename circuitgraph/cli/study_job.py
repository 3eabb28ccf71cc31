"""A study with everything decided and loaded: what it is, what it needs, and how to start it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.job import about_model, telling_memory
from circuitgraph.cli.output import bytes_text, print_table, say

if TYPE_CHECKING:
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.regimes.planned import PlannedStudy
    from pruning.regimes.study import Study
    from pruning.runs.checking.preflight import Preflight


@dataclass(frozen=True, kw_only=True)
class StudyJob:
    """A study as the command line checks, shows and starts it.

    Attributes:
        study: The study.
        model: The model, as it was named.
    """

    study: PlannedStudy
    model: str

    def check(self, *, strict: bool = False) -> dict[str, Preflight]:
        """Refuse what could not be trained or measured, before it is tried.

        Args:
            strict: Whether doubts are errors.

        Returns:
            What was looked at, by regime.

        Raises:
            ConfigurationError: Something stands in the way in some regime; the message has all of it.
        """
        from pruning.runs.checking.preflight import Look, look_at
        from pruning.runs.checking.requirements import raise_errors

        study, asked = self.study, self.study.asked
        found: dict[str, Preflight] = {}
        for name, run in study.runs.items():
            measured = replace(
                run.request, splits=(asked.split,), n_random=asked.n_random, n_random_prompts=asked.n_random_prompts
            )
            trained = name in study.trainings
            found[name] = look_at(replace(run, request=measured), Look(training=trained, estimate_time=trained))
        every = [replace(one, text=f"{name}: {one.text}") for name, seen in found.items() for one in seen.findings]
        raise_errors(every, strict=strict)
        return found

    def to_dict(self) -> dict[str, Any]:
        """What would run, for `--dry-run --json`."""
        return {
            **about_model(self.study.compiled),
            "regimes": {
                name: {
                    "task": task.name,
                    "sizes": {split: len(pairs) for split, pairs in task.splits.items()},
                    "data_hash": task.data_hash,
                    "trained": name in self.study.trainings,
                }
                for name, task in self.study.tasks.items()
            },
            "seeds": list(self.study.asked.seeds),
            "n_trainings": self._n_trainings,
            "recipe": self.study.recipe.to_dict(),
            "objective": {name: run.request.objective for name, run in self.study.trainings.items()},
            "ablation": self.study.ablation,
            "teacher_top_k": next(iter(self.study.runs.values())).request.teacher_top_k,
            "memory": {name: run.memory.to_dict() for name, run in self.study.trainings.items()},
        }

    def show(self, found: Mapping[str, Preflight] | None = None) -> None:
        """Say on standard error what will run.

        Args:
            found: What was looked at before, by regime, with its doubts.
        """
        study, compiled, recipe = self.study, self.study.compiled, self.study.recipe
        universe, n_seeds = compiled.universe, len(study.asked.seeds)
        dtype = str(compiled.dtype).removeprefix("torch.")
        rows = [
            ("model", f"{self.model} ({dtype}, {compiled.device})"),
            ("universe", f"{universe.n_edges:,} edges; kv_heads {universe.kv_heads}, qkv {universe.qkv}"),
        ]
        for name, task in study.tasks.items():
            sizes = ", ".join(f"{len(pairs):,} {split}" for split, pairs in task.splits.items())
            given = len(study.given.get(name, ()))
            source = f"{given} circuit{'s' * (given > 1)} given" if given else f"trained for {n_seeds} seeds"
            rows.append((f"regime {name}", f"{task.name}: {sizes} prompts; {source}"))
        if study.trainings:
            steps = f"{recipe.steps:,} steps of {recipe.batch_size} prompts"
            largest = self._largest
            rows += [
                ("recipe", f"{recipe.name}: {steps}, target sparsity {recipe.target_sparsity:g}"),
                ("trainings", f"{self._n_trainings}; cut edges carry: {study.ablation}"),
                ("memory", f"about {bytes_text(largest.estimate.total)} at most; {largest.describe()}"),
            ]
        for name, seen in (found or {}).items():
            rows += [(f"{name}: {what}", told) for what, told in seen.rows() if what not in (*seen.splits, "memory")]
        print_table(("what", "will run"), rows, to_stderr=True)
        for name, seen in (found or {}).items():
            findings = [replace(one, text=f"{name}: {one.text}").to_dict() for one in seen.findings]
            print_findings(findings, to_stderr=True)
        for name, task in study.tasks.items():
            for note in task.notes:
                say(f"note ({name}): {note}")

    @property
    def _n_trainings(self) -> int:
        return len(self.study.trainings) * len(self.study.asked.seeds)

    @property
    def _largest(self) -> MemoryPlan:
        """The plan of the training that holds the most."""
        return max((run.memory for run in self.study.trainings.values()), key=lambda plan: plan.estimate.total)

    def run(self, out: Path, *, overwrite: bool) -> Study:
        """Train what is not there, and measure.

        Args:
            out: The study's folder.
            overwrite: Whether to remove a study that is there.
        """
        from pruning.regimes.planned import StudyProgress
        from pruning.regimes.study import run_study
        from pruning.runs.shown_progress import ShownProgress

        with telling_memory(self._largest.estimate) if self.study.trainings else contextlib.nullcontext():
            return run_study(self.study, StudyProgress(shown=ShownProgress()), out, overwrite=overwrite)
