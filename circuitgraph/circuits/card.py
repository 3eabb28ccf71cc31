"""A circuit as a small card of HTML, which notebooks show by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.circuits.provenance import name_in
from circuitgraph.html import card, html_table

if TYPE_CHECKING:
    from circuitgraph.circuits.kept import KeptEdges, ScoredEdges

N_EDGES = 10


def circuit_card(circuit: KeptEdges) -> str:
    """A circuit's model, task, sizes with their denominators, and strongest edges.

    Args:
        circuit: The circuit.

    Returns:
        HTML.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> "Circuit of 2 edges" in circuit_card(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        True
    """
    provenance, universe = circuit.provenance, circuit.universe
    model, task = name_in(provenance, "model"), name_in(provenance, "task")
    found = [f"model {model}" if model else "", f"task {task}" if task else "", f"{circuit.ablation} ablation"]
    title = f"Circuit of {len(circuit):,} edge{'s' * (len(circuit) != 1)}"
    return card(title, ["; ".join(filter(None, found)), universe.description], _sizes(circuit), _strongest(circuit))


def _sizes(circuit: KeptEdges) -> str:
    universe = circuit.universe
    n_heads, n_mlps = (int((universe.writer_kinds == kind).sum()) for kind in ("head", "mlp"))
    parts = [
        ("edges, raw", circuit.n_raw, universe.n_edges),
        ("edges, effective", len(circuit), universe.n_edges),
        ("heads", len(circuit.heads), n_heads),
        ("MLPs", len(circuit.mlps), n_mlps),
    ]
    rows = [(name, f"{kept:,}", f"{total:,}", f"{100 * (1 - kept / total):.2f} %") for name, kept, total in parts]
    return html_table(["", "kept", "of", "sparsity"], rows)


def _strongest(circuit: KeptEdges) -> str:
    places = np.argsort(-circuit.strengths, kind="stable")[:N_EDGES].tolist()
    if not places:
        return ""
    rows = [("->".join(circuit.edges[at]), circuit.kinds[at], f"{circuit.scores[at]:.4g}") for at in places]
    first = "edge" if len(places) == len(circuit) else f"strongest {len(places)} edges"
    return html_table([first, "kind", "score"], rows)


def scores_card(scores: ScoredEdges) -> str:
    """What edge scores are, how they are spread, and the strongest edges.

    Args:
        scores: The scores.

    Returns:
        HTML.
    """
    provenance, universe = scores.provenance, scores.universe
    model, task = name_in(provenance, "model"), name_in(provenance, "task")
    found = [f"model {model}" if model else "", f"task {task}" if task else "", f"{scores.ablation} ablation"]
    values = scores.values
    signs = [("above 0", values > 0), ("0", values == 0), ("below 0", values < 0)]
    counts = html_table(["scores", "edges"], [(name, f"{int(which.sum()):,}") for name, which in signs])
    order = scores.order()[:N_EDGES].tolist()
    rows = [(universe.edge_name(edge), f"{values[edge]:.4g}") for edge in order]
    lines = ["; ".join(filter(None, found)), f"{scores.direction}: {scores.estimates}", universe.description]
    return card(
        f"Scores of {len(values):,} edges by {scores.method}",
        lines,
        counts,
        html_table(["strongest edges", "score"], rows),
    )
