"""Circuit files: JSON that `networkx.node_link_graph` reads as it stands, and strict checks on the way in.

A file holds `format_version`, `directed`, `multigraph`, `graph`, `nodes` (`id`, `kind`, `layer`), `edges`
(`source`, `target`, `kind`, and for all but structural edges `score` and `mask`), `universe` and
`provenance`. Structural edges are there so that paths run from the input to the logits; a circuit's size
does not count them. `networkx.node_link_graph(json.load(file))` equals `Circuit.graph`.

A file that we wrote (its provenance has `sparsity`) comes back with exactly its edges: if some of them
dangle, somebody has edited it, and that is an error. In a file of another tool dangling edges are dropped by
`Circuit.from_edges` and counted as raw.

What a file says twice has to agree: the universe and the ablation, the counts, and what nodes and edges say of
themselves. A key that comes twice in one object is refused, since JSON readers would keep either.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from circuitgraph.errors import CircuitFormatError, CircuitGraphError, GraphMismatchError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.strict_json import parse_strictly
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.build import STRUCTURAL, node_attributes
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    from circuitgraph.circuits.kept import KeptEdges

FORMAT_VERSION = 1
_CONVERT = (
    "`Circuit.load(path, universe=...)` and `circuitgraph convert` read other tools' files; docs/how-to/convert.md"
)
_FIELDS = ("format_version", "directed", "multigraph", "graph", "nodes", "edges", "universe")


def circuit_to_dict(circuit: KeptEdges) -> dict[str, Any]:
    """A circuit as the JSON values of its file.

    Examples:
        >>> import networkx as nx
        >>> from circuitgraph import Circuit, Universe
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


def write_circuit(circuit: KeptEdges, path: Path) -> Path:
    """Write a circuit file atomically.

    Args:
        circuit: The circuit.
        path: Where; an existing file is replaced.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_atomically(path, circuit_text(circuit))


def circuit_text(circuit: KeptEdges) -> str:
    """A circuit as the text of its file: one node or edge per line, so that a line number in an error says something.

    Args:
        circuit: The circuit.
    """
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
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dumps(value: object) -> str:
    return json.dumps(value, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class CircuitContent:
    """What a circuit file says.

    Attributes:
        universe: What fixes the edges.
        scores: Kept edges with their scores.
        ablation: What cut edges carry.
        provenance: Where the circuit came from.
    """

    universe: Universe
    scores: dict[str | tuple[str, str], float]
    ablation: str
    provenance: dict[str, Any]


def read_circuit(path: Path) -> CircuitContent:
    """Read a circuit file; `Circuit.load` makes a circuit of it.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        CircuitFormatError: The file is missing, no JSON, truncated, of a newer version, lacks a field, or holds
            an edge that its universe does not. The message says where.
    """
    values = _parse(path)
    universe = _read_universe(path, values["universe"])
    said = values["graph"].get("universe")
    if said is not None and _read_universe(path, said) != universe:
        refuse(path, "graph.universe", f"{values['graph']['universe']!r} is not the file's 'universe'; make them agree")
    nodes = _check_nodes(path, universe, values["nodes"])
    scores = _read_scores(path, universe, values["edges"], nodes)
    provenance = values.get("provenance", {})
    if not isinstance(provenance, dict):
        refuse(path, "provenance", f"expected an object; got {type(provenance).__name__}")
    ablation = _read_ablation(path, values["graph"], provenance)
    return CircuitContent(universe=universe, scores=scores, ablation=ablation, provenance=provenance)


def _read_ablation(path: Path, graph: dict[str, Any], provenance: dict[str, Any]) -> str:
    """The ablation, which the graph's attributes and the provenance have to say alike."""
    found = {
        where: said["ablation"]
        for where, said in (("provenance.ablation", provenance), ("graph.ablation", graph))
        if "ablation" in said
    }
    for where, ablation in found.items():
        if ablation not in ABLATIONS:
            refuse(path, where, f"expected one of {', '.join(ABLATIONS)}; got {ablation!r}")
    if len(set(found.values())) > 1:
        refuse(
            path,
            "graph.ablation",
            f"{found['graph.ablation']!r}, but provenance.ablation says "
            f"{found['provenance.ablation']!r}; make them agree",
        )
    return next(iter(found.values()), "counterfactual")


