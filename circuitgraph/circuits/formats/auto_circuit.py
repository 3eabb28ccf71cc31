"""auto-circuit's prune scores: a dictionary from modules to tensors, one score per edge into the module.

`blocks.L.hook_q_input` and its like have `[head, source]`, `blocks.L.hook_mlp_in` and the last `hook_resid_post` have
`[source]`, sources in the order in which they write; a leading axis of positions may come first. Files hold one such
dictionary or `{task: {algorithm: …}}`. Importance there is the score's size, whatever its sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.circuits.formats.content import JOINS, Content
from circuitgraph.circuits.formats.eap_ig import eap_ig_universe
from circuitgraph.circuits.formats.file_format import SCORES, FileChoices, FileFormat, refuse
from circuitgraph.circuits.formats.tensor_files import holds_text, read_tensors, tensor_bytes
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.universe import Universe

_EXPECTED = "auto-circuit's prune scores, tensors by module such as blocks.0.hook_q_input"
_DEEPEST = 4


def _read(path: Path, universe: Universe, choices: FileChoices) -> Content:
    if choices.join_positions not in (None, *JOINS):
        raise UnknownNameError.of("join_positions", choices.join_positions, JOINS)
    name, tensors = _chosen(path, read_tensors(path, _EXPECTED), choices.part)
    joint = any(str(module).endswith("hook_attn_in") for module in tensors)
    universe = replace(universe, qkv="joint") if joint else universe
    scores, lost = np.zeros(universe.n_edges), ()
    modules = dict(_modules(universe))
    for module in tensors:
        if module not in modules:
            refuse(
                path, str(module), f"the model has no such module; it has {len(modules)} such as {next(iter(modules))}"
            )
    for module, (edges, shape) in modules.items():
        if module not in tensors:
            refuse(path, module, f"the module is missing; the model's {len(modules)} modules are all expected")
        value = tensors[module]
        if value.ndim == len(shape) + 1 and value.shape[1:] == shape:
            value = _over_positions(path, module, value, choices.join_positions)
            lost = ("scores of single positions",)
        if value.shape != shape:
            refuse(path, module, f"expected shape {shape}; got {value.shape}: scores of another model?")
        scores[edges] = value.ravel()
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        first = int(broken[0])
        refuse(
            path,
            "scores",
            f"{len(broken):,} are not finite, the first that of {universe.edge_name(first)}: {scores[first]}",
        )
    return Content(universe=universe, scores=scores, about={"part": name} if name else {}, lost=lost)


def _chosen(path: Path, values: Any, part: str | None) -> tuple[str, Mapping[str, np.ndarray]]:
    """The prune scores that are meant, and their name where the file has several."""
    found = dict(_within(values, ()))
    if not found:
        refuse(path, "top level", f"expected {_EXPECTED}")
    if part is None and len(found) == 1:
        return next(iter(found.items()))
    if part is None:
        refuse(path, "top level", f"{len(found)} results; say which with part (--part): {', '.join(found)}")
    if part not in found:
        raise UnknownNameError.of("part", part, found)
    return part, found[part]


def _within(values: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    if not isinstance(values, Mapping) or not values or len(names) > _DEEPEST:
        return
    if all(isinstance(value, np.ndarray) for value in values.values()):
        yield "/".join(names), values
        return
    for name, value in values.items():
        yield from _within(value, (*names, str(name)))


def _modules(universe: Universe) -> Iterator[tuple[str, tuple[slice, tuple[int, ...]]]]:
    """Modules of a universe with the place of their edges in the flat gate vector and their shape."""
    heads = universe.n_heads
    for block in universe.blocks:
        start, sources = block.first_edge, block.n_writers
        if block.kind == "logits":
            yield f"blocks.{universe.n_layers - 1}.hook_resid_post", (block.edges, (sources,))
        elif block.kind == "mlp":
            yield f"blocks.{block.layer}.hook_mlp_in", (block.edges, (sources,))
        elif universe.qkv == "joint":
            yield f"blocks.{block.layer}.hook_attn_in", (block.edges, (heads, sources))
        else:
            for place, letter in enumerate("qkv"):
                first = start + place * heads * sources
                edges = slice(first, first + heads * sources)
                yield f"blocks.{block.layer}.hook_{letter}_input", (edges, (heads, sources))


def _over_positions(path: Path, module: str, value: np.ndarray, rule: str | None) -> np.ndarray:
    if rule is None:
        refuse(
            path,
            module,
            f"scores of {len(value)} positions, and edges here have none; say how they are joined, {', '.join(JOINS)} "
            "(join_positions, --join-positions)",
        )
    if rule == "max":
        largest = np.abs(value).argmax(0)
        return np.take_along_axis(value, largest[None], 0)[0]
    return value.sum(0) if rule == "sum" else value.mean(0)


def _write(content: Content, choices: FileChoices) -> bytes:
    assert content.scores is not None
    scores = content.scores if content.kept is None else np.where(content.kept, content.scores, 0.0)
    tensors = {
        module: scores[edges].reshape(shape).astype(np.float32) for module, (edges, shape) in _modules(content.universe)
    }
    for name in reversed(choices.part.split("/") if choices.part else []):
        tensors = {name: tensors}
    return tensor_bytes(tensors)


AUTO_CIRCUIT = FileFormat(
    name="auto-circuit",
    tool="auto-circuit's PruneScores",
    source="https://github.com/UFO-101/auto-circuit",
    suffix=".pkl",
    holds=(SCORES,),
    meaning="auto-circuit's prune score, whose size alone counts there",
    universe=eap_ig_universe,
    recognises=lambda path: path.suffix == ".pkl" or holds_text(path, b"hook_resid_post"),
    read=_read,
    write=_write,
)
