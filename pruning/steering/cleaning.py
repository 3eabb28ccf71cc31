"""A task vector cleaned: which few latents of a dictionary do what the vector does.

A vector taken from a model holds more than what makes it work. Written as the sum of a dictionary's latents, with the
activations that the encoder gives, it is trained to do its work with as few of them as can be:

1. θ starts as the activations of the vector; latents that are off there stay off.
2. `v(θ) = ReLU(θ) W_dec + b_dec` is added where the vector was, and what is minimised is

       −log p(right answer) + sparsity · Σ ReLU(θ),  on average over prompts.

3. It ends when the number of latents that are on has not fallen for `patience` steps.

After Kharlapenko et al. 2025, "Scaling sparse feature circuits for studying in-context learning" (ICML), whose task
vector cleaning this is, with their settings: Adam at a rate of 0.01, at most 1,000 steps, 24 prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.dictionaries.dictionary import Dictionary
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.forward.patched_run import Patch, patched_run
from circuitgraph.forward.vectors import Vector, vector_places
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state, with_gradients
from pruning.execution.objectives import objective_named, require_answers
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True)
class CleaningSettings:
    """How a vector is cleaned.

    Attributes:
        steps: Optimiser steps at most.
        batch_size: Prompts per step.
        learning_rate: Adam's.
        sparsity: What an activation of 1 costs, in nats.
        patience: Steps after which it ends where no latent was turned off.

    Raises:
        ConfigurationError: A setting makes no sense.
    """

    steps: int = 1000
    batch_size: int = 24
    learning_rate: float = 0.01
    sparsity: float = 0.05
    patience: int = 200

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("steps", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigurationError(f"learning_rate must be positive; got {self.learning_rate}")
        if not 0 <= self.sparsity < float("inf"):
            raise ConfigurationError(f"sparsity must be at least 0; got {self.sparsity}")


DEFAULT = CleaningSettings()


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanedVector:
    """What is left of a vector.

    Attributes:
        vector: `NAME_clean@LAYER`, what the latents that are left say together, the decoder's bias among it, in float32
            or the model's number format where that is wider.
        activations: Of every latent `[latent]`; 0 where it is off.
        curve: A row per step: `step`, `n_active` (latents that are on) and `nll` (of the right answers, in nats).
    """

    vector: Vector
    activations: Float[Tensor, " latent"]
    curve: pd.DataFrame

    @property
    def latents(self) -> tuple[int, ...]:
        """Which are on, the one with the largest activation first."""
        order = self.activations.argsort(descending=True, stable=True).tolist()
        return tuple(latent for latent in order if self.activations[latent] > 0)


@with_gradients
def clean_vector(
    compiled: CompiledModel,
    vector: Vector,
    dictionary: Dictionary,
    pairs: EncodedPairs,
    settings: CleaningSettings = DEFAULT,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> CleanedVector:
    """Find the few latents of a dictionary that do what a vector does.

    Args:
        compiled: The model, without vectors.
        vector: Such as `task_vector` gives.
        dictionary: Of the layer before which the vector is added.
        pairs: Prompts that the vector is for, with right answers and without demonstrations.
        settings: How.
        seed: Of the order of prompts.
        tick: Called with steps done and in all.

    Returns:
        The latents, and the vector that they are.

    Raises:
        ConfigurationError: A dictionary of another layer or width, no latent that is on, prompts without answers, or a
            model with vectors or spans.
        TrainingError: Numbers are not finite.
    """
    require_answers("cross-entropy", pairs, "cleaning a vector")
    dictionary.require_layer(vector)
    refuse_spans(compiled.universe, "cleaning a vector")
    # A step of 0.01 is lost on a bfloat16 activation of 4.
    value = vector.value.to(compiled.device, torch.promote_types(compiled.dtype, torch.float32))
    start = dictionary.encode(value)
    on = start.nonzero()[:, 0]
    if not len(on):
        raise ConfigurationError(
            f"{dictionary.name} has no latent that is on in {vector.name}, so there is nothing to choose from"
        )
    rows, bias = dictionary.decoder.to(value)[on], dictionary.decoder_bias.to(value)
    order = BatchOrder(pairs.by_length, settings.batch_size, np.random.default_rng(seed))
    theta = start[on].clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=settings.learning_rate)
    curve: list[tuple[int, int, float]] = []
    fewest, since = len(on) + 1, 0
    for step in range(settings.steps):
        optimiser.zero_grad()
        batch = pairs.batch(order.next(), device=compiled.device)
        activations = theta.clamp(min=0)
        added = _added(compiled, vector, activations @ rows + bias, batch.clean)
        nll = _nll(patched_run(compiled.runnable, batch.clean, added), batch)
        (nll + settings.sparsity * activations.sum()).backward()
        if theta.grad is None or not bool(theta.grad.isfinite().all()):
            raise TrainingError(f"step {step}: a gradient is not finite; try a lower learning rate")
        optimiser.step()
        n_active = int((theta > 0).sum())
        curve.append((step, n_active, float(nll.detach())))
        fewest, since = (n_active, 0) if n_active < fewest else (fewest, since + 1)
        tick(step + 1, settings.steps)
        if since >= settings.patience:
            break
    found = torch.zeros_like(start)
    found[on] = theta.detach().clamp(min=0)
    cleaned = Vector(
        name=f"{vector.name.partition('@')[0]}_clean@{vector.layer}", value=dictionary.decode(found), at=vector.at
    )
    return CleanedVector(
        vector=cleaned, activations=found.cpu(), curve=pd.DataFrame(curve, columns=["step", "n_active", "nll"])
    )


def _added(compiled: CompiledModel, vector: Vector, value: Float[Tensor, " d_model"], batch: TokenBatch) -> Patch:
    """The patch that adds a value where a vector would be: to what is written last before its layer."""
    (places,) = vector_places([vector], batch)
    there = torch.from_numpy(places).to(value)[..., None]
    writer = f"m{vector.layer - 1}" if vector.layer else compiled.universe.writers[0]
    return Patch(added={writer: there * value})


def _nll(logits: Float[Tensor, "asked d_vocab"], batch: PairBatch) -> Float[Tensor, ""]:
    """Of the right answers, the mean over prompts; no teacher is looked at."""
    return objective_named("cross-entropy")(logits, logits.detach(), batch)


@in_settled_state
@torch.no_grad()
def answer_nll(
    compiled: CompiledModel, pairs: EncodedPairs, vector: Vector | None = None, *, batch_size: int = 16
) -> float:
    """How unlikely right answers are, on average over prompts, in nats: what a vector is to lower.

    Args:
        compiled: The model.
        pairs: Prompts with right answers.
        vector: Added to the model; None for the model as it is.
        batch_size: Prompts run at once; halved when memory runs out.

    Raises:
        ConfigurationError: Prompts without answers.
    """
    require_answers("cross-entropy", pairs, "measuring answers")
    model = compiled if vector is None else compiled.with_vectors([vector])

    def total_of(some: np.ndarray) -> float:
        batch = pairs.batch(some, device=compiled.device)
        return float(_nll(model.logits(batch.clean), batch)) * len(some)

    portions = Portions(model, batch_size)
    return sum(sum(portions.run(total_of, members)) for members in pairs.by_length.values()) / len(pairs)
