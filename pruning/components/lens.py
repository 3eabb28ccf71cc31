"""The optimal-constant lens: what a layer knows of the answer, all later attention held at constants that hurt least.

At layer l it is the circuit of all edges but those out of heads above l, under optimal ablation: later MLPs run, later
heads say one constant each, learnt for this layer. Beside it stand the same circuit under mean and zero ablation, and
the plain logit lens: the residual stream behind layer l through the final norm and the output head.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), section 5; nostalgebraist 2020 for the
    logit lens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.reference import residual_before
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe
from circuitgraph.torch_state import in_settled_state
from pruning.evaluation.masks import scores_of
from pruning.execution.learning import BATCH_SIZE, RATE, learn_constants
from pruning.execution.objectives import kl_divergence, per_prompt_mean
from pruning.frozen.constants import AblationData
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs

LENS_STEPS = 100
COLUMNS = ("optimal", "mean", "zero", "logit_lens")


def edges_up_to(universe: Universe, layer: int) -> Bool[np.ndarray, " edge"]:
    """All edges but those out of heads above a layer.

    Args:
        universe: The universe.
        layer: The last layer whose heads are kept.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> [universe.edge_name(edge) for edge in np.flatnonzero(~edges_up_to(universe, 0)).tolist()]
        ['a1.h0->m1', 'a1.h0->logits']
    """
    writers = universe.writer_of_edge
    return ~((universe.writer_kinds == "head") & (universe.writer_layers > layer))[writers]


def constant_lens(
    compiled: CompiledModel,
    train: EncodedPairs,
    test: EncodedPairs,
    layers: Sequence[int],
    *,
    steps: int = LENS_STEPS,
    rate: float = RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure what layers know of the model's answer.

    Args:
        compiled: The model.
        train: Prompts that constants are learnt on and means taken over.
        test: Prompts to measure on.
        layers: Which layers, counted from 0.
        steps: Steps of learning for each layer.
        rate: Their size at the beginning, see `learn_constants`.
        batch_size: Prompts per step.
        seed: Of their order.
        tick: Called with the number of steps done and of all.

    Returns:
        A row per layer: `layer`, `n_heads_cut`, and for `optimal`, `mean`, `zero` and `logit_lens` the mean distance
        from the full model on the test prompts (KL in nats), with its standard deviation, `_sd`.

    Raises:
        ConfigurationError: No prompts, no such layer, or a model that puts out numbers.
    """
    require_lens(compiled, train, test, layers)
    n_layers, rows = compiled.shape.n_layers, []
    for place, layer in enumerate(layers):
        mask = edges_up_to(compiled.universe, layer)
        told = None if tick is None else lambda done, _: tick(place * steps + done, len(layers) * steps)  # noqa: B023
        learnt = learn_constants(
            compiled, train, mask, steps=steps, rate=rate, batch_size=batch_size, seed=seed, tick=told
        )  # fmt: skip
        carried: dict[str, AblationData] = {"optimal": learnt, "mean": train, "zero": train}
        row: dict[str, float] = {"layer": layer, "n_heads_cut": (n_layers - 1 - layer) * compiled.shape.n_heads}
        for ablation, data in carried.items():
            found = scores_of(compiled, {"lens": mask}, test, ablation=ablation, ablation_data=data)
            row |= _summed(ablation, found.columns["lens"]["kl"])
        rows.append(row | _summed("logit_lens", _logit_lens(compiled, test, layer, batch_size)))
    return pd.DataFrame(rows)


def require_lens(compiled: CompiledModel, train: EncodedPairs, test: EncodedPairs, layers: Sequence[int]) -> None:
    """Refuse what there is no lens of, before anything is learnt.

    Args:
        compiled: The model.
        train: As of `constant_lens`.
        test: As of `constant_lens`.
        layers: As of `constant_lens`.

    Raises:
        ConfigurationError: No prompts, no such layer, or a model that puts out numbers.
    """
    refuse_spans(compiled.universe, "the optimal-constant lens")
    n_layers = compiled.shape.n_layers
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not len(layers):
        got = f"got {wrong[0]}" if wrong else "got none"
        raise ConfigurationError(f"layers are counted from 0; expected some from 0 to {n_layers - 1}, {got}")
    if not len(train) or not len(test):
        raise ConfigurationError(
            f"the lens is learnt on training prompts and measured on test prompts, and needs some of either; got "
            f"{len(train)} and {len(test)}"
        )
    if test.answer_values is not None:
        raise ConfigurationError("the lens compares distributions over tokens, and this model puts out numbers")


def _summed(name: str, values: np.ndarray) -> dict[str, float]:
    return {name: float(np.nanmean(values)), f"{name}_sd": float(np.nanstd(values))}


@in_settled_state
@torch.no_grad()
def _logit_lens(compiled: CompiledModel, pairs: EncodedPairs, layer: int, batch_size: int) -> np.ndarray:
    """KL(full ‖ logit lens) of each prompt."""
    bound, found = compiled.bound, np.full(len(pairs), np.nan)
    for rows in batches_by_length(pairs.by_length, batch_size):
        batch = pairs.batch(rows, device=compiled.device).clean
        full, said = compiled.run_with_values(batch)
        at_asked = residual_before(said, layer + 1).flatten(0, 1)[batch.predict_index]
        early = bound.unembed(bound.final_norm(at_asked))
        distances = kl_divergence(early, full).double()
        found[rows] = per_prompt_mean(distances, batch.predict_prompt, len(rows)).cpu().numpy()
    return found
