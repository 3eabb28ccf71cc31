"""What the explorer's page is told: nodes with their places, edges with a score per circuit, and facts, as JSON values.

Every kept edge is there once. It ends at the head, MLP or logits that its reader belongs to; one into a key or
value that a group of heads shares ends at the group, such as `a3.kv1`, which the page joins to its heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.comparable import Circuits, named_circuits, require_comparable
from analysis.drawing.caption import name_in, parts_of, recorded_metric, title
from analysis.drawing.effects import Effects, effect_of, read_effects
from analysis.drawing.escaping import xml_text
from analysis.drawing.selection import kept_by, shared_strengths, strongest_edges
from analysis.explorer.heads import Heads, heads_contents
from analysis.explorer.layout import FIRST_LAYER, Gaps, choose_gaps, place_node
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import EDGE_KINDS, WRITER_KINDS, Universe
from circuitgraph.graph.universe_rules import CHOICES

OPENING = 150
"""Edges that are shown when the page opens, the strongest; the others are a click away."""

MAX_EDGES = 5000
"""Edges that the page shows smoothly, and has at most unless told otherwise."""


def page_contents(
    circuits: Circuits,
    *,
    max_edges: int = MAX_EDGES,
    across_checkpoints: bool = False,
    effects: Mapping[str, Effects] | None = None,
    heads: Heads | None = None,
) -> dict[str, Any]:
    """Turn one circuit or two into what the page is told.

    Args:
        circuits: One circuit or two of one universe, with or without names.
        max_edges: How many edges of both together at most.
        across_checkpoints: Allow circuits of different weights or models of the same universe.
        effects: By a circuit's name what cutting each edge alone costs, as in `analysis.drawing.draw`.
        heads: What heads do, as `circuitgraph heads` wrote it.

    Returns:
        JSON values: `title`; `circuits` (name, title, facts, number of edges and how many of them are in the
        page); `universe`; `nodes` in the order of the computation; `edges` by column, where `scores` has a list
        a circuit with null for the edges that it cuts; `heads`, null or as of `analysis.explorer.heads`; and `gaps`
        between layers and heads.

    Raises:
        GraphMismatchError: The circuits, or the heads, are of different universes or models.
        ConfigurationError: There is no circuit, there are more than two, or `max_edges` is below 1; or `heads` cannot
            be read.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, {"input->logits": 2.0})
        >>> b = Circuit.from_edges(universe, {"input->m0": 3.0, "m0->logits": 1.0})
        >>> contents = page_contents({"A": a, "B": b})
        >>> contents["edges"]["scores"]
        [[None, 2.0, None], [3.0, None, 1.0]]
        >>> [node["id"] for node in contents["nodes"]]
        ['input', 'm0', 'logits']
    """
    named = named_circuits(circuits)
    if len(named) > 2:
        raise ConfigurationError(f"an explorer shows one circuit or two; got {len(named)}: compare them in pairs")
    if max_edges < 1:
        raise ConfigurationError(f"max_edges must be at least 1; got {max_edges}")
    universe = require_comparable(named, across_checkpoints=across_checkpoints)
    ids = _chosen_edges(universe, list(named.values()), max_edges)
    refuse_spans(universe, "the explorer")
    gaps = choose_gaps(universe)
    nodes, edges = _nodes_and_edges(universe, ids, gaps)
    edges["scores"] = [_scores(circuit, ids) for circuit in named.values()]
    if effects:
        edges["effects"] = [_effects(universe, ids, effects.get(name)) for name in named]
    names = [node["id"] for node in nodes]
    does = None if heads is None else heads_contents(heads, named, names, across_checkpoints=across_checkpoints)
    titles = list(dict.fromkeys(xml_text(title(circuit)) for circuit in named.values()))
    return {
        "title": " / ".join(titles),
        "universe": {**universe.to_dict(), "family": xml_text(universe.family), "n_edges": universe.n_edges},
        "kinds": [kind for kind in EDGE_KINDS if kind in universe.reader_kinds],
        "writer_kinds": [kind for kind in WRITER_KINDS if kind in universe.writer_kinds],
        "circuits": [_about(name, circuit, ids) for name, circuit in named.items()],
        "opening": OPENING,
        "gaps": {"along": gaps.along, "across": gaps.across, "first": FIRST_LAYER},
        "nodes": nodes,
        "edges": edges,
        "heads": does,
    }


def _chosen_edges(universe: Universe, circuits: list[Circuit], max_edges: int) -> np.ndarray:
    """Flat indices of the edges that go into the page, rising `[edge]`.

    Chosen from both circuits together: an edge that is there is there for each circuit that keeps it, so that
    what only one of them has is not a matter of what was left out.
    """
    ids = np.unique(np.concatenate([circuit.edge_ids for circuit in circuits]))
    if len(ids) <= max_edges:
        return ids
    # Under zero ablation nothing dangles that reaches the logits, and all of these edges do.
    together = Circuit.from_edges(universe, ids, ablation="zero")
    strengths, classes = shared_strengths(together, circuits), kept_by(together, circuits)
    return ids[strongest_edges(together, max_edges, strengths=strengths, classes=classes)]


def _scores(circuit: Circuit, ids: np.ndarray) -> list[float | None]:
    """A circuit's scores of some edges, None for those that it cuts."""
    known = dict(zip(circuit.edge_ids.tolist(), circuit.scores.tolist(), strict=True))
    return [known.get(edge) for edge in ids.tolist()]


