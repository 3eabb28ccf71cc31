"""What two checkpoints share, against sets of names and the universe's whole graph."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from analysis.checkpoints import compare_checkpoints
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import GraphMismatchError, UnknownNameError
from circuitgraph.graph.build import build_graph
from tests.analysis.small_circuits import UNIVERSES, large_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]


def status_of(item: object, before: set, after: set) -> str:
    if item in before and item in after:
        return "kept"
    return "gained" if item in after else "lost"


@pytest.mark.parametrize("name", NAMES)
def test_edges_and_nodes(name: str) -> None:
    before, after = random_circuit(name, 1), random_circuit(name, 2)
    comparison = compare_checkpoints(before, after)
    table = comparison.edges.set_index("edge")
    earlier, later = set(before), set(after)
    assert set(table.index) == earlier | later
    whole = build_graph(before.universe)
    score = {circuit: dict(zip(circuit, circuit.scores.tolist(), strict=True)) for circuit in (before, after)}
    for edge, row in table.iterrows():
        assert row["status"] == status_of(edge, earlier, later)
        assert edge == f"{row['source']}->{row['target']}"
        assert row["kind"] == whole.edges[row["source"], row["target"]]["kind"]
        assert row["writer_kind"] == whole.nodes[row["source"]]["kind"]
        assert (row["source_layer"], row["layer"]) == tuple(
            whole.nodes[row[end]]["layer"] for end in ("source", "target")
        )
        for circuit, column in ((before, "score_before"), (after, "score_after")):
            if edge in score[circuit]:
                assert row[column] == score[circuit][edge]
            else:
                assert row[column] is pd.NA
    nodes = comparison.nodes.set_index("node")
    assert list(nodes.index) == [node for node in whole if node in {*before.nodes, *after.nodes}]
    for node, row in nodes.iterrows():
        assert row["status"] == status_of(node, set(before.nodes), set(after.nodes))
        assert {"kind": row["kind"], "layer": row["layer"]} == whole.nodes[node]


@pytest.mark.parametrize(
    ("level", "by"),
    [
        ("edges", ("layer", "kind")),
        ("edges", "kind"),
        ("edges", ("source_layer", "layer")),
        ("edges", ("writer_kind", "kind")),
        ("nodes", ("layer", "kind")),
        ("nodes", "layer"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_counts_by_column(name: str, level: str, by: str | tuple[str, ...]) -> None:
    before, after = random_circuit(name, 3), random_circuit(name, 4)
    comparison = compare_checkpoints(before, after)
    columns = [by] if isinstance(by, str) else list(by)
    whole = build_graph(before.universe)
    if level == "edges":
        everything = [(u, v) for u, v, values in whole.edges(data=True) if "mask" in values]
        earlier, later = set(before.edges), set(after.edges)
    else:
        everything, earlier, later = list(whole), set(before.nodes), set(after.nodes)

    def group_of(item) -> tuple:
        if level == "nodes":
            return tuple(whole.nodes[item][column] for column in columns)
        values = {
            "layer": whole.nodes[item[1]]["layer"],
            "kind": whole.edges[item]["kind"],
            "source_layer": whole.nodes[item[0]]["layer"],
            "writer_kind": whole.nodes[item[0]]["kind"],
        }
        return tuple(values[column] for column in columns)

    expected = {"n_universe": Counter(map(group_of, everything))}
    for status in ("kept", "gained", "lost"):
        chosen = [item for item in earlier | later if status_of(item, earlier, later) == status]
        expected[status] = Counter(map(group_of, chosen))
    counts = comparison.counts(level, by=by)
    assert list(counts.columns) == [*columns, "kept", "gained", "lost", "n_universe"]
    groups = list(zip(*(counts[column] for column in columns), strict=True))
    for column, wanted in expected.items():
        assert dict(zip(groups, counts[column], strict=True)) == {group: wanted[group] for group in groups}
    assert set(groups) == set(expected["n_universe"])
    totals = comparison.counts(level, by=()).iloc[0]
    assert totals.to_dict() == {column: counts[column].sum() for column in ("kept", "gained", "lost", "n_universe")}


def test_other_weights_are_what_it_is_for() -> None:
    universe = UNIVERSES["mha"]
    one = Circuit.from_edges(
        universe, ["input->logits"], provenance={"model": "base", "config_hash": "1", "revision": "a"}
    )
    tuned = Circuit.from_edges(
        universe, ["input->logits"], provenance={"model": "base", "config_hash": "1", "revision": "b"}
    )
    assert compare_checkpoints(one, tuned).edges["status"].tolist() == ["kept"]
    with pytest.raises(
        GraphMismatchError, match="before and after are circuits of different models: revision: 'a' against 'b'"
    ):
        compare_checkpoints(one, tuned, across_checkpoints=False)
    other = Circuit.from_edges(UNIVERSES["split"], ["tok->logits"])
    with pytest.raises(GraphMismatchError, match=r"embeddings: 'joint' against 'split'.*analysis\.coarsen"):
        compare_checkpoints(one, other)


def test_empty_circuits() -> None:
    empty = Circuit.from_edges(UNIVERSES["gqa"], [])
    comparison = compare_checkpoints(empty, empty)
    assert len(comparison.edges) == len(comparison.nodes) == 0
    counts = comparison.counts()
    assert counts[["kept", "gained", "lost"]].to_numpy().sum() == 0
    assert counts["n_universe"].sum() == UNIVERSES["gqa"].n_edges
    full = random_circuit("gqa", 1)
    assert set(compare_checkpoints(empty, full).edges["status"]) == {"gained"}
    assert set(compare_checkpoints(full, empty).nodes["status"]) == {"lost"}


def test_bad_columns() -> None:
    comparison = compare_checkpoints(random_circuit("mha", 1), random_circuit("mha", 2))
    with pytest.raises(UnknownNameError, match="unknown level 'edge'; did you mean 'edges'"):
        comparison.counts("edge")
    with pytest.raises(
        UnknownNameError, match="unknown column of nodes to count by 'source_layer'; did you mean 'layer'"
    ):
        comparison.counts("nodes", by="source_layer")


def test_large_circuits_need_no_graph_of_the_universe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the universe's graph was built")

    monkeypatch.setattr("circuitgraph.graph.build.build_graph", refuse)
    before, after = large_circuit(0), large_circuit(1)
    counts = compare_checkpoints(before, after).counts()
    assert counts["n_universe"].sum() == before.universe.n_edges
    assert counts[["kept", "lost"]].to_numpy().sum() == len(before)
