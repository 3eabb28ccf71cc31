"""How faithful a circuit is with some coordinates of its writers, next to the circuit whole and to chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.coordinates import Coordinates
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.coordinates.gates import CoordinateLayout, means_of_neurons
from pruning.evaluation.matching import require_universe
from pruning.evaluation.scores import score_prompts
from pruning.frozen.constants import AblationData
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs

WHOLE, KEPT, OTHERS, DRAWN, NONE = "circuit", "coordinates", "the other coordinates", "drawn at random", "none"


@torch.no_grad()
def measure_coordinates(
    compiled: CompiledModel,
    circuit: Circuit,
    coordinates: Coordinates,
    pairs: EncodedPairs,
    *,
    ablation_data: AblationData | None = None,
    n_random: int = 5,
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure a circuit with its coordinates.

    Args:
        compiled: The model.
        circuit: The circuit.
        coordinates: Its coordinates.
        pairs: The prompts.
        ablation_data: The prompts that means are taken over; `pairs` by default.
        n_random: How often as many coordinates of each writer are drawn at random.
        batch_size: Prompts run at once.
        seed: Of the draws.

    Returns:
        A row for the circuit whole (`circuit`), with its `coordinates`, with `the other coordinates`, with as many
        `drawn at random` (the mean over draws) and with `none`: `n_kept`, and the means over prompts of the measures of
        `pruning.evaluation.scores` (`kl` or `mse`, `exact_match`, `accuracy` …), against the full model.

    Raises:
        GraphMismatchError: Another circuit or universe.
        ConfigurationError: No prompts, no coordinates, or writers of other sizes; numbers of draws or prompts that are
            none.
    """
    if n_random < 0 or batch_size < 1:
        raise ConfigurationError(
            f"expected n_random of 0 or more, batch_size of 1 or more; got {n_random}, {batch_size}"
        )
    require_universe(compiled, circuit)
    coordinates.require_circuit(circuit)
    if not len(pairs):
        raise ConfigurationError("there is nothing to measure on: the split has no prompts")
    layout = CoordinateLayout(compiled, circuit, tuple(coordinates.kept))
    for name, place in layout.places.items():
        if len(coordinates.kept[name]) != place.stop - place.start:
            raise ConfigurationError(
                f"{name} has {place.stop - place.start} coordinates in this model; the coordinates given have "
                f"{len(coordinates.kept[name])}"
            )
    kept = np.concatenate([coordinates.kept[name] for name in layout.places])
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n_random):
        parts = [rng.permutation(coordinates.kept[name]) for name in layout.places]
        drawn.append(np.concatenate(parts))
    masks = {WHOLE: [np.ones_like(kept)], KEPT: [kept], OTHERS: [~kept], DRAWN: drawn, NONE: [np.zeros_like(kept)]}
    inner = means_of_neurons(compiled, layout, circuit.ablation, ablation_data, pairs)
    frozen = FrozenRuns(
        compiled, pairs, ablation=circuit.ablation, ablation_data=ablation_data, budget_bytes=0, batch_size=batch_size
    )
    dtype = torch.promote_types(compiled.dtype, torch.float32)
    edges = torch.from_numpy(compiled.gate_map.settled(circuit.mask)).to(dtype)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in masks}
    for some in batches_by_length(pairs.by_length, batch_size):
        batch = frozen.batch(some)
        for name, several in masks.items():
            for mask in several:
                values = torch.from_numpy(mask).to(compiled.device, dtype)
                gates = layout.gates(values, inner)
                logits = compiled.masked(edges, batch.pairs.clean, batch.values, coordinates=gates).logits
                scores = score_prompts(logits, batch.teacher_logits, batch.pairs)
                found[name].append({measure: one.cpu().numpy() for measure, one in scores.items()})
    rows = {}
    for name, parts in found.items():
        if parts:
            n_kept = int(kept.sum()) if name == DRAWN else int(masks[name][0].sum())
            measures = {key: float(np.nanmean(np.concatenate([part[key] for part in parts]))) for key in parts[0]}
            rows[name] = {"n_kept": n_kept, **measures}
    return pd.DataFrame.from_dict(rows, orient="index")
