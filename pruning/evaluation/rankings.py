"""A ranking of edges, cut at several sizes and measured, all circuits in one go over the prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.sizes import MIB_SIZES, edges_of_sizes
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.liveness import effective_edges
from pruning.evaluation.masks import evaluate_masks
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs


def measure_ranking(
    compiled: CompiledModel,
    scores: EdgeScores | Mapping[str, EdgeScores],
    pairs: EncodedPairs,
    *,
    sizes: Sequence[float] = MIB_SIZES,
    orders: Sequence[str] = ("strength",),
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    head_scale: str = "shared",
    tick: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the circuits that rankings give at some sizes.

    Args:
        compiled: The model.
        scores: One score per edge, or several such by name.
        pairs: The prompts.
        sizes: Shares of all edges; the number of edges is rounded down, as in the Mechanistic Interpretability
            Benchmark. The empty circuit (0) and all edges (1) are added.
        orders: By what edges are ranked, see `EdgeScores.order`; each is a ranking of its own.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts run at once; halved when memory runs out.
        head_scale: As of `evaluate`: `anew` compares with areas of EAP-IG and MIB for Gemma 2.
        tick: Called with the number of runs done and of all.

    Returns:
        A row per circuit: `method` (the name), `order`, `size` (asked for), `n_edges` (kept, dangling ones not
        counted), `n_heads`, `n_mlps`, `n` (prompts), and the means of `pruning.evaluation.scores`.
        `analysis.with_faithfulness`, `cpr_and_cmd` and `area_under_curves` go on from it.

    Raises:
        GraphMismatchError: Scores are of another universe than the model.
        ConfigurationError: A size is not from 0 to 1, the scores are of different ablations, or there are no prompts.
        UnknownNameError: No such order.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task, rank_edges
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> table = measure_ranking(compiled, rank_edges(compiled, task), task.split("test"), sizes=(0.2, 0.5))
        >>> table[["size", "n_edges"]].values.tolist()
        [[0.0, 0.0], [0.2, 18.0], [0.5, 33.0], [1.0, 94.0]]
    """
    named = {scores.method: scores} if isinstance(scores, EdgeScores) else dict(scores)
    for name, one in named.items():
        if one.universe != compiled.universe:
            raise GraphMismatchError(
                f"the scores of {name!r} are of another universe than the model: {one.universe} and {compiled.universe}"
            )
    ablations = {one.ablation for one in named.values()}
    if len(ablations) != 1:
        told = ", ".join(sorted(ablations)) or "no scores"
        raise ConfigurationError(f"expected scores of one ablation, so that all circuits run alike; got {told}")
    (ablation,) = ablations
    for size in sizes:
        if not 0 <= size <= 1:
            raise ConfigurationError(f"a size is a share of all edges, from 0 to 1; got {size:g}")
    cuts = sorted({0.0, 1.0, *map(float, sizes)})
    masks: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for name, one in named.items():
        for order in orders:
            ranked = one.order(by=order)
            for size, n_edges in zip(cuts, edges_of_sizes(len(ranked), cuts), strict=True):
                kept = np.zeros(len(ranked), dtype=bool)
                kept[ranked[:n_edges]] = True
                key = "none" if size == 0 else "all" if size == 1 else f"{name} {order} {size!r}"
                masks[key] = kept
                rows.append({"method": name, "order": order, "size": size, "key": key})
    found = evaluate_masks(
        compiled, masks, pairs, ablation=ablation, ablation_data=ablation_data, batch_size=batch_size,
        head_scale=head_scale, tick=tick, intervals=False,
    )  # fmt: skip
    counts = {key: _parts(compiled, mask, ablation) for key, mask in masks.items()}
    return pd.DataFrame([{**row, **counts[row["key"]], **_plain(found[row["key"]])} for row in rows]).drop(
        columns="key"
    )


def _parts(compiled: CompiledModel, mask: np.ndarray, ablation: str) -> dict[str, int]:
    """Heads and MLPs that write what a circuit uses."""
    writers, _ = compiled.universe.endpoints(np.flatnonzero(effective_edges(compiled.universe, mask, ablation)))
    kinds = compiled.universe.writer_kinds[np.unique(writers)]
    return {"n_heads": int((kinds == "head").sum()), "n_mlps": int((kinds == "mlp").sum())}


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
