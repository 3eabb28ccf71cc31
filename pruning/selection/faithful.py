"""Keep rules that run the model: as few of the best edges as leave its outputs as they are.

`faithful` takes the gates' order as it is and looks for its length. `minimal` goes through these edges once more,
the worst first, and cuts those that the others can do without, many at once where it can, until none is left that could
be cut alone. That is some three runs of the prompts for every edge in the end: meant for small graphs, such as those of
compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.ablation_values import AblationValues
from pruning.evaluation.masks import evaluate_masks
from pruning.methods.edge_pruning.gates import Gates
from pruning.prompts.encoding import EncodedPairs
from pruning.selection.best import discretize

_AT_ONCE = 8
# Of prompts that run together: short ones of small models cost next to nothing each, but many batches do.
_TOKENS_AT_ONCE = 4096
_LOGITS_AT_ONCE = 1 << 24

LossesOf = Callable[[Sequence[np.ndarray]], Sequence[float]]


def keep_faithful(
    compiled: CompiledModel,
    gates: Gates,
    pairs: EncodedPairs,
    *,
    ablation: str,
    tolerance: float,
    minimal: bool,
    constants: AblationValues | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Keep edges by what they do.

    Args:
        compiled: The model.
        gates: Trained gates.
        pairs: The prompts that have to come out right, at least one.
        ablation: What cut edges carry.
        tolerance: The KL in nats, or the mean squared error where outputs are numbers, that is close enough.
        minimal: Whether edges that the others can do without are cut as well.
        constants: What cut edges carry, where that is learnt; None takes it from the prompts.

    Returns:
        Flat indices of the kept edges `[n]`, and their scores `[n]`.
    """
    at_once = max(1, min(_TOKENS_AT_ONCE // int(pairs.lengths.max()), _LOGITS_AT_ONCE // compiled.shape.d_vocab))
    metric = "mse" if pairs.answer_values is not None else "kl"

    def losses_of(kept: Sequence[np.ndarray]) -> list[float]:
        masks = {}
        for place, edges in enumerate(kept):
            masks[str(place)] = np.zeros(compiled.universe.n_edges, dtype=bool)
            masks[str(place)][edges] = True
        found = evaluate_masks(
            compiled, masks, pairs, ablation=ablation, ablation_data=constants, batch_size=at_once, intervals=False
        )
        return [float(found[place][metric] or 0.0) for place in masks]

    edges, scores = discretize(gates, keep=fewest_enough(gates, losses_of, tolerance=tolerance))
    if minimal:
        needed = needed_edges(gates, edges, losses_of, tolerance=tolerance)
        edges, scores = edges[needed], scores[needed]
    return edges, scores


def fewest_enough(gates: Gates, losses_of: LossesOf, *, tolerance: float) -> int:
    """How few of the best edges are enough.

    A few lengths are tried at a time, between the longest that was not enough and the shortest that was. A shorter one
    that is enough again by accident is found only where it is tried.

    Args:
        gates: Trained gates.
        losses_of: The losses of some sets of kept edges, flat indices `[n]` each.
        tolerance: The loss up to which edges are enough.

    Returns:
        A number of edges for `discretize`; all of them where even these are not enough.
    """
    low, high = -1, gates.gate_map.universe.n_edges - gates.gate_map.n_removed
    while high - low > 1:
        sizes = sorted({int(size) for size in np.linspace(low + 1, high - 1, min(_AT_ONCE, high - low - 1))})
        losses = losses_of([discretize(gates, keep=size)[0] for size in sizes])
        enough = (size for size, loss in zip(sizes, losses, strict=True) if loss <= tolerance)
        high = min(enough, default=high)
        low = max((size for size in sizes if size < high), default=low)
    return high


def needed_edges(gates: Gates, edges: np.ndarray, losses_of: LossesOf, *, tolerance: float) -> np.ndarray:
    """Which edges the others cannot do without, tried from the lowest score on.

    What is needed at first may be needed no longer once something else is cut, so each is tried again until all stay.

    Args:
        gates: Trained gates; edges tied to one gate go together, and frozen ones stay.
        edges: The edges to begin with, flat indices `[n]`, which are enough.
        losses_of: The losses of some sets of kept edges, flat indices each.
        tolerance: The loss up to which edges are enough.

    Returns:
        Booleans `[n]`: the edges that stay.
    """
    gate_of = gates.gate_map.parameter_of_edge[edges]
    best = gates.log_alpha.detach().double().cpu().numpy()
    trained = np.unique(gate_of[gate_of >= 0])
    order = trained[np.argsort(best[trained], kind="stable")]
    stays = np.ones(len(edges), dtype=bool)

    def cut(some: np.ndarray) -> bool:
        nonlocal stays
        without = stays & ~np.isin(gate_of, some)
        enough = losses_of([edges[without]])[0] <= tolerance
        stays = without if enough else stays
        return enough

    # Many at once where they can go, halved where they cannot, the lowest half first.
    blocks = [order] if len(order) else []
    while blocks:
        block = blocks.pop()
        if not cut(block) and len(block) > 1:
            blocks += [block[len(block) // 2 :], block[: len(block) // 2]]
    # Then one by one, until a round in which all stay.
    last = None
    while last != stays.sum():
        last = stays.sum()
        for gate in order[np.isin(order, gate_of[stays])]:
            cut(np.array([gate]))
    return stays