def refuse(path: Path, where: str, problem: str) -> NoReturn:
    """Refuse a file.

    Raises:
        CircuitFormatError: Always; it says where in the file the problem is.
    """
    raise CircuitFormatError(f"{path}: {where}: {problem}")


def require_universe(path: Path, found: Universe, wanted: Universe | None) -> None:
    """Refuse a file of ours that is of another universe than was asked for.

    Args:
        path: The file, for messages.
        found: Its universe.
        wanted: The one that was asked for, or None.

    Raises:
        GraphMismatchError: They differ.
    """
    if wanted is not None and (difference := found.first_difference(wanted)):
        raise GraphMismatchError(f"{path}: {difference} of what was asked for; `analysis.coarsen` maps circuits")


def _parse(path: Path) -> dict[str, Any]:
    values = _read_json(path)
    if isinstance(values, list) and values and all(isinstance(row, list) and len(row) == 2 for row in values):
        refuse(path, "top level", f"a list of pairs, as Edge-Pruning's edges.json is, and no circuit file; {_CONVERT}")
    if not isinstance(values, dict):
        refuse(path, "top level", f"expected an object with {', '.join(_FIELDS)}; got {type(values).__name__}")
    _refuse_other_tools(path, values)
    _check_version(path, values)
    for name in _FIELDS:
        if name not in values:
            refuse(path, name, f"the field is missing; a circuit file has {', '.join(_FIELDS)} and provenance")
    for name, kind in (("nodes", list), ("edges", list), ("universe", dict), ("graph", dict)):
        if not isinstance(values[name], kind):
            refuse(path, name, f"expected a {kind.__name__}; got {type(values[name]).__name__}")
    if values["directed"] is not True or values["multigraph"] is not False:
        refuse(path, "directed, multigraph", "expected true and false: a circuit is a plain directed graph")
    return values


def _read_json(path: Path) -> Any:
    try:
        return parse_strictly(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        inside = path / "circuit.json"
        hint = f", such as {inside}" if inside.is_file() else ""
        raise CircuitFormatError(f"{path}: cannot be read: {error.strerror}; expected a circuit file{hint}") from error
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
        refuse(path, "universe", f"expected text in 'family'; got {family!r}")
    try:
        return Universe.from_dict(values)
    except (CircuitGraphError, TypeError) as error:
        refuse(path, "universe", str(error).removeprefix("universe: "))


def _refuse_other_tools(path: Path, values: dict[str, Any]) -> None:
    """Name the tool whose file this is, where it is known by its fields."""
    if "format_version" in values:
        return
    if {"cfg", "edges"} <= values.keys():
        refuse(path, "top level", f"a graph file of EAP-IG ('cfg' and 'edges'), and no circuit file; {_CONVERT}")
    if {"nodes", "links"} <= values.keys() or {"nodes", "edges", "directed"} <= values.keys():
        refuse(
            path,
            "top level",
            f"a node-link graph, as networkx and `circuitgraph export` write it, and no circuit "
            f"file; load the circuit.json that it was made of. {_CONVERT}",
        )


def _check_version(path: Path, values: dict[str, Any]) -> None:
    version = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        refuse(path, "format_version", f"expected {FORMAT_VERSION}; got {version!r}: is this a circuit file?")
    if version > FORMAT_VERSION:
        refuse(
            path,
            "format_version",
            f"version {version} is newer than {FORMAT_VERSION}, the last one known here; update circuitgraph",
        )


def _check_nodes(path: Path, universe: Universe, rows: list[Any]) -> set[str]:
    known = dict(node_attributes(universe))
    names: set[str] = set()
    for index, row in enumerate(rows):
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str) or name not in known:
            refuse(path, f"nodes[{index}]", f"expected an object whose id is a node of the universe; got {row!r}")
        if name in names:
            refuse(path, f"nodes[{index}]", f"{name} comes twice")
        for field, right in known[name].items():
            if row.get(field, right) != right:
                refuse(path, f"nodes[{index}].{field}", f"{name} has {field} {right!r}; the file says {row[field]!r}")
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
            refuse(path, where, f"expected an object; got {row!r}")
        for name in ("source", "target", "kind"):
            if not isinstance(row.get(name), str):
                refuse(path, where, f"expected text in {name!r}; got {row.get(name)!r}")
        edge = row["source"], row["target"]
        where = f"{where} ({edge[0]}->{edge[1]})"
        for name in edge:
            if name not in nodes:
                refuse(path, where, f"{name!r} is not among the file's nodes")
        if row["kind"] == STRUCTURAL:
            if edge not in structural:
                refuse(path, where, "the universe has no such structural edge")
            continue
        if edge in scores:
            refuse(path, where, "the edge comes twice")
        if row["kind"] != kind_of.get(edge[1]):
            refuse(path, where, f"expected kind {kind_of.get(edge[1], STRUCTURAL)!r}; got {row['kind']!r}")
        _check_mask(path, universe, where, edge, row)
        score = row.get("score")
        if not isinstance(score, (int, float)) or isinstance(score, bool):
            refuse(path, where, f"expected a number in 'score'; got {score!r}")
        try:
            scores[edge] = float(score)
        except OverflowError:
            refuse(path, where, "the number in 'score' is larger than any that can be kept")
    return scores


