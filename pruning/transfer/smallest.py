"""The smallest circuit of a ranking that is faithful enough, among the sizes that are tried.

1. Sizes are tried from the smallest on, a few at once, until one is enough.
2. Then sizes between it and the one before are tried, each time the one halfway, as often as `zoom` says.

So every smaller size that was tried is not enough. Faithfulness is the share of the way from the empty circuit to the
full model, (m − m_empty) / (m_full − m_empty), of a mean m over prompts; what is kept counts before dangling edges go.

References:
    Hanna, Pezzelle, Belinkov 2025, "Are formal and functional linguistic mechanisms dissociated in language models?"
    (arXiv 2503.11302), whose threshold of 0.85 is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.top import top_edges
from circuitgraph.circuits.sizes import edges_of_sizes
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.masks import evaluate_masks
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs
from pruning.transfer.measure import EMPTY, FULL, usual_measure
from pruning.whole_numbers import whole_number

SIZES = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Shares of all edges that are tried by default."""
_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """What a search for the smallest faithful circuit found.

    Attributes:
        circuit: The circuit, without dangling edges.
        size: Its size as the share of all edges that was asked for.
        faithfulness: How faithful it is, 1 being the full model.
        measure: The mean that faithfulness is a share of.
        tried: A row per size that was tried, rising: `size`, `n_edges` (asked for), `faithfulness`, `kl` (or `mse`),
            and `enough` (bool); every row before the circuit's is not enough.
    """

    circuit: Circuit
    size: float
    faithfulness: float
    measure: str
    tried: pd.DataFrame


