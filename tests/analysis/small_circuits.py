"""Random circuits small enough for brute force, of every kind of universe, and one to work out by hand."""

from __future__ import annotations

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.universe import Universe

UNIVERSES = {
    "mha": Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2),
    "split": Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2, embeddings="split"),
    "gqa": Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2),
    "mqa": Universe(family="llama", n_layers=3, n_heads=2, n_kv_heads=1),
    "per_query": Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2, kv_heads="per_query"),
    "joint": Universe(family="gpt2", n_layers=2, n_heads=3, n_kv_heads=3, qkv="joint"),
    "parallel": Universe(family="pythia", n_layers=3, n_heads=2, n_kv_heads=2, block_order="parallel"),
}
CODELLAMA_13B = Universe(family="llama", n_layers=40, n_heads=40, n_kv_heads=40)


def random_circuit(name: str, seed: int, *, scores: str = "normal", ablation: str = "counterfactual") -> Circuit:
    """A random circuit of a named universe, about a third of it and at least a dozen edges.

    Args:
        name: A key of `UNIVERSES`.
        seed: Of the random draws.
        scores: `normal` (both signs), `ties` (-1, 0, 1 and 2) or `equal` (1 each).
        ablation: As of `Circuit`.
    """
    universe = UNIVERSES[name]
    generator = np.random.default_rng(seed)
    kept = np.zeros(0, dtype=np.int64)
    while len(Circuit.from_edges(universe, kept, ablation=ablation)) < 12:
        kept = np.flatnonzero(generator.random(universe.n_edges) < generator.uniform(0.3, 0.55))
    drawn = {
        "normal": generator.normal(size=len(kept)),
        "ties": generator.choice([-1.0, 0.0, 1.0, 2.0], len(kept)),
        "equal": np.ones(len(kept)),
    }[scores]
    return Circuit.from_edges(universe, kept, scores=drawn, ablation=ablation)


def large_circuit(seed: int = 0, *, n_edges: int = 5000) -> Circuit:
    """Edges of the CodeLlama-13B universe that crowd on a few nodes, all of them effective.

    Nodes are drawn by how often real circuits use them, roughly: few do most of the work. A chain through
    the chosen heads of all layers keeps everything on a path.
    """
    universe, generator = CODELLAMA_13B, np.random.default_rng(seed)
    weight = generator.gamma(0.3, 1, universe.n_writers) + 1e-3
    weight[0] = weight.max()
    chance = weight / weight.sum()
    kept = np.zeros(universe.n_edges, dtype=bool)
    circuit = Circuit.from_edges(universe, kept)
    readers = {name: index for index, name in enumerate(universe.readers)}
    sees = np.diff(universe.reader_offsets)
    while len(circuit) < n_edges:
        writers = generator.choice(universe.n_writers, 2000, p=chance)
        ends = generator.choice(universe.n_writers, 2000, p=chance)
        for writer, end in zip(writers.tolist(), ends.tolist(), strict=True):
            name = universe.writers[end]
            if name == "input":
                reader = readers["logits"]
            else:
                port = f"<{generator.choice(list('qkv'))}>" if ".h" in name else ""
                reader = readers[name + port]
            if writer < sees[reader]:
                kept[universe.reader_offsets[reader] + writer] = True
        circuit = Circuit.from_edges(universe, kept)
    edges = np.flatnonzero(circuit.mask)
    return Circuit.from_edges(universe, edges, scores=generator.gamma(0.5, 2, len(edges)) - 0.05)


def hand_circuit() -> Circuit:
    """Two layers with one shared key-value head, and scores that can be worked with in the head.

    ```
    input -4-> a0.kv0<v> => a0.h0, a0.h1      a0.h0 -3-> a1.h0<q> => a1.h0      a1.h0 -6-> logits
    input -1-> m0                             a0.h1 -2-> m0                     input -0.5-> logits
    m0 --5-> a1.kv0<k> => a1.h0
    ```
    """
    universe = UNIVERSES["hand"]
    scores = {
        "input->a0.kv0<v>": 4.0,
        "input->m0": 1.0,
        "a0.h0->a1.h0<q>": 3.0,
        "a0.h1->m0": 2.0,
        "m0->a1.kv0<k>": -5.0,
        "a1.h0->logits": 6.0,
        "input->logits": 0.5,
    }
    return Circuit.from_edges(universe, scores)


UNIVERSES["hand"] = Universe(family="llama", n_layers=2, n_heads=2, n_kv_heads=1)
