"""EAP-IG's graph files as tensors: scores and memberships `[writer, reader]`, with the names of both in order.

EAP-IG does not look at the names when it reads such a file, so one whose nodes are in another order would be taken for
another circuit. Here it is refused. Entries that are no edges are 0 or −∞.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.circuits.formats.content import Content
from circuitgraph.circuits.formats.eap_ig import NODES_LOST, cfg_of, check_cfg, eap_ig_universe, nodes_kept
from circuitgraph.circuits.formats.file_format import KEPT, SCORES, FileChoices, FileFormat, refuse
from circuitgraph.circuits.formats.tensor_files import holds_text, read_tensors, tensor_bytes
from circuitgraph.graph.universe import Universe

_EXPECTED = "what EAP-IG's Graph.to_pt writes"
_FIELDS = ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph")
_FINER = ("nodes_scores", "neurons_in_graph", "neurons_scores")


def _read(path: Path, universe: Universe, _: FileChoices) -> Content:
    values = read_tensors(path, _EXPECTED)
    if not isinstance(values, dict) or (missing := [name for name in _FIELDS if name not in values]):
        lacks = f"; it lacks {', '.join(missing)}" if isinstance(values, dict) else ""
        refuse(path, "top level", f"expected {_EXPECTED}{lacks}")
    about = check_cfg(path, values["cfg"], universe)
    _check_order(path, "src_nodes", values["src_nodes"], universe.writers)
    _check_order(path, "dst_nodes", values["dst_nodes"], universe.readers)
    scores = _matrix(path, "edges_scores", values["edges_scores"], universe)
    kept = _matrix(path, "edges_in_graph", values["edges_in_graph"], universe)
    if kept.dtype != bool and not np.isin(kept, (0.0, 1.0)).all():
        refuse(path, "edges_in_graph", "expected true and false alone")
    places = universe.endpoints(np.arange(universe.n_edges))
    others = np.ones(scores.shape, dtype=bool)
    others[places] = False
    strange = others & np.isfinite(scores) & (scores != 0)
    if strange.any():
        writer, reader = (int(at[0]) for at in np.nonzero(strange))
        where = f"{universe.writers[writer]}->{universe.readers[reader]}"
        refuse(path, "edges_scores", f"a score of {scores[writer, reader]:g} at {where}, which is no edge")
    found, inside = scores[places].astype(np.float64), kept[places].astype(bool)
    broken = np.flatnonzero(~np.isfinite(found))
    if len(broken):
        first = int(broken[0])
        refuse(
            path,
            "edges_scores",
            f"{len(broken):,} scores are not finite, the first that of {universe.edge_name(first)}: {found[first]}",
        )
    lost = (NODES_LOST,) if any(name in values for name in _FINER) else ()
    return Content(universe=universe, scores=found, kept=inside if inside.any() else None, about=about, lost=lost)


def _check_order(path: Path, field: str, names: Any, right: tuple[str, ...]) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        refuse(path, field, f"expected a list of names; got {type(names).__name__}")
    if len(names) != len(right):
        refuse(path, field, f"{len(names):,} names; the model has {len(right):,}: a file of another model?")
    for place, (name, expected) in enumerate(zip(names, right, strict=True)):
        if name != expected:
            refuse(
                path,
                f"{field}[{place}]",
                f"{name!r}, where {expected!r} comes in EAP-IG's order, which decides what the numbers mean",
            )


def _matrix(path: Path, field: str, value: Any, universe: Universe) -> np.ndarray:
    shape = (universe.n_writers, universe.n_readers)
    if not isinstance(value, np.ndarray) or value.shape != shape:
        got = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        refuse(path, field, f"expected a tensor [writer, reader] of shape {shape}; got {got}")
    return value


def _write(content: Content, choices: FileChoices) -> bytes:
    universe = content.universe
    places = universe.endpoints(np.arange(universe.n_edges))
    scores = np.zeros((universe.n_writers, universe.n_readers), dtype=np.float32)
    kept = np.zeros(scores.shape, dtype=bool)
    if content.kept is not None:
        kept[places] = content.kept
    if content.scores is not None:
        counted = content.scores if content.kept is None else np.where(content.kept, content.scores, 0.0)
        scores[places] = counted.astype(np.float32)
    values = {
        "cfg": cfg_of(content, choices),
        "src_nodes": list(universe.writers),
        "dst_nodes": list(universe.readers),
        "edges_scores": scores,
        "edges_in_graph": kept,
        "nodes_in_graph": nodes_kept(universe, kept[places]),
    }
    return tensor_bytes(values)


EAP_IG_PT = FileFormat(
    name="eap-ig-pt",
    tool="EAP-IG's Graph.to_pt, and MIB's",
    source="https://github.com/hannamw/EAP-IG",
    suffix=".pt",
    holds=(SCORES, KEPT),
    meaning="score in a file of EAP-IG: predicted rise of the loss when the edge is corrupted",
    universe=eap_ig_universe,
    recognises=lambda path: holds_text(path, b"src_nodes", b"edges_scores"),
    read=_read,
    write=_write,
)
