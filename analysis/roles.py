"""What heads do, as attributes of a graph's nodes."""

from __future__ import annotations

import networkx as nx
import pandas as pd

from circuitgraph.errors import ConfigurationError


def label_roles(graph: nx.DiGraph, table: pd.DataFrame) -> nx.DiGraph:
    """A copy of a graph whose heads say what they do.

    Args:
        graph: A circuit's graph, or a model's.
        table: A row per head with `head` and `roles`, as `pruning.head_roles(…).table` or `heads.csv` has it; its other
            numbers become attributes too, where they are known.

    Returns:
        The copy; heads in the table get `roles` (a list of names) and a number per column.

    Raises:
        ConfigurationError: A table without these columns.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h0<v>", "a0.h0->logits"])
        >>> table = pd.DataFrame({"head": ["a0.h0"], "roles": ["induction, mover"], "induction": [0.9]})
        >>> labelled = label_roles(circuit.graph, table)
        >>> labelled.nodes["a0.h0"]["roles"], labelled.nodes["a0.h0"]["induction"]
        (['induction', 'mover'], 0.9)
        >>> [name for name, roles in labelled.nodes(data="roles") if roles and "induction" in roles]
        ['a0.h0']
    """
    missing = [name for name in ("head", "roles") if name not in table]
    if missing:
        raise ConfigurationError(f"expected a table with the columns head and roles; it lacks {', '.join(missing)}")
    labelled = graph.copy()
    for row in table.to_dict("records"):
        name = str(row.pop("head"))
        if name not in labelled:
            continue
        named = row.pop("roles")
        labelled.nodes[name]["roles"] = named.split(", ") if isinstance(named, str) and named else []
        numbers = {key: float(value) for key, value in row.items() if key != "layer" and pd.notna(value)}
        labelled.nodes[name].update({str(key): value for key, value in numbers.items()})
    return labelled
