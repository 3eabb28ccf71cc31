"""What one masked pass runs, and at which positions: from its gates, or by a plan that was made beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.architectures.family import BoundModel, ModelShape
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues, check_same_prompts
from circuitgraph.forward.plan.fixed import FixedPlan
from circuitgraph.forward.plan.plan import StepPlan, plan_step
from circuitgraph.forward.plan.positions import PositionSets, position_sets
from circuitgraph.forward.plan.spans import check_causal, checked_span_ids, plan_spans, stream_name
from circuitgraph.forward.vectors import Vector, vector_places, where_any
from circuitgraph.graph.universe import Universe
from circuitgraph.transfer import to_host


@dataclass(frozen=True, kw_only=True, eq=False)
class Runnable:
    """A model as a pass takes it.

    Attributes:
        bound: Its weights.
        shape: Its sizes.
        universe: What gates belong to.
        vectors: What is added to it, in the order of the universe.
    """

    bound: BoundModel
    shape: ModelShape
    universe: Universe
    vectors: tuple[Vector, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class PassPlan:
    """What one pass runs, decided on the host.

    Attributes:
        step: The nodes that run, and at which positions.
        positions: The positions.
        real: Booleans `[batch seq]`: no padding.
        gates: All gates on the host; 1 where they may be other than 0, in a plan that was made beforehand.
        wanted: Booleans `[edge]`: gates whose gradient is required.
        goes_back: Whether a backward pass may follow.
        fixed: Whether the plan was made beforehand, so that no gate's value is read on the host.
    """

    step: StepPlan
    positions: PositionSets
    real: np.ndarray
    gates: np.ndarray
    wanted: np.ndarray
    goes_back: bool = True
    fixed: bool = False


def plan_pass(
    model: Runnable,
    gates: Float[Tensor, " edge"],
    batch: TokenBatch,
    values: AblationValues,
    *,
    wanted: Bool[Tensor, " edge"] | None = None,
    everywhere_back: bool = False,
) -> PassPlan:
    """Decide what runs with some gates.

    Args:
        model: The model.
        gates: 1 keeps an edge, 0 ablates it. Where they lie on the host, as `wanted` then should, and the batch came
            from there, no value is read from a device.
        batch: Prompts.
        values: Outputs of ablated writers; where they are those of a run, a node without live inputs is skipped. Where
            they take a gradient, every reader is on the way back.
        wanted: Gates whose gradient is required; by default those strictly between 0 and 1, if `gates`
            requires a gradient.
        everywhere_back: Whether something takes a gradient that is no gate of an edge, so that every reader is on the
            way back.

    Raises:
        ConfigurationError: The values are of other prompts, or the batch's spans are not those of the universe.
    """
    gates_learn = torch.is_grad_enabled() and gates.requires_grad
    base_learns = torch.is_grad_enabled() and (values.learnt or everywhere_back)
    prompts = batch.to_look_at
    gates_host, wanted_given, real, asked, ids, span_ids, other_ids, other_real = to_host(
        gates, wanted if gates_learn else None, prompts.attention_mask, prompts.predict_index, prompts.input_ids,
        prompts.span_ids, values.input_ids, values.attention_mask,
    )  # fmt: skip
    assert gates_host is not None and real is not None and asked is not None
    gates_host, real = gates_host.astype(np.float64), real.astype(bool)
    check_same_prompts(values, real.shape, other_real, real)
    differs = None if other_ids is None else where_any(ids != other_ids, vector_places(model.vectors, batch))
    if not gates_learn:
        wanted_host = np.zeros(gates_host.shape, dtype=bool)
    elif wanted_given is None:
        wanted_host = (gates_host > 0) & (gates_host < 1)
    else:
        wanted_host = wanted_given
    positions = position_sets(
        batch, causal=model.shape.causal, real=real, asked=asked, differs=differs,
        separate_local=not model.universe.spans,
    )  # fmt: skip
    how = {
        "constant_when_dead": not values.per_prompt, "run_dead_readers": not values.query, "learnt_base": base_learns,
    }  # fmt: skip
    active = (gates_host != 0) | wanted_host
    if model.universe.spans:
        names = [stream_name(span) for span in model.universe.spans]
        check_causal(model.universe, model.shape.causal)
        positions = positions.divided(checked_span_ids(model.universe, span_ids, real, asked), names)
        reached = np.array([len(positions[name]) > 0 for name in names])
        step = plan_spans(model.universe, active, wanted_host, reached=reached, **how)
    else:
        step = plan_step(model.universe, active, wanted_host, local=positions.local is not None, **how)
    return PassPlan(
        step=step, positions=positions, real=real, gates=gates_host, wanted=wanted_host,
        goes_back=gates_learn or base_learns,
    )  # fmt: skip


def plan_fixed_pass(
    model: Runnable, batch: TokenBatch, values: AblationValues, fixed: FixedPlan, *, first_differing: int = 0
) -> PassPlan:
    """What runs by a plan that was made beforehand; nothing is read from the gates.

    Args:
        model: The model.
        batch: Prompts of one length, without padding, which knows what it was on the host.
        values: Outputs of ablated writers.
        fixed: The plan, for values of this kind; see `FixedPlan.missed` for which gates it is right.
        first_differing: No prompt differs from its counterfactual before this position.

    Raises:
        ConfigurationError: The plan is for another ablation than the values are of, or they are of other prompts.
    """
    if fixed.ablation != values.ablation:
        raise ConfigurationError(
            f"the plan is for {fixed.ablation} ablation, the values are of kind {values.ablation!r}; make another plan"
        )
    prompts = batch.to_look_at
    real, asked = prompts.attention_mask.numpy().astype(bool), prompts.predict_index.numpy()
    check_same_prompts(values, real.shape)
    differs = np.zeros_like(real)
    differs[:, first_differing] = True
    differs = where_any(differs, vector_places(model.vectors, batch))
    positions = position_sets(
        batch, causal=model.shape.causal, real=real, asked=asked, differs=differs, separate_local=False
    )
    flags = fixed.open_edges
    return PassPlan(step=fixed.plan, positions=positions, real=real, gates=flags, wanted=flags, fixed=True)
