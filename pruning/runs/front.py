"""Circuits of several sizes from one ranking: kept beside the circuit of a run, and measured on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from pruning.evaluation.masks import evaluate_masks
from pruning.frozen.constants import AblationData
from pruning.methods.edge_pruning.gates import Gates
from pruning.prompts.encoding import EncodedPairs
from pruning.selection.best import discretize, edges_to_keep

_FIRST = ("which", "seed", "sparsity", "n_edges", "n_heads", "n_mlps", "split", "n")


def front_circuits(gates: Gates, sparsities: Sequence[float], *, ablation: str) -> dict[float, Circuit]:
    """The circuits at some sparsities.

    Args:
        gates: Trained gates.
        sparsities: How sparse they are to be, before dangling edges are dropped.
        ablation: What cut edges carry.

    Returns:
        By sparsity, each with its scores and its `selection`, without dangling edges.
    """
    found = {}
    for sparsity in sparsities:
        edges, scores = discretize(gates, keep=edges_to_keep(gates, rule="target", target_sparsity=sparsity))
        found[sparsity] = Circuit.from_edges(
            gates.gate_map.universe, edges, scores=scores, ablation=ablation,
            provenance={"selection": {"rule": "target", "sparsity": sparsity}},
        )  # fmt: skip
    return found


def measured_front(
    compiled: CompiledModel,
    circuits: Mapping[float, Circuit],
    pairs: EncodedPairs,
    *,
    split: str,
    ablation_data: AblationData | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure the circuits, all in one go over the prompts.

    Args:
        compiled: The model.
        circuits: By sparsity.
        pairs: The prompts.
        split: Their split's name.
        ablation_data: The prompts that means are taken over; or constants (`learn_constants`).
        tick: Called with the number of runs done and of all.

    Returns:
        A row per circuit: `sparsity` (asked for), `n_edges`, `n_heads`, `n_mlps`, `split`, `n` (prompts), the measures
        of `pruning.evaluation.scores` and their `intervals`.
    """
    about = [{"sparsity": sparsity} for sparsity in circuits]
    return measured_rows(compiled, list(zip(about, circuits.values(), strict=True)), pairs, split=split,
                         ablation_data=ablation_data, tick=tick)  # fmt: skip


def measured_rows(
    compiled: CompiledModel,
    circuits: Sequence[tuple[Mapping[str, Any], Circuit]],
    pairs: EncodedPairs,
    *,
    split: str,
    ablation_data: AblationData | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure circuits, all in one go over the prompts.

    Args:
        compiled: The model.
        circuits: Each with what its row begins with.
        pairs: The prompts.
        split: Their split's name.
        ablation_data: The prompts that means are taken over; or constants (`learn_constants`).
        tick: Called with the number of runs done and of all.

    Returns:
        A row per circuit: what it begins with, then as of `measured_front`.
    """
    masks = {f"circuit {place}": circuit for place, (_, circuit) in enumerate(circuits)}
    found = evaluate_masks(compiled, masks, pairs, ablation_data=ablation_data, tick=tick)
    return [
        {**about, "n_heads": len(circuit.heads), "n_mlps": len(circuit.mlps), "split": split, **found[name]}
        for name, (about, circuit) in zip(masks, circuits, strict=True)
    ]


def front_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The measured circuits as a table, a row per circuit, intervals as `MEASURE_low` and `MEASURE_high`.

    Args:
        rows: As of `measured_front`.

    Examples:
        >>> row = {"sparsity": 0.9, "kl": 0.2, "n_edges": 9, "intervals": {"kl": [0.1, 0.3]}}
        >>> front_table([row]).to_dict("records")
        [{'sparsity': 0.9, 'n_edges': 9, 'kl': 0.2, 'kl_low': 0.1, 'kl_high': 0.3}]
    """
    flat: list[dict[str, Any]] = []
    for row in rows:
        plain = {name: value for name, value in row.items() if name != "intervals"}
        for name, bounds in (row.get("intervals") or {}).items():
            if bounds is not None:
                plain[f"{name}_low"], plain[f"{name}_high"] = bounds
        flat.append(plain)
    names = list(dict.fromkeys(name for row in flat for name in row))
    order = [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]
    return pd.DataFrame(flat, columns=order)
