"""Many circuits, or sets of kept edges, measured on the same prompts; what never changes is run once for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.normed_anew import SHARED
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.matching import require_edits, require_universe
from pruning.evaluation.measured import Measured, measure_prompts
from pruning.evaluation.summary import summary, warn_of_undefined
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs


@with_gradients
def evaluate_masks(
    compiled: CompiledModel,
    masks: Mapping[str, Circuit | np.ndarray],
    pairs: EncodedPairs,
    *,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    only_on: Mapping[str, np.ndarray] | None = None,
    head_scale: str = SHARED,
    tick: Callable[[int, int], None] | None = None,
    intervals: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure many circuits, or sets of kept edges, on the same prompts; what never changes is run once for all.

    Args:
        compiled: The model.
        masks: By name, a circuit, or one boolean per edge of the universe, true where kept `[edge]`; the name `full`
            is taken. Circuits have lost their dangling edges; a mask is run as it is, but for edges that were removed
            from the model's graph, which are never kept, and frozen ones, which always are.
        pairs: The prompts, at least one.
        ablation: What cut edges carry; by default what the circuits were found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts per batch; halved when memory runs out.
        only_on: By name of a set that is not to run on all prompts, the places of those that it runs on, rising; `n`
            of its metrics is then their number.
        head_scale: As of `evaluate`.
        tick: Called with the number of runs done and of all, after every batch: one per prompt and set.
        intervals: Whether to bootstrap.

    Returns:
        Metrics by name as of `evaluate`, without differences; those of the full model as `full`. `metrics_table` makes
        them a table.

    Raises:
        GraphMismatchError: A circuit is of another universe, or not of the model's edited graph.
        ConfigurationError: No prompts, a mask that is not one boolean per edge, the name `full`, or no ablation where
            the circuits have none in common.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task, metrics_table
        >>> compiled = compile_model(load_model("tracr:xproportion"), embeddings="split")
        >>> inputs = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3}).split("test")
        >>> truth = Circuit.from_edges(compiled.universe, ground_truth_edges("xproportion"), ablation="zero")
        >>> measured = evaluate_masks(compiled, {"truth": truth, "rest": ~truth.mask}, inputs)
        >>> metrics_table(measured)["accuracy"].round(2).to_dict()
        {'full': 1.0, 'truth': 1.0, 'rest': 0.46}
    """
    measured = scores_of(
        compiled, masks, pairs, ablation=ablation, ablation_data=ablation_data, batch_size=batch_size,
        only_on=only_on, head_scale=head_scale, tick=tick,
    )  # fmt: skip
    return metrics_of_columns(compiled, measured, pairs, intervals=intervals)


@with_gradients
def scores_of(
    compiled: CompiledModel,
    masks: Mapping[str, Circuit | np.ndarray],
    pairs: EncodedPairs,
    *,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    only_on: Mapping[str, np.ndarray] | None = None,
    head_scale: str = SHARED,
    tick: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure many circuits, or sets of kept edges, prompt by prompt; `evaluate_masks` without its means.

    Args:
        compiled: The model.
        masks: As of `evaluate_masks`.
        pairs: The prompts, at least one.
        ablation: What cut edges carry; by default what the circuits were found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts run at once; halved when memory runs out.
        only_on: As of `evaluate_masks`.
        head_scale: As of `evaluate`.
        tick: As of `evaluate_masks`.

    Returns:
        Scores by name and measure, one per prompt that a set ran on.

    Raises:
        GraphMismatchError: A circuit is of another universe, or not of the model's edited graph.
        ConfigurationError: As of `evaluate_masks`.
    """
    if not len(pairs):
        raise ConfigurationError("there is nothing to evaluate on: the split has no prompts")
    return measure_prompts(
        compiled,
        {name: _mask_of(compiled, name, one) for name, one in masks.items()},
        pairs,
        ablation=ablation or _common_ablation(masks),
        ablation_data=ablation_data,
        batch_size=batch_size,
        only_on=only_on,
        head_scale=head_scale,
        tick=tick,
    )


def metrics_of_columns(
    compiled: CompiledModel, measured: Measured, pairs: EncodedPairs, *, intervals: bool = True
) -> dict[str, dict[str, Any]]:
    """Sum up sets of kept edges, and warn of prompts that were left out.

    Args:
        compiled: The model that they ran in.
        measured: Their scores.
        pairs: The prompts, to be named.
        intervals: Whether to bootstrap.

    Returns:
        Metrics by name as of `evaluate`, without differences.
    """
    found = {
        name: summary(scores, measured.at("full", name), intervals=intervals)
        for name, scores in measured.columns.items()
    }
    for name, mask in measured.masks.items():
        found[name]["n_edges"] = n_edges_run(compiled, mask, measured.ablation)
    found["full"]["n_edges"] = compiled.universe.n_edges
    warn_of_undefined(found, measured.undefined(), pairs.texts)
    return found


def _mask_of(compiled: CompiledModel, name: str, one: Circuit | np.ndarray) -> np.ndarray:
    """The kept edges of a circuit, or of a mask that is one."""
    if name == "full":
        raise ConfigurationError("the name 'full' is that of the whole model, which is measured in any case")
    if isinstance(one, Circuit):
        require_universe(compiled, one, f"the universe of {name!r}")
        require_edits(compiled, one, repr(name))
        return one.mask
    n_edges = compiled.universe.n_edges
    if one.dtype != np.bool_ or one.shape != (n_edges,):
        raise ConfigurationError(
            f"{name!r}: expected a circuit, or one boolean for each of the universe's {n_edges:,} edges; "
            f"got {one.dtype} of shape {one.shape}"
        )
    return one


def _common_ablation(masks: Mapping[str, Circuit | np.ndarray]) -> str:
    """What the cut edges of all circuits among them carry."""
    found = {one.ablation for one in masks.values() if isinstance(one, Circuit)}
    if len(found) != 1:
        told = f"the circuits differ in it ({', '.join(sorted(found))})" if found else "masks do not say"
        raise ConfigurationError(f"ablation: {told}; say what cut edges carry, with ablation=")
    return found.pop()


def n_edges_run(compiled: CompiledModel, mask: np.ndarray, ablation: str) -> int:
    """How many edges a set keeps when it is run, dangling ones not counted.

    Args:
        compiled: The model, whose removed edges are never kept and whose frozen ones always are.
        mask: One boolean per edge, true where kept.
        ablation: What cut edges carry.
    """
    return int(effective_edges(compiled.universe, compiled.gate_map.settled(mask), ablation).sum())
