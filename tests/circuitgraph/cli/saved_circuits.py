"""Small saved circuits for tests of the commands that need no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.spans import with_spans
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
ONE = {"input->a0.h1<v>": 3.0, "a0.h1->m1": 2.0, "m1->logits": 1.0, "input->m1": 0.5}
OTHER = {"input->a0.h1<v>": 1.0, "a0.h1->m1": 2.0, "m1->logits": 4.0, "input->logits": 0.5}


def save_all(folder: Path) -> Path:
    """Write `a`, `b`, `empty`, and some that cannot be compared with them.

    `a` and `b` share three of four edges each; `joint` is of a coarser graph, `deeper` of another architecture,
    `tuned` of other weights, `spanned` of edges that are divided by spans.
    """
    model = {"model": "small", "config_hash": "0123"}
    circuits = {
        "a": Circuit.from_edges(UNIVERSE, ONE, provenance=model),
        "b": Circuit.from_edges(UNIVERSE, OTHER, provenance=model),
        "empty": Circuit.from_edges(UNIVERSE, []),
        "zero": Circuit.from_edges(UNIVERSE, OTHER, ablation="zero"),
        "joint": Circuit.from_edges(replace(UNIVERSE, qkv="joint"), ["input->a0.h1<qkv>", "a0.h1->logits"]),
        "deeper": Circuit.from_edges(replace(UNIVERSE, n_layers=3), ["input->logits"]),
        "spanned": Circuit.from_edges(
            with_spans(UNIVERSE, ("name", "end"), asked=("end",)),
            ["input@name->a0.h1<v>@name", "a0.h1@end->m1@end", "m1@end->logits@end"],
        ),
        "tuned": Circuit.from_edges(UNIVERSE, OTHER, provenance={**model, "config_hash": "4567"}),
    }
    for name, circuit in circuits.items():
        circuit.save(folder / f"{name}.json")
    return folder
