"""EAP-IG's graph files as JSON: one score and one membership for every edge, key and value readers per query head.

`{"cfg": {...}, "nodes": {name: {"in_graph": …}}, "edges": {"a0.h1->m2": {"score": …, "in_graph": …}}}`. The token
embeddings are one writer, `input`. A file that scores were written to before anything was selected has no edge in its
graph. Scores of nodes and neurons, which some files have besides, are not read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.circuits.formats.content import Content
from circuitgraph.circuits.formats.file_format import KEPT, SCORES, FileChoices, FileFormat, refuse
from circuitgraph.circuits.formats.json_files import begins_like, read_json
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.universe import Universe

_EXPECTED = "a graph file of EAP-IG, with 'cfg', 'nodes' and 'edges'"
_FIELDS = ("cfg", "nodes", "edges")
NODES_LOST = "the file's scores of nodes or neurons"


def eap_ig_universe(universe: Universe) -> Universe:
    """The universe of EAP-IG's files: embeddings together, key and value readers per query head.

    Args:
        universe: Any universe of the model.

    Examples:
        >>> eap_ig_universe(Universe(family="qwen2", n_layers=24, n_heads=14, n_kv_heads=2)).n_edges
        179749
    """
    per_query = "per_query" if universe.group_size > 1 else universe.kv_heads
    return replace(universe, embeddings="joint", kv_heads=per_query, qkv="split")


def check_cfg(path: Path, cfg: object, universe: Universe) -> dict[str, object]:
    """Check a file's `cfg` against a universe.

    Args:
        path: The file, for messages.
        cfg: What it says of the model.
        universe: The universe that the file should be of.

    Returns:
        What universes do not know: `d_model`, where it is there.

    Raises:
        CircuitFormatError: The file is of another model.
    """
    if not isinstance(cfg, Mapping):
        refuse(path, "cfg", f"expected an object with n_layers, n_heads and parallel_attn_mlp; got {cfg!r}")
    right = {
        "n_layers": universe.n_layers,
        "n_heads": universe.n_heads,
        "parallel_attn_mlp": universe.block_order == "parallel",
    }
    for name, value in right.items():
        if name not in cfg:
            refuse(path, f"cfg.{name}", "the field is missing")
        if cfg[name] != value:
            refuse(path, f"cfg.{name}", f"{cfg[name]!r}, but that of the model is {value}: a file of another model")
    width = cfg.get("d_model")
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        refuse(path, "cfg.d_model", f"expected a whole number of at least 1; got {width!r}")
    return {} if width is None else {"d_model": width}


def cfg_of(content: Content, choices: FileChoices) -> dict[str, int | bool]:
    """The `cfg` of a file.

    Raises:
        ConfigurationError: The model's width is not known.
    """
    told = content.about.get("d_model")
    width = choices.d_model or (told if isinstance(told, int) else None)
    if width is None:
        raise ConfigurationError(
            "a file of EAP-IG says how wide the model is, which circuits and scores do not know; give d_model "
            "(--d-model N, or --model NAME)"
        )
    universe = content.universe
    return {
        "n_layers": universe.n_layers,
        "n_heads": universe.n_heads,
        "parallel_attn_mlp": universe.block_order == "parallel",
        "d_model": width,
    }


def nodes_kept(universe: Universe, kept: np.ndarray) -> np.ndarray:
    """Which writers are in a graph, as EAP-IG's own pruning would have it `[writer]`.

    Args:
        universe: What fixes the edges.
        kept: Kept edges `[edge]`.
    """
    effective = np.flatnonzero(effective_edges(universe, kept, "counterfactual"))
    present = np.zeros(universe.n_writers, dtype=bool)
    present[universe.endpoints(effective)[0]] = True
    return present


def edge_names(universe: Universe) -> list[str]:
    """The names of all edges, in the order of the flat gate vector."""
    readers = universe.readers
    return [
        f"{writer}->{readers[block.first_reader + reader]}"
        for block in universe.blocks
        for reader in range(block.n_readers)
        for writer in universe.writers[: block.n_writers]
    ]


def _read(path: Path, universe: Universe, _: FileChoices) -> Content:
    values = read_json(path, _EXPECTED)
    if not isinstance(values, dict) or (missing := [name for name in _FIELDS if name not in values]):
        refuse(path, "top level", f"expected {_EXPECTED}" + (f"; it lacks {', '.join(missing)}" if values else ""))
    about = check_cfg(path, values["cfg"], universe)
    for name in ("nodes", "edges"):
        if not isinstance(values[name], dict):
            refuse(path, name, f"expected an object; got {type(values[name]).__name__}")
    known = {*universe.writers, "logits"}
    for name in values["nodes"]:
        if name not in known:
            refuse(path, f"nodes.{name}", "the model has no such node; is the file of another one?")
    scores, kept = _edges(path, universe, values["edges"])
    fine = any(
        isinstance(node, dict) and {"score", "neurons", "neurons_scores"} & node.keys()
        for node in values["nodes"].values()
    )
    lost = (NODES_LOST,) if fine else ()
    return Content(universe=universe, scores=scores, kept=kept, about=about, lost=lost)


def _edges(path: Path, universe: Universe, rows: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores and kept edges; None for scores where no edge has one, for kept edges where none is in the graph."""
    names = edge_names(universe)
    index = {name: place for place, name in enumerate(names)}
    scores, kept = np.full(universe.n_edges, np.nan), np.zeros(universe.n_edges, dtype=bool)
    unscored = None
    for name, row in rows.items():
        place = index.get(name)
        if place is None:
            refuse(path, f"edges.{name}", f"no edge of the model, which has {universe.n_edges:,} such as {names[-1]}")
        if not isinstance(row, dict):
            refuse(path, f"edges.{name}", f"expected an object with score and in_graph; got {row!r}")
        inside, score = row.get("in_graph", False), row.get("score")
        if not isinstance(inside, bool):
            refuse(path, f"edges.{name}.in_graph", f"expected true or false; got {inside!r}")
        kept[place] = inside
        if score is None:
            unscored = name
            continue
        # No float is larger than this, and infinity and NaN are not below it.
        if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
            refuse(path, f"edges.{name}.score", f"expected a finite number; got {score!r}")
        scores[place] = score
    if np.isnan(scores).all():
        return None, kept
    if len(rows) < universe.n_edges:
        first = next(name for name in names if name not in rows)
        refuse(path, "edges", f"{len(rows):,} of the model's {universe.n_edges:,} edges; the first missing is {first}")
    if unscored is not None:
        refuse(path, f"edges.{unscored}", "the edge has no score, and others have one")
    return scores, kept if kept.any() else None


