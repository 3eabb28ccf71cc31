"""Constants learnt for a circuit whose edges are settled: optimal ablation as an evaluation (Li and Janson 2024).

1. The constants begin at every writer's mean over the prompts, or at those of a training.
2. Steps of Adam minimise the distance from the full model on batches of the prompts, at a falling rate.
3. What is given back is the best on all prompts of what was learnt, where it began, and the means: so it is never worse
   there than mean ablation.

Without a circuit the constants are learnt for no one circuit: each step cuts another set of edges, each edge with the
same chance, which is drawn anew from 0 to 1. So they serve methods that rank edges, which look at many sets.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.learnt_constants import LearntConstants
from pruning.execution.objectives import check_objective, objective_named
from pruning.frozen.constants import mean_constants
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs

STEPS, RATE, BATCH_SIZE = 200, 0.05, 8
_CACHE_BYTES = 1 << 30


@with_gradients
def learn_constants(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    circuit: Circuit | np.ndarray | None = None,
    *,
    start: AblationValues | None = None,
    objective: str | None = None,
    steps: int = STEPS,
    rate: float = RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
) -> AblationValues:
    """Learn the constants that cut edges carry, one per writer.

    Args:
        compiled: The model.
        pairs: The training prompts, at least one.
        circuit: The circuit, or one boolean per edge of the universe, true where kept `[edge]`; None learns for sets of
            edges drawn at random.
        start: Constants to begin at; None takes the means over `pairs`.
        objective: What is minimised; by default `kl`, or `mse` where outputs are numbers.
        steps: Steps of the optimiser.
        rate: Its step size at the beginning, in standard deviations of what each writer says; it falls to 0.
        batch_size: Prompts per step.
        seed: Of the order of prompts, and of the edges drawn.
        tick: Called with the number of steps done and of all.

    Returns:
        Values of kind `optimal`: for `evaluate(…, ablation="optimal", ablation_data=…)` and
        `extract_circuit(…, values=…)`.

    Raises:
        ConfigurationError: No prompts, settings out of range, or a circuit of another universe.
        TrainingError: The loss or its gradient is not finite.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import evaluate, load_task
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> edges = ["tok->a3.h0<v>", "pos->a3.h0<k>", "a3.h0->logits"]  # its queries are lost
        >>> circuit = Circuit.from_edges(compiled.universe, edges, ablation="optimal")
        >>> train = task.split("train")
        >>> learnt = learn_constants(compiled, train, circuit, steps=30)
        >>> found = evaluate(compiled, circuit, train, ablation_data=learnt, n_random=0).metrics["circuit"]["kl"]
        >>> found < evaluate(compiled, circuit, train, ablation="mean", n_random=0).metrics["circuit"]["kl"]
        True
    """
    if not len(pairs):
        raise ConfigurationError("constants are learnt on prompts; got none")
    if steps < 0 or batch_size < 1 or not rate > 0:
        raise ConfigurationError(
            f"steps must be 0 or more, batch_size 1 or more and rate above 0; got {steps}, {batch_size} and {rate:g}"
        )
    objective = objective or ("mse" if pairs.answer_values is not None else "kl")
    check_objective(objective, pairs)
    kept = _kept(compiled, circuit)
    means = mean_constants(compiled, pairs)
    begin = means if start is None else start
    frozen = FrozenRuns(compiled, pairs, ablation="optimal", ablation_data=means, budget_bytes=_CACHE_BYTES)
    constants = LearntConstants(compiled, begin, pairs)
    runner = BatchRunner(
        compiled, frozen, objective_named(objective), micro_batch=batch_size, constants=constants
    )  # fmt: skip
    order = BatchOrder(frozen.by_length, batch_size, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(compiled.universe.n_edges, dtype=torch.bool)
    for index in range(steps):
        gates = _drawn(compiled, generator) if kept is None else kept
        ran = runner.run([Share(prompts=order.next(), gates=gates, wanted=nothing)])
        assert ran.constants is not None
        if not bool(ran.constants.isfinite().all()):
            raise TrainingError(f"constants, step {index}: the loss or its gradient is not finite; try --dtype float32")
        constants.step(ran.constants, rate * (1 - index / steps))
        if tick is not None:
            tick(index + 1, steps)
    learnt = constants.settled()
    if kept is None:
        return learnt
    candidates = [learnt, begin, *([] if start is None else [means])]
    losses = [mean_loss(compiled, frozen, kept, values, objective=objective) for values in candidates]
    return candidates[int(np.nanargmin(losses))] if np.isfinite(losses).any() else learnt


@torch.no_grad()
def mean_loss(
    compiled: CompiledModel, frozen: FrozenRuns, gates: Tensor, values: AblationValues, *, objective: str
) -> float:
    """The mean of an objective over all prompts.

    Args:
        compiled: The model.
        frozen: The prompts with their frozen runs.
        gates: One gate per edge.
        values: What cut edges carry.
        objective: The objective's name.
    """
    compare, total = objective_named(objective), 0.0
    for members in frozen.by_length.values():
        for start in range(0, len(members), BATCH_SIZE):
            batch = frozen.batch(members[start : start + BATCH_SIZE])
            logits = compiled.masked(gates, batch.pairs.clean, values).logits
            total += float(compare(logits, batch.teacher, batch.pairs)) * len(batch.pairs.clean.input_ids)
    return total / len(frozen.pairs)


def _kept(compiled: CompiledModel, circuit: Circuit | np.ndarray | None) -> Tensor | None:
    """The circuit's gates, with what the edited graph says; None where edges are to be drawn."""
    if circuit is None:
        return None
    mask = circuit.mask if isinstance(circuit, Circuit) else np.asarray(circuit, dtype=bool)
    n_edges = compiled.universe.n_edges
    if (isinstance(circuit, Circuit) and circuit.universe != compiled.universe) or mask.shape != (n_edges,):
        raise ConfigurationError(
            f"the circuit is of another universe than the model, which has {n_edges:,} edges; compile the model with "
            "the circuit's choices"
        )
    return torch.from_numpy(compiled.gate_map.settled(mask)).float()


def _drawn(compiled: CompiledModel, generator: torch.Generator) -> Tensor:
    """A set of edges, each kept with a chance that is drawn first."""
    chance = torch.rand((), generator=generator)
    return (torch.rand(compiled.universe.n_edges, generator=generator) < chance).float()
