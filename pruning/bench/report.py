"""What a benchmark tells: figures by stage, and the conditions under which they hold."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from circuitgraph._version import __version__
from pruning.bench.memory import Measured, meter_for
from pruning.bench.settings import SPARSITIES
from pruning.bench.stages import Workbench, circuit_of
from pruning.bench.timing import WARM_UP, Timings
from pruning.prompts.reached import share_reached
from pruning.runs.versions import installed_version


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one stage.

    Attributes:
        seconds: Median time of a turn.
        ratio: The same, by that of `plain`.
        peak_bytes: Peak memory above what the loaded model holds, or None if it was not measured.
        memory_ratio: The same, by that of `plain`.
        undecided: Median number of gates strictly between 0 and 1.
    """

    seconds: float
    ratio: float
    peak_bytes: int | None
    memory_ratio: float | None
    undecided: int

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields as JSON values."""
        return asdict(self)


def figures(timings: Mapping[str, Timings], memory: Mapping[str, Measured]) -> dict[str, Figures]:
    """Medians and ratios.

    Args:
        timings: Times by stage, `plain` among them.
        memory: Peak memory by stage, of those where it was measured.

    Returns:
        The figures by stage.

    Examples:
        >>> times = {"plain": Timings(seconds=[2.0, 9.0, 1.0], undecided=[0, 0, 0]),
        ...     "start": Timings(seconds=[3.0, 5.0, 4.0], undecided=[7, 9, 8])}
        >>> found = figures(times, {"plain": Measured(peak_bytes=100), "start": Measured(peak_bytes=150)})
        >>> found["start"]
        Figures(seconds=4.0, ratio=2.0, peak_bytes=150, memory_ratio=1.5, undecided=8)
    """
    medians = {name: statistics.median(times.seconds) for name, times in timings.items()}
    peaks = {name: memory[name].peak_bytes if name in memory else None for name in timings}
    plain = peaks["plain"]
    return {
        name: Figures(
            seconds=medians[name],
            ratio=medians[name] / medians["plain"],
            peak_bytes=peak,
            memory_ratio=peak / plain if peak is not None and plain else None,
            undecided=round(statistics.median(timings[name].undecided)),
        )
        for name, peak in peaks.items()
    }


def conditions(workbench: Workbench, memory: Mapping[str, Measured]) -> dict[str, Any]:
    """Under which conditions the figures hold, as JSON values.

    Args:
        workbench: What was measured.
        memory: Peak memory by stage, of those where it was measured.
    """
    settings, compiled, device = workbench.settings, workbench.compiled, workbench.compiled.device
    meter = meter_for(device)
    model = workbench.loaded.model
    return {
        "model": workbench.loaded.name,
        "revision": workbench.loaded.revision,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "edges": compiled.universe.n_edges,
        "readers": compiled.universe.n_readers,
        "attention": model.config._attn_implementation,
        "batch": settings.batch,
        "seq": workbench.prompts.seq,
        "prompts": workbench.prompts.told,
        "share_reached": share_reached(workbench.prompts.pairs),
        "dtype": settings.dtype,
        "device": str(device),
        "card": card(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": date.today().isoformat(),
        "rounds": settings.rounds,
        "warm_up": WARM_UP,
        "control": settings.control,
        "micro_batch": settings.micro_batch,
        "replay": workbench.replay,
        "recompute": settings.recompute,
        "cpu_kernels": compiled.uses_cpu_kernels,
        "seed": settings.seed,
        "memory": meter.method if memory and meter is not None else "not measured",
        "held_bytes": {name: found.held_bytes for name, found in memory.items()},
        "trained": {tag: _about(workbench, tag) for tag in workbench.trained},
        "left_out": dict(workbench.left_out),
        "notes": notes(workbench, memory),
    }


def notes(workbench: Workbench, memory: Mapping[str, Measured]) -> list[str]:
    """What a reader of the figures must know besides."""
    doubts = [gates.doubt for gates in workbench.trained.values()]
    problems = [found.problem for found in memory.values()]
    return [said for said in (*doubts, *problems) if said is not None]


def _about(workbench: Workbench, tag: str) -> dict[str, Any]:
    gates = workbench.trained[tag]
    circuit = circuit_of(workbench.compiled, gates)
    return {
        "file": gates.file.name if gates.comes_along else str(gates.file),
        "comes_along": gates.comes_along,
        "sha256": gates.sha256,
        "expected_sparsity": gates.expected_sparsity,
        "asked_sparsity": SPARSITIES[tag],
        "kept_edges": len(circuit),
        "effective_sparsity": 1 - len(circuit) / circuit.universe.n_edges,
    }


def versions() -> dict[str, str | None]:
    """Versions of what decides how fast it is."""
    return {
        "circuitgraph": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "numba": installed_version("numba"),
        "cuda": torch.version.cuda,
    }


def card(device: torch.device) -> str:
    """The name of the GPU, or of the processor.

    Args:
        device: Where the model runs.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    if told.is_file():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