def _check_mask(path: Path, universe: Universe, where: str, edge: tuple[str, str], row: dict[str, Any]) -> None:
    """Refuse the index of another edge; an edge that the universe lacks is refused where edges are looked up."""
    try:
        index = universe.edge_index(*edge)
    except CircuitGraphError:
        return
    if row.get("mask", index) != index:
        refuse(path, where, f"its mask is {index}; the file says {row['mask']!r}")


def check_counts(path: Path, circuit: KeptEdges, provenance: dict[str, Any]) -> int:
    """Check the counts that our own files record, and refuse those whose edges dangle.

    Args:
        path: The file, for messages.
        circuit: What it holds.
        provenance: What it says of where the circuit came from.

    Returns:
        How many edges were kept before dangling ones were dropped.

    Raises:
        CircuitFormatError: A count is not what the edges make it.
    """
    recorded = provenance.get("sparsity")
    if recorded is None:
        return circuit.n_raw
    if not isinstance(recorded, dict) or not isinstance(recorded.get("n_raw"), int):
        refuse(path, "provenance.sparsity", f"expected an object with n_raw and others; got {recorded!r}")
    if len(circuit) < circuit.n_raw:
        refuse(
            path,
            "edges",
            f"{circuit.n_raw - len(circuit)} of {circuit.n_raw} edges lie on no path that counts under "
            f"{circuit.ablation} ablation, so the file was edited; without 'sparsity' in its provenance it "
            "is read as another tool's, and they are dropped",
        )
    n_raw, n_universe = recorded["n_raw"], circuit.universe.n_edges
    if isinstance(n_raw, bool) or not len(circuit) <= n_raw <= n_universe:
        refuse(
            path,
            "provenance.sparsity.n_raw",
            f"recorded {n_raw!r}; expected a number from the {len(circuit)} edges kept to the universe's {n_universe}",
        )
    for name, right in {**circuit.sparsity, "n_raw": n_raw, "raw": 1 - n_raw / n_universe}.items():
        wrong = recorded.get(name, right)
        if not isinstance(wrong, (int, float)) or isinstance(wrong, bool) or abs(wrong - right) > 1e-12:
            refuse(path, f"provenance.sparsity.{name}", f"recorded {wrong!r}, the file's edges make it {right}")
    return n_raw
