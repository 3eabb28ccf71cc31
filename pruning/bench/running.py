"""A whole benchmark: load, time the stages in turn, measure their memory one by one, and tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pruning.bench.memory import Measured, measure_stage
from pruning.bench.report import conditions, figures
from pruning.bench.settings import BenchSettings
from pruning.bench.stages import Workbench
from pruning.bench.timing import interleaved
from pruning.execution.threads import threads


def run_bench(
    settings: BenchSettings, *, memory: bool = True, watch: Callable[[str], None] = lambda said: None
) -> dict[str, Any]:
    """Run a benchmark.

    Args:
        settings: What is asked for.
        memory: Whether peak memory is measured, stage by stage.
        watch: Told how far it is.

    Returns:
        A dictionary of JSON values: `seconds`, `ratio`, `peak_bytes`, `memory_ratio` and `undecided` by stage, and
        `conditions`. Stages that need trained gates which are not there are missing; `conditions` says so.

    Raises:
        ConfigurationError: The settings do not fit the model or the machine.
        ModelNotFoundError: There is no such model.
    """
    with threads(settings.threads):
        watch(f"loading {settings.model}")
        workbench = Workbench.of(settings)
        for name, reason in workbench.left_out.items():
            watch(f"{name} is left out: {reason}")
        stages = {name: workbench.stage(name) for name in workbench.names}
        timings = interleaved(stages, rounds=settings.rounds, device=workbench.compiled.device, watch=watch)
        fewest = min(timings["start"].undecided)
        assert fewest >= workbench.compiled.universe.n_readers, (
            f"start drew {fewest} undecided gates, not one per reader"
        )
        measured: dict[str, Measured] = {}
        if memory:
            del stages
            for name in workbench.names:
                watch(f"memory of {name}")
                measured[name] = measure_stage(settings, name, workbench.loaded)
        rows = {name: row.to_dict() for name, row in figures(timings, measured).items()}
        return {**rows, "conditions": conditions(workbench, measured)}
