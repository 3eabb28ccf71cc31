"""A compiled model as a small card of HTML, which notebooks show by themselves."""

from __future__ import annotations

from circuitgraph.graph.gate_map import GateMap
from circuitgraph.html import card, html_table


def model_card(name: str, revision: str | None, gate_map: GateMap) -> str:
    """A compiled model's name, universe, and what may be learnt of it.

    Args:
        name: What the model is called.
        revision: Its version, if known.
        gate_map: Its edges and their gates.

    Returns:
        HTML.
    """
    universe = gate_map.universe
    title = f"Compiled model {name}" if revision is None else f"Compiled model {name}, revision {revision}"
    rows = [
        ("edges", f"{universe.n_edges:,}"),
        ("edges removed", f"{gate_map.n_removed:,}"),
        ("edges frozen", f"{gate_map.n_frozen:,}"),
        ("gates", f"{gate_map.n_parameters:,}"),
        ("writers", f"{universe.n_writers:,}"),
        ("readers", f"{universe.n_readers:,}"),
    ]
    return card(title, [universe.description], html_table(["", "number"], rows))
