"""Circuit files: JSON that `networkx.node_link_graph` reads as it stands, and strict checks on the way in.

A file holds `format_version`, `directed`, `multigraph`, `graph`, `nodes` (`id`, `kind`, `layer`), `edges`
(`source`, `target`, `kind`, and for all but structural edges `score` and `mask`), `universe` and
`provenance`. Structural edges are there so that paths run from the input to the logits; a circuit's size
does not count them. `networkx.node_link_graph(json.load(file))` equals `Circuit.graph`.

A file that we wrote (its provenance has `sparsity`) comes back with exactly its edges: if some of them
dangle, somebody has edited it, and that is an error. In a file of another tool dangling edges are dropped by
`Circuit.from_edges` and counted as raw.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from circuitgraph.atomic_file import write_atomically
from circuitgraph.circuit import ABLATIONS, Circuit
from circuitgraph.errors import CircuitFormatError, CircuitGraphError
from circuitgraph.graph import STRUCTURAL
from circuitgraph.universe import Universe

FORMAT_VERSION = 1
# Ten times as many as the largest open models have, with readers for every query head.
_MOST_PAIRS = 10**10
_FIELDS = ("format_version", "directed", "multigraph", "graph", "nodes", "edges", "universe")


def circuit_to_dict(circuit: Circuit) -> dict[str, Any]:
    """A circuit as the JSON values of its file.

    Examples:
        >>> import networkx as nx
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->logits"])
        >>> nx.node_link_graph(circuit_to_dict(circuit)).edges["input", "logits"]["score"]
        1.0
    """
    graph = circuit.graph
    return {
        "format_version": FORMAT_VERSION,
        "directed": True,
        "multigraph": False,
        "graph": dict(graph.graph),
        "nodes": [{"id": name, **values} for name, values in graph.nodes(data=True)],
        "edges": [{"source": u, "target": v, **values} for u, v, values in graph.edges(data=True)],
        "universe": circuit.universe.to_dict(),
        "provenance": circuit.provenance,
    }


def write_circuit(circuit: Circuit, path: Path) -> Path:
    """Write a circuit file atomically.

    Args:
        circuit: The circuit.
        path: Where; an existing file is replaced.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written.
    """
    # One node or edge a line: readable, and a line number in an error message means something.
    values = circuit_to_dict(circuit)
    parts = []
    for name, value in values.items():
        if name in ("nodes", "edges") and value:
            rows = ",\n".join("    " + _dumps(row) for row in value)
            parts.append(f"  {_dumps(name)}: [\n{rows}\n  ]")
        elif name == "provenance":
            parts.append(f"  {_dumps(name)}: " + json.dumps(value, allow_nan=False, indent=2).replace("\n", "\n  "))
        else:
            parts.append(f"  {_dumps(name)}: {_dumps(value)}")
    return write_atomically(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _dumps(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def read_circuit(path: Path) -> Circuit:
    """Read a circuit file.

    Args:
        path: The file.

    Returns:
        The circuit.

    Raises:
        CircuitFormatError: The file is missing, no JSON, truncated, of a newer version, lacks a field, holds
            an edge that its universe does not, or was edited so that edges dangle. The message says where.
    """
    values = _parse(path)
    universe = _read_universe(path, values["universe"])
    nodes = _check_nodes(path, universe, values["nodes"])
    scores = _read_scores(path, universe, values["edges"], nodes)
    provenance = values.get("provenance", {})
    if not isinstance(provenance, dict):
        _refuse(path, "provenance", f"expected an object; got {type(provenance).__name__}")
    ablation = provenance.get("ablation", values["graph"].get("ablation", "counterfactual"))
    if ablation not in ABLATIONS:
        _refuse(path, "provenance.ablation", f"expected one of {', '.join(ABLATIONS)}; got {ablation!r}")
    try:
        circuit = Circuit.from_edges(universe, scores, ablation=ablation, provenance=provenance)
    except CircuitGraphError as error:
        _refuse(path, "edges", str(error))
    return _with_recorded_counts(path, circuit, provenance)


def _refuse(path: Path, where: str, problem: str) -> NoReturn:
    raise CircuitFormatError(f"{path}: {where}: {problem}")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which JSON does not know")


def _parse(path: Path) -> dict[str, Any]:
    values = _read_json(path)
    if not isinstance(values, dict):
        _refuse(path, "top level", f"expected an object with {', '.join(_FIELDS)}; got {type(values).__name__}")
    _check_version(path, values)
    for name in _FIELDS:
        if name not in values:
            _refuse(path, name, f"the field is missing; a circuit file has {', '.join(_FIELDS)} and provenance")
    for name, kind in (("nodes", list), ("edges", list), ("universe", dict), ("graph", dict)):
        if not isinstance(values[name], kind):
            _refuse(path, name, f"expected a {kind.__name__}; got {type(values[name]).__name__}")
    if values["directed"] is not True or values["multigraph"] is not False:
        _refuse(path, "directed, multigraph", "expected true and false: a circuit is a plain directed graph")
    return values


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read: {error.strerror}; expected a circuit file") from error
    except json.JSONDecodeError as error:
        raise CircuitFormatError(
            f"{path}: line {error.lineno}, column {error.colno}: no complete JSON ({error.msg}); "
            "the file is truncated or damaged, write it again"
        ) from error
    except UnicodeDecodeError as error:
        raise CircuitFormatError(f"{path}: byte {error.start}: no text in UTF-8; expected a circuit file") from error
    except (ValueError, RecursionError) as error:
        raise CircuitFormatError(f"{path}: no JSON that can be read ({error}); expected a circuit file") from error


def _read_universe(path: Path, values: dict[str, Any]) -> Universe:
    family = values.get("family", "")
    if not isinstance(family, str):
        _refuse(path, "universe", f"expected text in 'family'; got {family!r}")
    try:
        universe = Universe.from_dict(values)
    except (CircuitGraphError, TypeError) as error:
        _refuse(path, "universe", str(error))
    # Every reader sees at most all writers. Whoever asks for more would wait for it, or run out of memory.
    if universe.n_writers * universe.n_readers > _MOST_PAIRS:
        _refuse(
            path,
            "universe",
            f"{universe.n_layers:,} layers of {universe.n_heads:,} heads are more than any model has; up to "
            f"{_MOST_PAIRS:,} pairs of a writer and a reader can be read, here are "
            f"{universe.n_writers * universe.n_readers:,}",
        )
    return universe


def _check_version(path: Path, values: dict[str, Any]) -> None:
    version = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        _refuse(path, "format_version", f"expected {FORMAT_VERSION}; got {version!r}: is this a circuit file?")
    if version > FORMAT_VERSION:
        _refuse(
            path,
            "format_version",
            f"version {version} is newer than {FORMAT_VERSION}, the last one known here; update circuitgraph",
        )


def _check_nodes(path: Path, universe: Universe, rows: list[Any]) -> set[str]:
    known = {*universe.writers, *universe.readers}
    names: set[str] = set()
    for index, row in enumerate(rows):
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str) or name not in known:
            _refuse(path, f"nodes[{index}]", f"expected an object whose id is a node of the universe; got {row!r}")
        if name in names:
            _refuse(path, f"nodes[{index}]", f"{name} comes twice")
        names.add(name)
    return names


def _read_scores(
    path: Path, universe: Universe, rows: list[Any], nodes: set[str]
) -> dict[str | tuple[str, str], float]:
    structural = set(universe.structural_edges())
    kind_of = dict(zip(universe.readers, universe.reader_kinds.tolist(), strict=True))
    scores: dict[str | tuple[str, str], float] = {}
    for index, row in enumerate(rows):
        where = f"edges[{index}]"
        if not isinstance(row, dict):
            _refuse(path, where, f"expected an object; got {row!r}")
        for name in ("source", "target", "kind"):
            if not isinstance(row.get(name), str):
                _refuse(path, where, f"expected text in {name!r}; got {row.get(name)!r}")
        edge = row["source"], row["target"]
        where = f"{where} ({edge[0]}->{edge[1]})"
        for name in edge:
            if name not in nodes:
                _refuse(path, where, f"{name!r} is not among the file's nodes")
        if row["kind"] == STRUCTURAL:
            if edge not in structural:
                _refuse(path, where, "the universe has no such structural edge")
            continue
        if edge in scores:
            _refuse(path, where, "the edge comes twice")
        if row["kind"] != kind_of.get(edge[1]):
            _refuse(path, where, f"expected kind {kind_of.get(edge[1], STRUCTURAL)!r}; got {row['kind']!r}")
        score = row.get("score")
        if not isinstance(score, (int, float)) or isinstance(score, bool):
            _refuse(path, where, f"expected a number in 'score'; got {score!r}")
        try:
            scores[edge] = float(score)
        except OverflowError:
            _refuse(path, where, "the number in 'score' is larger than any that can be kept")
    return scores


def _with_recorded_counts(path: Path, circuit: Circuit, provenance: dict[str, Any]) -> Circuit:
    """Restore the raw count of our own files, and refuse those whose edges dangle."""
    recorded = provenance.get("sparsity")
    if recorded is None:
        return circuit
    if not isinstance(recorded, dict) or not isinstance(recorded.get("n_raw"), int):
        _refuse(path, "provenance.sparsity", f"expected an object with n_raw and others; got {recorded!r}")
    if len(circuit) < circuit.n_raw:
        _refuse(
            path,
            "edges",
            f"{circuit.n_raw - len(circuit)} of {circuit.n_raw} edges lie on no path that counts under "
            f"{circuit.ablation} ablation, so the file was edited; without 'sparsity' in its provenance it "
            "is read as another tool's, and they are dropped",
        )
    for name, count in (("n_effective", len(circuit)), ("n_universe", circuit.universe.n_edges)):
        if recorded.get(name) != count:
            _refuse(
                path,
                f"provenance.sparsity.{name}",
                f"recorded {recorded.get(name)!r}, the file holds {count}",
            )
    if recorded["n_raw"] < len(circuit):
        _refuse(path, "provenance.sparsity.n_raw", f"{recorded['n_raw']} is fewer than the {len(circuit)} kept")
    return replace(circuit, n_raw=recorded["n_raw"])
