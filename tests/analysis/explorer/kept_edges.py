"""A circuit's edges read from its file by `json` alone: what the explorer's numbers are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from circuitgraph.circuits.circuit import Circuit


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An edge as the file has it, with what its names say."""

    source: str
    target: str
    kind: str
    score: float

    @property
    def writer_kind(self) -> str:
        return {"a": "head", "m": "mlp"}.get(self.source[0], "embedding")

    @property
    def writer_layer(self) -> int:
        return -1 if self.writer_kind == "embedding" else _layer(self.source)

    def reader_layer(self, n_layers: int) -> int:
        return n_layers if self.target == "logits" else _layer(self.target)


def _layer(name: str) -> int:
    return int(name[1:].partition(".")[0])


def kept_edges(circuit: Circuit, folder: Path) -> list[Kept]:
    """Save a circuit and read its edges back."""
    saved = json.loads(circuit.save(folder / "circuit.json").read_text())
    return [
        Kept(source=edge["source"], target=edge["target"], kind=edge["kind"], score=edge["score"])
        for edge in saved["edges"]
        if edge["kind"] != "structural"
    ]


def names(edges: list[Kept]) -> dict[tuple[str, str], Kept]:
    return {(edge.source, edge.target): edge for edge in edges}


def nodes_of(edges: list[Kept]) -> set[str]:
    """Writers and what is read into, heads and groups of heads without their ports."""
    return {edge.source for edge in edges} | {edge.target.partition("<")[0] for edge in edges}
