"""Edge-Pruning's `edges.json`: the kept edges as a list of pairs `[from, to]`, nothing else.

Keys and values are those of key-value heads. GPT-2's embeddings are two writers, `tok_embeds` and `pos_embeds`, Llama's
one, `embeds`; they are listed only where the run masked them (its option `-w`), otherwise they reach every reader.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.circuits.formats.content import Content
from circuitgraph.circuits.formats.file_format import KEPT, FileChoices, FileFormat, refuse
from circuitgraph.circuits.formats.json_files import begins_like, read_json
from circuitgraph.errors import CircuitGraphError, UnknownNameError
from circuitgraph.graph.universe import Universe

_EXPECTED = "a list of pairs [from, to], as Edge-Pruning's edges.json is"
_EMBEDDINGS = {"tok_embeds": "tok", "pos_embeds": "pos", "embeds": "input"}
_READER = re.compile(r"a(\d+)\.h(\d+)\.([qkv])")
_OUT = "resid_post"
ALWAYS = "always"


def edge_pruning_universe(universe: Universe) -> Universe:
    """The universe of Edge-Pruning's files: native key-value heads; GPT-2's embeddings apart.

    Args:
        universe: Any universe of the model.
    """
    embeddings = "split" if universe.family in ("gpt2", "tracr") else "joint"
    kv_heads = "native" if universe.group_size > 1 else universe.kv_heads
    return replace(universe, embeddings=embeddings, kv_heads=kv_heads, qkv="split")


def _read(path: Path, universe: Universe, choices: FileChoices) -> Content:
    if choices.embedding_edges not in (None, ALWAYS):
        raise UnknownNameError.of("embedding_edges", choices.embedding_edges, (ALWAYS,))
    rows = read_json(path, _EXPECTED)
    if not isinstance(rows, list):
        refuse(path, "top level", f"expected {_EXPECTED}; got {type(rows).__name__}")
    kept = np.zeros(universe.n_edges, dtype=bool)
    for place, row in enumerate(rows):
        edge = _edge(path, universe, place, row)
        if kept[edge]:
            refuse(path, f"[{place}]", f"the edge {row[0]} -> {row[1]} comes twice")
        kept[edge] = True
    writers = universe.writer_of_edge
    from_embeddings = writers < universe.n_embeddings
    if not (kept & from_embeddings).any():
        if choices.embedding_edges is None and kept.any():
            refuse(
                path,
                "embeddings",
                "no edge comes from one. In a run that did not mask them they reach every reader: say so with "
                "embedding_edges='always' (--embedding-edges always)",
            )
        kept |= from_embeddings & (choices.embedding_edges == ALWAYS)
    return Content(universe=universe, kept=kept)


def _edge(path: Path, universe: Universe, place: int, row: Any) -> int:
    """The flat index of a row."""
    if not isinstance(row, list) or len(row) != 2 or not all(isinstance(name, str) for name in row):
        refuse(path, f"[{place}]", f"expected a pair of names; got {row!r}")
    source, target = str(row[0]), str(row[1])
    kv = "kv" if universe.grouped else "h"
    match = _READER.fullmatch(target)
    reader = "logits" if target == _OUT else target
    if match:
        layer, head, letter = match.groups()
        reader = f"a{layer}.{'h' if letter == 'q' else kv}{head}<{letter}>"
    try:
        return universe.edge_index(_EMBEDDINGS.get(source, source), reader)
    except CircuitGraphError as error:
        refuse(path, f"[{place}]", f"{source} -> {target}: {error}; is the file of another model?")


def _write(content: Content, _: FileChoices) -> bytes:
    universe = content.universe
    assert content.kept is not None
    embeddings = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}
    writers = [embeddings.get(name, name) for name in universe.writers]
    readers = [re.sub(r"(?:kv|h)(\d+)<([qkv])>", r"h\1.\2", name).replace("logits", _OUT) for name in universe.readers]
    pairs = zip(*(ends.tolist() for ends in universe.endpoints(np.flatnonzero(content.kept))), strict=True)
    rows = ",\n".join("  " + json.dumps([writers[writer], readers[reader]]) for writer, reader in pairs)
    return (f"[\n{rows}\n]\n" if rows else "[]\n").encode()


EDGE_PRUNING = FileFormat(
    name="edge-pruning",
    tool="the edges.json of Edge-Pruning",
    source="https://github.com/princeton-nlp/Edge-Pruning",
    suffix=".json",
    holds=(KEPT,),
    meaning="none: 1 for every kept edge",
    universe=edge_pruning_universe,
    recognises=lambda path: begins_like(path, r"\s*\[\s*(\[|\])"),
    read=_read,
    write=_write,
)