@with_gradients
def smallest_circuit(
    compiled: CompiledModel,
    scores: EdgeScores,
    pairs: EncodedPairs,
    *,
    faithfulness: float = 0.85,
    measure: str | None = None,
    sizes: Sequence[float] = SIZES,
    zoom: int = 2,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    tick: Callable[[int, int], None] | None = None,
) -> Smallest:
    """Cut a ranking at rising sizes until its circuit is faithful enough.

    Args:
        compiled: The model.
        scores: One score per edge; edges are ranked by their strength.
        pairs: The prompts that faithfulness is measured on.
        faithfulness: How faithful the circuit has to be, 1 being the full model and 0 no edge.
        measure: A mean of `pruning.evaluation.scores`; by default the prompts' own, see `usual_measure`.
        sizes: Shares of all edges to try; the number of edges is rounded down.
        zoom: How many sizes between the last that was not enough and the first that was are tried besides.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants.
        batch_size: Prompts run at once.
        tick: Called with the number of sizes tried, and with how many it takes at most.

    Returns:
        The circuit, and what was tried.

    Raises:
        GraphMismatchError: The scores are of another universe than the model.
        ConfigurationError: No size is enough, a size is not above 0 and at most 1, there are no prompts, or the full
            model and no edge at all have the same mean.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task, rank_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> task = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})
        >>> found = smallest_circuit(compiled, rank_edges(compiled, task), task.split("test"), zoom=0)
        >>> found.tried["enough"].tolist()[-2:], found.faithfulness >= 0.85
        ([False, True], True)
    """
    if scores.universe != compiled.universe:
        raise GraphMismatchError(
            f"the scores are of another universe than the model: {scores.universe} and {compiled.universe}"
        )
    n_universe, measure = compiled.universe.n_edges, measure or usual_measure(pairs)
    rising = sorted(set(numbers_of_edges(sizes, n_universe)))
    require_faithfulness(faithfulness)
    order = scores.order()
    tried: dict[int, dict[str, float]] = {}

    def try_sizes(counts: Sequence[int]) -> None:
        masks: dict[str, np.ndarray] = {EMPTY: np.zeros(n_universe, dtype=bool)}
        for n in counts:
            masks[str(n)] = np.isin(np.arange(n_universe), order[:n])
        found = evaluate_masks(
            compiled, masks, pairs, ablation=scores.ablation, ablation_data=ablation_data, batch_size=batch_size,
            intervals=False,
        )  # fmt: skip
        span = _mean(found[FULL], measure) - (base := _mean(found[EMPTY], measure))
        if span == 0:
            raise ConfigurationError(
                f"{measure}: the full model and no edge at all have the same mean ({base:g}) on these prompts, so that "
                "nothing can be said of what lies between; choose another measure, or other prompts"
            )
        loss = "kl" if "kl" in found[FULL] else "mse"
        for n in counts:
            row = found[str(n)]
            tried[n] = {"faithfulness": (_mean(row, measure) - base) / span, loss: _mean(row, loss)}
        if tick is not None:
            tick(len(tried), len(rising) + zoom)

    for first in range(0, len(rising), _AT_ONCE):
        try_sizes(rising[first : first + _AT_ONCE])
        if (n := _first_enough(tried, faithfulness)) is not None:
            break
    else:
        best = max(tried, key=lambda n: tried[n]["faithfulness"])
        raise ConfigurationError(
            f"none of {len(tried)} sizes is as faithful as {faithfulness:g} by {measure}; the best has {best:,} of "
            f"{n_universe:,} edges and {tried[best]['faithfulness']:.3f}. Try larger sizes, or ask for less"
        )
    for _ in range(whole_number("zoom", zoom, least=0)):
        below = max((other for other in tried if other < n), default=0)
        if n - below < 2:
            break
        try_sizes([(n + below) // 2])
        n = _first_enough(tried, faithfulness)
        assert n is not None
    table = _table({count: row for count, row in sorted(tried.items()) if count <= n}, n_universe, faithfulness)
    circuit = top_edges(scores, n)
    about = {"rule": "smallest", "n": n, "faithfulness": faithfulness, "measure": measure, "zoom": zoom}
    circuit = circuit.with_provenance({**circuit.provenance, "selection": about})
    return Smallest(
        circuit=circuit, size=n / n_universe, faithfulness=tried[n]["faithfulness"], measure=measure, tried=table
    )


def require_faithfulness(faithfulness: float) -> None:
    """Refuse what no circuit can be.

    Args:
        faithfulness: How faithful a circuit has to be.

    Raises:
        ConfigurationError: NaN or infinite.
    """
    if not np.isfinite(faithfulness):
        raise ConfigurationError(f"faithfulness must be a number, such as 0.85; got {faithfulness}")


def numbers_of_edges(sizes: Sequence[float], n_universe: int) -> list[int]:
    """How many edges circuits of some sizes have, one at least.

    Args:
        sizes: Shares of all edges.
        n_universe: How many these are.

    Raises:
        ConfigurationError: None, or no shares.
    """
    if not sizes:
        raise ConfigurationError("expected at least one size, a share of all edges above 0; got none")
    for size in sizes:
        if not 0 < size <= 1:
            raise ConfigurationError(f"a size is a share of all edges, above 0 and at most 1; got {size:g}")
    return [max(1, n) for n in edges_of_sizes(n_universe, sizes)]


def _mean(row: dict, measure: str) -> float:
    value = row.get(measure)
    if not isinstance(value, int | float) or not np.isfinite(value):
        known = ", ".join(name for name, one in row.items() if isinstance(one, float))
        raise ConfigurationError(f"measure {measure!r} has no mean on these prompts; there are {known}")
    return float(value)


def _first_enough(tried: dict[int, dict[str, float]], faithfulness: float) -> int | None:
    return next((n for n in sorted(tried) if tried[n]["faithfulness"] >= faithfulness), None)


def _table(tried: dict[int, dict[str, float]], n_universe: int, faithfulness: float) -> pd.DataFrame:
    rows = [
        {"size": n / n_universe, "n_edges": n, **row, "enough": row["faithfulness"] >= faithfulness}
        for n, row in tried.items()
    ]
    return pd.DataFrame(rows)
