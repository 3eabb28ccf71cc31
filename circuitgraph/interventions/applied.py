"""A model run with an intervention; the model itself is not touched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.patched_run import patched_run
from circuitgraph.interventions.changed_writers import ChangedWriters, require_small
from circuitgraph.interventions.intervention import Intervention


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervened:
    """A model, or a circuit of it, with an intervention. Make one with `intervene`.

    Attributes:
        compiled: The model.
        gates: One gate per edge, on the host; None where writers are changed at some positions.
        ablation: What an edge whose gate is 0 carries.
        values: Those values; None where they are zero, which needs no prompts.
        writers: What is done to writers, where some of them are changed at some positions.
    """

    compiled: CompiledModel
    gates: Float[Tensor, " edge"] | None
    ablation: str
    values: AblationValues | None
    writers: ChangedWriters | None = None

    @torch.no_grad()
    def logits(self, batch: TokenBatch, values: AblationValues | None = None) -> Float[Tensor, "asked d_vocab"]:
        """Logits at the asked positions.

        Args:
            batch: Prompts.
            values: What ablated writers say on these prompts, where it depends on them; by default those it was made
                with.

        Raises:
            ConfigurationError: None are there, or they are of another ablation; or a prompt lacks a position that is
                changed.
        """
        if self.writers is not None:
            return patched_run(self.compiled.runnable, batch, self.writers.patch(batch))
        assert self.gates is not None
        values = values or self.values
        if values is None:
            raise ConfigurationError(
                f"under {self.ablation} ablation the values that cut edges carry are needed: pass `values`, such as "
                "compiled.run_with_values(corrupted)[1]"
            )
        if values.ablation != self.ablation:
            raise ConfigurationError(f"the values are of {values.ablation} ablation, expected {self.ablation}")
        return self.compiled.masked(self.gates, batch, values).logits


def intervene(
    compiled: CompiledModel,
    intervention: Intervention,
    *,
    strength: float = 1.0,
    circuit: Circuit | None = None,
    values: AblationValues | None = None,
) -> Intervened:
    """Put an intervention on a model, or on a circuit in it.

    Args:
        compiled: The model; it stays as it is.
        intervention: What is turned up or down.
        strength: How much of it.
        circuit: Only these edges are there; by default all.
        values: What cut edges carry; not needed under zero ablation.

    Returns:
        What can be run.

    Raises:
        GraphMismatchError: Model, intervention and circuit are of different universes.
        ConfigurationError: A circuit that was found under another ablation than zero with gates that mean nothing
            there. With changes at positions: a circuit, single edges that are changed besides, or a vector of another
            length than the model's.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> ids = torch.tensor([[0, 1, 2, 3]])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([3]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> nothing = Intervention.from_writers(compiled.universe, {})
        >>> torch.allclose(intervene(compiled, nothing).logits(batch), compiled.logits(batch), atol=1e-5)
        True
    """
    intervention.require_universe(compiled.universe)
    if intervention.at_positions:
        if circuit is not None:
            raise ConfigurationError(
                "changes at positions are run on the whole model: the edges of a circuit are cut at all positions. "
                "Leave the circuit out"
            )
        writers = ChangedWriters.of(intervention, strength, compiled.shape.d_model, torch.finfo(compiled.dtype).max)
        return Intervened(compiled=compiled, gates=None, ablation="zero", values=None, writers=writers)
    require_small(strength, intervention.changes[intervention.edge_ids], torch.finfo(compiled.dtype).max)
    gates = intervention.gates(strength) if circuit is None else intervention.on_circuit(circuit, strength)
    if values is None and intervention.ablation == "zero":
        values = compiled.ablation_values("zero")
    dtype = torch.float64 if compiled.dtype == torch.float64 else torch.float32
    return Intervened(
        compiled=compiled, gates=torch.from_numpy(gates).to(dtype), ablation=intervention.ablation, values=values
    )
