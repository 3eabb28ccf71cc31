"""How much faster an extracted circuit is than its model, measured turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from circuitgraph.architectures.family import frozen_view
from circuitgraph.architectures.rotary import as_fresh
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.extract.module import ExtractedCircuit


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """Median times of one forward pass, taken in turn.

    Attributes:
        model_seconds: The model as its library runs it, logits at every position.
        circuit_seconds: The extracted circuit, logits at every position.
        ratio: The first by the second.
        model_asked_seconds: The model, logits at the asked positions only.
        circuit_asked_seconds: The extracted circuit, logits at the asked positions only.
        ratio_asked: The first of these by the second.
        repeats: Turns.
        n_prompts: Prompts per batch.
        n_tokens: Their length.

    Examples:
        >>> timed = SpeedUp(
        ...     model_seconds=0.3, circuit_seconds=0.1, ratio=3.0, model_asked_seconds=0.2, circuit_asked_seconds=0.1,
        ...     ratio_asked=2.0, repeats=15, n_prompts=8, n_tokens=16,
        ... )
        >>> timed.to_dict()["ratio"]
        3.0
    """

    model_seconds: float
    circuit_seconds: float
    ratio: float
    model_asked_seconds: float
    circuit_asked_seconds: float
    ratio_asked: float
    repeats: int
    n_prompts: int
    n_tokens: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields as JSON values."""
        return asdict(self)


@torch.inference_mode()
def measure_speed_up(
    extracted: ExtractedCircuit, compiled: CompiledModel, batch: TokenBatch, *, repeats: int = 15
) -> SpeedUp:
    """Time the model and an extracted circuit on the same prompts, without gradients.

    They take turns, so that a machine that slows down slows both. Two turns before the first are not counted.

    Args:
        extracted: The extracted circuit.
        compiled: The model.
        batch: Prompts.
        repeats: Turns.

    Raises:
        ConfigurationError: Fewer turns than one, or the two are on different devices.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, extract_circuit, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> ids = torch.tensor([compiled.tokenizer.encode_tokens(("1", "2"))])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([2]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> measure_speed_up(extract_circuit(circuit, compiled), compiled, batch, repeats=1).n_tokens
        3
    """
    if repeats < 1:
        raise ConfigurationError(f"repeats must be at least 1; got {repeats}")
    device = extracted.unembedding.read.constant.device
    if device != compiled.device:
        raise ConfigurationError(f"the circuit is on {device} and the model on {compiled.device}; move one of them")
    model: Any = as_fresh(frozen_view(compiled.model))
    ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
    runs: dict[str, Callable[[], object]] = {
        "model": lambda: model(input_ids=ids, attention_mask=mask, position_ids=positions).logits,
        "circuit": lambda: extracted(ids, mask),
        "model_asked": lambda: compiled.logits(batch),
        "circuit_asked": lambda: extracted(ids, mask, at=batch.predict_index),
    }
    seconds = _medians(runs, repeats, device)
    return SpeedUp(
        model_seconds=seconds["model"],
        circuit_seconds=seconds["circuit"],
        ratio=seconds["model"] / seconds["circuit"],
        model_asked_seconds=seconds["model_asked"],
        circuit_asked_seconds=seconds["circuit_asked"],
        ratio_asked=seconds["model_asked"] / seconds["circuit_asked"],
        repeats=repeats,
        n_prompts=ids.shape[0],
        n_tokens=ids.shape[1],
    )


def _medians(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-2, repeats):
        for name, run in runs.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            seconds = time.perf_counter() - start
            if turn >= 0:
                taken[name].append(seconds)
    return {name: statistics.median(times) for name, times in taken.items()}


def _wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
