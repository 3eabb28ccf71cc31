"""The peak memory of one stage, in a process of its own: `python -m pruning.bench.memory STAGE < settings.json`.

1. Load the model and touch every weight. Run it on two tokens, and every kind of stage on a model of one layer,
   so that the libraries have loaded what they load when first used.
2. Hand freed memory back, and note what is held: the base line.
3. Make the stage (fill its cache), then forget the peak so far.
4. Take a few turns. What the peak is above the base line is the stage's: what it holds from turn to turn, its
   cache included, and what a turn needs on top; not what filling the cache needed in passing.

On the CPU memory is the resident set, whose peak Linux can be asked to forget; elsewhere it is that of the whole
process, loading included, and so an upper bound. On CUDA it is what torch's allocator has handed out.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from circuitgraph.memory.peak import peak_rss_bytes
from pruning.bench.settings import BenchSettings

TURNS = 3
_PAGE_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@runtime_checkable
class Meter(Protocol):
    """Memory of this process."""

    method: str

    def now(self) -> int:
        """Bytes held."""
        ...

    def peak(self) -> int:
        """The most bytes held since `forget`."""
        ...

    def forget(self) -> None:
        """Forget the peak so far."""
        ...


class CpuMeter:
    """The resident set."""

    def __init__(self) -> None:
        self.resettable = _PAGE_STATUS.is_file() and os.access(_CLEAR, os.W_OK)
        self.method = (
            "peak resident set, forgotten before the turns"
            if self.resettable
            else "peak resident set since the process began, loading included: an upper bound"
        )

    def now(self) -> int:
        """The resident set; where the system does not tell it, its peak so far."""
        return _status("VmRSS") if _PAGE_STATUS.is_file() else (peak_rss_bytes() or 0)

    def peak(self) -> int:
        """The peak resident set."""
        return _status("VmHWM") if self.resettable else (peak_rss_bytes() or 0)

    def forget(self) -> None:
        """Set the peak back to what is resident now, where the system can."""
        if self.resettable:
            _CLEAR.write_text("5")


class CudaMeter:
    """What torch's allocator has handed out.

    Args:
        device: The card.
    """

    method = "peak of torch's allocated memory, forgotten before the turns"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> int:
        """What is handed out."""
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Its peak."""
        return torch.cuda.max_memory_allocated(self.device)

    def forget(self) -> None:
        """Set the peak back to what is handed out now."""
        torch.cuda.reset_peak_memory_stats(self.device)


def meter_for(device: torch.device) -> Meter | None:
    """How memory is measured on a device; None where it cannot be.

    Args:
        device: Where the model runs.
    """
    if device.type == "cuda":
        return CudaMeter(device)
    return CpuMeter() if device.type == "cpu" and os.name == "posix" else None


def _status(field: str) -> int:
    for line in _PAGE_STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{_PAGE_STATUS} does not tell {field}")


def settle() -> None:
    """Hand freed memory back to the system, as far as it takes it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _hand_back()


def _hand_back() -> None:
    """Have the C library give freed memory back, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def touch(model: Any) -> None:
    """Read every weight once, so that those that lie in a mapped file are resident."""
    for weights in model.parameters():
        weights.detach().sum()


def measure(settings: BenchSettings, name: str, loaded: Any = None) -> dict[str, int] | None:
    """Measure a stage in this process.

    Args:
        settings: What is asked for.
        name: The stage.
        loaded: The model, where it is at hand.

    Returns:
        `peak_bytes` above what the loaded model holds, and `held_bytes`, what is held between turns; None where
        the device's memory cannot be measured.
    """
    from pruning.bench.stages import Workbench
    from pruning.bench.timing import wait

    workbench = Workbench.of(settings, loaded)
    device = workbench.compiled.device
    meter = meter_for(device)
    if meter is None:
        return None
    touch(workbench.loaded.model)
    _warm_up(settings, workbench.loaded.model)
    settle()
    base = meter.now()
    stage = workbench.stage(name)
    meter.forget()
    for turn in range(TURNS):
        stage.prepare(turn)
        stage.run()
        wait(device)
    peak = meter.peak()
    settle()
    return {"peak_bytes": max(0, peak - base), "held_bytes": max(0, meter.now() - base)}


def _warm_up(settings: BenchSettings, model: Any) -> None:
    """Have the libraries load what they load when first used, on next to no data.

    The plain model on two tokens; then a plain step, a training step and an evaluation of a model of one layer.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.compile import compile_model
    from pruning.bench.models import random_model
    from pruning.bench.prompts import random_prompts
    from pruning.bench.stages import EvaluateStage, PlainStage, StepStage, middle_alpha
    from pruning.frozen.runs import FrozenRuns

    prompts = random_prompts(2, 4, d_vocab=16, seed=0)
    device = next(model.parameters()).device
    PlainStage(model, random_prompts(1, 2, d_vocab=2, seed=0), device).run()
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=4, bos_token_id=0, eos_token_id=0)
    tiny = random_model(GPT2LMHeadModel, config, seed=0, dtype=getattr(torch, settings.dtype), device=device)
    compiled = compile_model(tiny, verify=False)
    frozen = FrozenRuns(compiled, prompts.pairs, ablation="counterfactual")
    universe = compiled.universe
    stages = (
        PlainStage(tiny, prompts, device),
        StepStage(compiled, frozen, lambda noise: middle_alpha(universe, 0), control=settings.control),
        EvaluateStage(compiled, frozen, Circuit.from_edges(universe, ["input->m0", "m0->logits"])),
    )
    for stage in stages:
        stage.prepare(0)
        stage.run()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a subprocess found.

    Attributes:
        peak_bytes: The stage's peak above what the loaded model holds, or None.
        held_bytes: What it holds between turns, or None.
        problem: Why there is none.
    """

    peak_bytes: int | None = None
    held_bytes: int | None = None
    problem: str | None = None


def measure_stage(settings: BenchSettings, name: str, loaded: Any = None) -> Measured:
    """Measure a stage: on CUDA here, where torch counts to the byte what it hands out; else in a process of its own.

    Args:
        settings: What is asked for.
        name: The stage.
        loaded: The model, where it is at hand.
    """
    if torch.device(settings.device).type != "cuda":
        return measure_in_subprocess(settings, name)
    found = measure(settings, name, loaded)
    assert found is not None
    return Measured(peak_bytes=found["peak_bytes"], held_bytes=found["held_bytes"])


def measure_in_subprocess(settings: BenchSettings, name: str) -> Measured:
    """Measure a stage in a process of its own.

    Args:
        settings: What is asked for.
        name: The stage.

    Returns:
        What was found; a process that fails is told, and does not end the benchmark.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "pruning.bench.memory", name],
        input=settings.to_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        reason = "it was killed, most likely for memory" if ended.returncode < 0 else said[-1] if said else "no message"
        return Measured(problem=f"memory of {name}: not measured, the process ended with {ended.returncode}: {reason}")
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    if found is None:
        return Measured(problem=f"memory of {name}: not measured on {settings.device}")
    return Measured(**found)


def main() -> None:
    """Measure the stage named on the command line and print what was found as one line of JSON."""
    settings = BenchSettings.from_json(sys.stdin.read())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    print(json.dumps(measure(settings, sys.argv[1])))


if __name__ == "__main__":
    main()