def _write(content: Content, choices: FileChoices) -> bytes:
    universe = content.universe
    kept = np.zeros(universe.n_edges, dtype=bool) if content.kept is None else content.kept
    scores = (
        np.zeros(universe.n_edges)
        if content.scores is None
        else np.where(kept | (content.kept is None), content.scores, 0.0)
    )
    present = zip(universe.writers, nodes_kept(universe, kept).tolist(), strict=True)
    edges = zip(edge_names(universe), scores.tolist(), kept.tolist(), strict=True)
    values = {
        "cfg": cfg_of(content, choices),
        "nodes": {**{name: {"in_graph": inside} for name, inside in present}, "logits": {"in_graph": True}},
        "edges": {name: {"score": score, "in_graph": inside} for name, score, inside in edges},
    }
    return json.dumps(values, allow_nan=False).encode()


EAP_IG = FileFormat(
    name="eap-ig",
    tool="EAP-IG's Graph.to_json, and MIB's",
    source="https://github.com/hannamw/EAP-IG",
    suffix=".json",
    holds=(SCORES, KEPT),
    meaning="score in a file of EAP-IG: predicted rise of the loss when the edge is corrupted",
    universe=eap_ig_universe,
    recognises=lambda path: begins_like(path, r'\s*\{\s*"(cfg|nodes|edges)"'),
    read=_read,
    write=_write,
)