def _effects(universe: Universe, ids: np.ndarray, effects: Effects | None) -> list[float | None]:
    """What cutting each of some edges costs a circuit, None where it was not measured."""
    rows = {} if effects is None else read_effects(effects)
    return [effect_of(rows.get(universe.edge_name(edge))) for edge in ids.tolist()]


# -------------------------------------------------------------------- nodes and edges


def _nodes_and_edges(
    universe: Universe, ids: np.ndarray, gaps: Gaps
) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    writers, readers = universe.endpoints(ids)
    sources = [universe.writers[index] for index in writers.tolist()]
    # A reader's name is its node's, with the port behind it: a3.h7<q>, a3.kv1<k>, m3, logits.
    targets = [universe.readers[index].partition("<")[0] for index in readers.tolist()]
    present = set(sources) | set(targets)
    if universe.grouped:
        present |= {head for name in targets for head in _heads_behind(universe, name, set(sources))}
    names = [name for name in _all_nodes(universe) if name in present]
    number = {name: index for index, name in enumerate(names)}
    nodes = [_node(universe, name, number, gaps) for name in names]
    edges: dict[str, list[Any]] = {
        "source": [number[name] for name in sources],
        "target": [number[name] for name in targets],
        "kind": universe.reader_kinds[readers].tolist(),
    }
    return nodes, edges


def _all_nodes(universe: Universe) -> list[str]:
    """Names of everything that could be drawn, each after all that it reads from."""
    names = list(universe.writers[: universe.n_embeddings])
    for layer in range(universe.n_layers):
        names += [name for name in universe.virtual if node_layer(name) == layer]
        if universe.grouped:
            names += [f"a{layer}.kv{group}" for group in range(universe.n_kv_heads)]
        names += [f"a{layer}.h{head}" for head in range(universe.n_heads)]
        names.append(f"m{layer}")
    return [*names, "logits"]


def _heads_behind(universe: Universe, name: str, writers: set[str]) -> list[str]:
    """The heads of a group that write into one of the edges; none for what is no group."""
    module, dot, group = name.partition(".kv")
    if not dot:
        return []
    first = int(group) * universe.group_size
    heads = [f"{module}.h{head}" for head in range(first, first + universe.group_size)]
    return [head for head in heads if head in writers]


def _node(universe: Universe, name: str, number: Mapping[str, int], gaps: Gaps) -> dict[str, Any]:
    kind, layer = node_kind(name), node_layer(name)
    if layer is None:
        layer = universe.n_layers if kind == "logits" else -1
    along, across = place_node(universe, name, gaps)
    node: dict[str, Any] = {"id": name, "kind": kind, "layer": layer, "along": along, "across": across}
    if ".kv" in name:
        heads = _heads_behind(universe, name, set(number))
        node |= {"kind": "group", "heads": [number[head] for head in heads]}
    return node


# -------------------------------------------------------------------- facts


def _about(name: str, circuit: Circuit, ids: np.ndarray) -> dict[str, Any]:
    return {
        "name": xml_text(name),
        "title": xml_text(title(circuit)),
        "n_edges": len(circuit),
        "score_meaning": xml_text(circuit.score_meaning),
        "n_in_page": int(np.isin(circuit.edge_ids, ids, assume_unique=True).sum()),
        "facts": [[label, xml_text(text)] for label, text in _facts(circuit)],
    }


def _facts(circuit: Circuit) -> list[tuple[str, str]]:
    """The legend's lines: label and text."""
    provenance, counts, universe = circuit.provenance, circuit.sparsity, circuit.universe
    rows = [("Model", name_in(provenance, "model") or "not recorded")]
    rows += [("Task", name_in(provenance, "task") or "not recorded")]
    rows += [("Universe", universe_text(universe))]
    rows += [("Edges", f"{len(circuit):,} of {counts['n_universe']:,}")]
    raw = f"raw {100 * counts['raw']:.2f} % ({counts['n_raw']:,} edges)"
    rows += [("Sparsity", f"{100 * counts['effective']:.2f} % effective; {raw}")]
    rows += [("Parts", parts_of(circuit)), ("Ablation", circuit.ablation)]
    for metric, unit in (("kl", " nats"), ("mse", "")):
        recorded = recorded_metric(provenance, metric)
        if recorded:
            rows.append((metric.upper(), f"{recorded[1]:.3f}{unit} ({recorded[0]})"))
    for field in ("recipe", "method", "operation", "seed"):
        value = name_in(provenance, field)
        if value is not None:
            rows.append((field.capitalize(), value))
    return rows


def universe_text(universe: Universe) -> str:
    """A universe in words, with the choices that are not the usual ones.

    Args:
        universe: The universe.

    Returns:
        One line.

    Examples:
        >>> universe_text(Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3))
        'llama, 30 layers of 9 heads (3 key-value heads), 70,651 edges'
    """
    text = f"{universe.family}, {universe.n_layers} layers of {universe.n_heads} heads"
    if universe.n_kv_heads < universe.n_heads:
        text += f" ({universe.n_kv_heads} key-value heads)"
    for name, (usual, *_) in CHOICES.items():
        value = getattr(universe, name)
        if value != usual:
            text += f", {name}={value}"
    return f"{text}, {universe.n_edges:,} edges"
