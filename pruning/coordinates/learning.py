"""A second stage inside a circuit: which coordinates of its writers it needs, by gates that are trained.

    c = σ(β s),    β = sharpness^(step / (steps − 1)),    loss = objective + price · Σ c

The edges stay as they are. The gates are the deterministic ones of `pruning.methods.edge_pruning.continuous`: steeper
from step to step, so that at the end they are as good as 0 or 1. A coordinate is kept if its s is above 0; or, where a
share to cut is asked for, the others in the order of s until that share is cut.

References:
    Circuit Compositions (arXiv 2410.01434, ACL 2025), whose circuits are coordinates of the outputs of layers;
    Savarese, Silva, Maire 2020, Winning the Lottery with Continuous Sparsification (arXiv 1912.04427).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.coordinates import Coordinates
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.torch_state import with_gradients
from pruning.coordinates.gates import CoordinateLayout, means_of_neurons
from pruning.evaluation.matching import require_universe
from pruning.execution.objectives import check_objective, objective_named
from pruning.frozen.constants import AblationData
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.continuous import sharpness_at
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs

_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class CoordinateSettings:
    """How coordinates are learnt.

    Attributes:
        steps: Steps of Adam.
        rate: Its step size.
        price: What an open coordinate costs, in the objective's units.
        sharpness: How steep gates are at the last step.
        start: Where every s begins.
        batch_size: Prompts per step.

    Raises:
        ConfigurationError: A value that makes no sense.
    """

    steps: int = 200
    rate: float = 0.02
    price: float = 5e-5
    sharpness: float = 200.0
    start: float = 0.2
    batch_size: int = 8

    def __post_init__(self) -> None:
        counted = all(type(count) is int and count >= 1 for count in (self.steps, self.batch_size))
        finite = all(math.isfinite(value) for value in (self.rate, self.price, self.sharpness, self.start))
        if not (counted and finite and self.rate > 0 and self.sharpness >= 1 and self.price >= 0):
            raise ConfigurationError(
                "coordinates: expected whole steps and batch_size of 1 or more, a rate above 0, a sharpness of 1 or "
                f"more, a price of 0 or more and a start, all finite; got {self.steps}, {self.batch_size}, "
                f"{self.rate:g}, {self.sharpness:g}, {self.price:g} and {self.start:g}"
            )


DEFAULT = CoordinateSettings()


@with_gradients
def learn_coordinates(
    compiled: CompiledModel,
    circuit: Circuit,
    pairs: EncodedPairs,
    settings: CoordinateSettings = DEFAULT,
    *,
    writers: Sequence[str] | None = None,
    sparsity: float | None = None,
    objective: str | None = None,
    ablation_data: AblationData | None = None,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Coordinates:
    """Learn which coordinates of its writers a circuit needs.

    Args:
        compiled: The model.
        circuit: The circuit; its edges stay as they are, and its ablation is what coordinates are ablated by.
        pairs: The training prompts.
        settings: How.
        writers: Whose coordinates; by default those of all heads and MLPs that the circuit reads.
        sparsity: The share of coordinates to cut, by the order that training gives; None leaves it to the price.
        objective: What is minimised; by default `kl`, or `mse` where outputs are numbers.
        ablation_data: The prompts that means are taken over; `pairs` by default.
        seed: Of the order of prompts.
        tick: Called with steps done and in all.

    Returns:
        The coordinates, with their provenance.

    Raises:
        ConfigurationError: A share that is none, an ablation that does not say what neurons are, no prompts.
        GraphMismatchError: A circuit of another universe.
        UnknownNameError: A writer that the circuit does not read.
        UnsupportedModelError: MLPs whose neurons are not known.
        TrainingError: Numbers are not finite.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> found = learn_coordinates(compiled, circuit, task.split("train"), CoordinateSettings(steps=5, rate=0.1))
        >>> sorted(found.kept), found.n_kept < found.n_coordinates
        (['a0.h0', 'a3.h0', 'm0', 'm1', 'm2'], True)
    """
    require_universe(compiled, circuit)
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise ConfigurationError(f"coordinates: expected a share to cut from 0 to 1; got {sparsity:g}")
    if not len(pairs):
        raise ConfigurationError("coordinates are learnt on prompts; got none")
    objective = objective or ("mse" if pairs.answer_values is not None else "kl")
    check_objective(objective, pairs)
    layout = CoordinateLayout(compiled, circuit, writers)
    inner = means_of_neurons(compiled, layout, circuit.ablation, ablation_data, pairs)
    frozen = FrozenRuns(
        compiled, pairs, ablation=circuit.ablation, ablation_data=ablation_data, budget_bytes=_CACHE_BYTES
    )
    like = next(compiled.model.parameters())
    dtype = torch.promote_types(like.dtype, torch.float32)
    where = torch.full((layout.size,), settings.start, dtype=dtype, device=like.device, requires_grad=True)
    edges = torch.from_numpy(compiled.gate_map.settled(circuit.mask)).to(dtype)
    optimiser = torch.optim.Adam([where], lr=settings.rate)
    order = BatchOrder(frozen.by_length, settings.batch_size, np.random.default_rng(seed))
    compare = objective_named(objective)
    for step in range(settings.steps):
        optimiser.zero_grad()
        beta = sharpness_at(step, steps=settings.steps, sharpness=settings.sharpness)
        opened = torch.sigmoid(beta * where)
        batch = frozen.batch(order.next())
        logits = compiled.masked(edges, batch.pairs.clean, batch.values, coordinates=layout.gates(opened, inner)).logits
        loss = compare(logits, batch.teacher, batch.pairs) + settings.price * opened.sum()
        loss.backward()
        if where.grad is None or not bool(where.grad.isfinite().all()):
            raise TrainingError(
                f"coordinates, step {step}: the loss or its gradient is not finite; try --dtype float32"
            )
        optimiser.step()
        tick(step + 1, settings.steps)
    kept = _kept(where.detach(), sparsity)
    provenance = {
        **compiled.identity, "method": "continuous", **asdict(settings), "objective": objective, "seed": seed,
        "sparsity": sparsity, "n_prompts": len(pairs),
    }  # fmt: skip
    return Coordinates.of(circuit, layout.split(kept), provenance)


def _kept(where: Tensor, sparsity: float | None) -> np.ndarray:
    """Those above 0, or as many as are asked for, the highest first."""
    values = where.double().cpu().numpy()
    if sparsity is None:
        return values > 0
    kept = np.zeros(len(values), dtype=bool)
    kept[np.argsort(-values, kind="stable")[: round((1 - sparsity) * len(values))]] = True
    return kept
