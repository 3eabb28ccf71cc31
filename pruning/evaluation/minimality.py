"""How minimal a circuit is: what each of its edges is worth, alone and where others are gone as well.

An edge of a circuit may be idle: without it the circuit does as well. Cutting it alone tells of most edges, and not of
those that stand in for each other, of which any one can go. So an edge is also cut beside random subsets of the others,
and the largest change counts: an edge that changes nothing in any of them is not needed.

    alone    KL(full ‖ circuit without the edge) − KL(full ‖ circuit)
    most     the change of the largest size of KL(full ‖ circuit without subset and edge) − KL(full ‖ circuit without
             subset), over the sampled subsets and the empty one

Where outputs are numbers, the squared error stands in place of the KL.

References:
    Wang et al. 2023, Interpretability in the Wild (arXiv 2211.00593), section 4: minimality.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.masks import evaluate_masks
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs
from pruning.whole_numbers import whole_number


@with_gradients
def measure_minimality(
    compiled: CompiledModel,
    circuit: Circuit,
    pairs: EncodedPairs,
    *,
    n_edges: int = 50,
    n_subsets: int = 4,
    share: float = 0.1,
    seed: int = 0,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    tick: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Cut edges of a circuit, each alone and each beside sampled subsets of the others.

    Args:
        compiled: The model.
        circuit: The circuit.
        pairs: The prompts; swapped ones (`pairs.swapped()`) measure by denoising.
        n_edges: How many edges are looked at, the weakest by their strength first: those are the doubtful ones.
        n_subsets: How many subsets are drawn; 0 cuts each edge alone.
        share: Of the circuit's edges that a subset has.
        seed: Of the subsets.
        ablation: What cut edges carry; by default what the circuit was found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts per batch.
        tick: Called with the number of runs done and of all.

    Returns:
        A row per edge: `edge`, `score`, `alone` and `most` (nats, or squared error), the least `most` in size first.
        It costs `(1 + n_edges) (1 + n_subsets)` runs of the circuit on all prompts.

    Raises:
        ConfigurationError: The circuit has no edges, or a share that is none.
        GraphMismatchError: The circuit is of another universe.

    Examples:
        >>> from circuitgraph import compile_model
        >>> from circuitgraph.models.gate_toys import gate_toy
        >>> from pruning.tasks.gate_toys import gate_prompts
        >>> toy = gate_toy("or")
        >>> compiled, pairs = compile_model(toy, embeddings="joint"), gate_prompts(toy, 4)
        >>> heads = ["input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
        >>> circuit = Circuit.from_edges(compiled.universe, heads)
        >>> found = measure_minimality(compiled, circuit, pairs, n_subsets=8, share=0.2)
        >>> found.set_index("edge").loc[["a0.h0->m0", "m0->logits"], ["alone", "most"]].values.tolist()
        [[0.0, 1.0], [1.0, 1.0]]
    """
    if not len(circuit):
        raise ConfigurationError("the circuit has no edges, so none of them can be cut")
    require_share(share)
    whole_number("n_subsets", n_subsets)
    looked_at = np.argsort(circuit.strengths, kind="stable")[: whole_number("n_edges", n_edges, least=1)]
    subsets = [np.zeros(0, dtype=np.int64), *_drawn(circuit, n_subsets, share, seed)]
    masks = {}
    for number, subset in enumerate(subsets):
        left = circuit.mask.copy()
        left[subset] = False
        masks[_name(number)] = left
        for edge in circuit.edge_ids[looked_at].tolist():
            if left[edge]:
                masks[_name(number, edge)] = left & (np.arange(len(left)) != edge)
    found = evaluate_masks(
        compiled, masks, pairs, ablation=ablation or circuit.ablation, ablation_data=ablation_data,
        batch_size=batch_size, tick=tick, intervals=False,
    )  # fmt: skip
    measure = "mse" if pairs.answer_values is not None else "kl"
    rows = []
    for place in looked_at.tolist():
        edge = int(circuit.edge_ids[place])
        changes = [
            found[_name(number, edge)][measure] - found[_name(number)][measure]
            for number in range(len(subsets))
            if _name(number, edge) in masks
        ]
        row = {"edge": circuit.universe.edge_name(edge), "score": float(circuit.scores[place])}
        rows.append({**row, "alone": changes[0], "most": max(changes, key=abs)})
    table = pd.DataFrame(rows, columns=["edge", "score", "alone", "most"])
    return table.sort_values("most", key=np.abs, kind="stable", ignore_index=True)


def require_share(share: float) -> None:
    """Refuse what is no share of a circuit's edges.

    Args:
        share: Of the circuit's edges that a subset has.

    Raises:
        ConfigurationError: It is not above 0 and below 1.
    """
    if not 0 < share < 1:
        raise ConfigurationError(f"share is of the circuit's edges, above 0 and below 1; got {share:g}")


def _drawn(circuit: Circuit, n: int, share: float, seed: int) -> list[np.ndarray]:
    """Subsets of the circuit's edges, each of its share and of one edge at least."""
    rng = np.random.default_rng(seed)
    size = max(1, round(share * len(circuit)))
    return [rng.choice(circuit.edge_ids, size=size, replace=False) for _ in range(n)]


def _name(subset: int, edge: int | None = None) -> str:
    return f"without {subset}" if edge is None else f"without {subset} and {edge}"
