"""Task vectors: what the residual stream holds where a prompt is about to answer, on average over prompts of a task.

Taken from prompts with demonstrations and added to prompts without any, such a vector can stand in for the
demonstrations (Hendel et al. 2023, In-context learning creates task vectors; Todd et al. 2024, Function vectors).
Added to a model with `CompiledModel.with_vectors` it is a writer like any other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.reference import residual_before
from circuitgraph.forward.vectors import ASKED, Vector, vector_places
from circuitgraph.torch_state import in_settled_state
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.runnable import require_runnable


@in_settled_state
def task_vector(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    *,
    layer: int,
    name: str = "task",
    at: str | int = ASKED,
    less: EncodedPairs | None = None,
    batch_size: int = 16,
) -> Vector:
    """The mean of the residual stream before a layer, at some tokens of clean prompts.

    Args:
        compiled: The model; vectors that are added to it already are there in the runs.
        pairs: The prompts, such as ones with demonstrations; their counterfactuals are not looked at.
        layer: Before which layer.
        name: What the vector is called; the layer is added to it.
        at: Where the mean is taken, and where the vector is added: as of `Vector`.
        less: Prompts whose mean is taken off, such as the same ones without demonstrations; None takes off nothing.
        batch_size: Prompts run at once.

    Returns:
        The vector, in the model's number format.

    Raises:
        ConfigurationError: No such layer, no prompts, or prompts without such a token.
        PromptFormatError: Prompts that the model cannot take.
    """
    n_layers = compiled.shape.n_layers
    if not 0 <= layer < n_layers:
        raise ConfigurationError(f"task_vector: expected a layer of 0 to {n_layers - 1}; got {layer}")
    like = Vector(name=f"{name}@{layer}", value=torch.zeros(compiled.shape.d_model), at=at)
    value = _mean(compiled, pairs, like, batch_size)
    if less is not None:
        value = value - _mean(compiled, less, like, batch_size)
    return Vector(name=like.name, value=value.to(compiled.dtype), at=at)


def _mean(compiled: CompiledModel, pairs: EncodedPairs, like: Vector, batch_size: int) -> Float[Tensor, " d_model"]:
    """The mean before a vector's layer, where it would be added, in float64."""
    if not len(pairs):
        raise ConfigurationError("task_vector: there are no prompts to take a mean over")
    require_runnable(compiled, pairs)
    total = torch.zeros(compiled.shape.d_model, dtype=torch.float64, device=compiled.device)
    count = 0
    for some in batches_by_length(pairs.by_length, batch_size):
        batch = pairs.batch(some, device=compiled.device).clean
        (places,) = vector_places([like], batch)
        at = torch.from_numpy(places).to(compiled.device)
        said = compiled.run_with_values(batch)[1]
        total += residual_before(said, like.layer, compiled.vectors)[at].double().sum(0)
        count += int(places.sum())
    return total / count
