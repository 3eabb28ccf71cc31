"""Queries, against every path of small circuits tried one by one."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from analysis.query.found import find
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.spans import with_spans
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]


# -------------------------------------------------------------------- a slow oracle


def fits(pattern: str, names: set[str]) -> bool:
    """Whether a glob of `*` alone, a list of them, or one with "!" in front fits any of some names."""
    if "," in pattern:
        return any(fits(part.strip(), names) for part in pattern.split(","))
    if pattern.startswith("!"):
        return not fits(pattern[1:], names)
    if "<" not in pattern:
        names = {name.partition("<")[0] for name in names}
    return any(fnmatchcase(name, pattern.replace("?", "[!<]")) for name in names)


def walks(graph: nx.DiGraph) -> list[list[tuple[str, str, str]]]:
    """All paths of at least one edge between modules, as steps (writer, reader, module)."""
    modules = [name for name in graph if "<" not in name]
    found = []
    for start in modules:
        for stop in set(modules) - {start}:
            for path in nx.all_simple_paths(graph, start, stop):
                steps, writer = [], path[0]
                for name, after in pairwise([*path[1:], ""]):
                    if "<" in name:
                        steps.append((writer, name, after))
                        writer = after
                    elif name != writer:
                        steps.append((writer, name, name))
                        writer = name
                found.append(steps)
    return found


def names_of(reader: str, module: str) -> set[str]:
    return {reader, module + "".join(reader.partition("<")[1:])}


def walk_fits(steps: list[str], walk: list[tuple[str, str, str]]) -> bool:
    """Whether a path has the form of a chain, trying every length of every gap."""
    ends = [{walk[0][0]}, *(names_of(reader, module) for _, reader, module in walk)]

    def from_here(place: int, node: int) -> bool:
        if place == len(steps):
            return node == len(ends)
        if steps[place] == "**":
            return any(from_here(place + 1, later) for later in range(node, len(ends) + 1))
        return node < len(ends) and fits(steps[place], ends[node]) and from_here(place + 1, node + 1)

    return from_here(0, 0)


def by_brute_force(every: list[list[tuple[str, str, str]]], query: str) -> set[str]:
    found = set()
    for chain in query.split("|"):
        steps = [step.strip() for step in re.split("->|<-", chain)]
        steps = steps[::-1] if "<-" in chain else steps
        for walk in every:
            if len(steps) == 1:
                ((writer, reader, module), *more) = walk
                matched = not more and (fits(steps[0], {writer}) or fits(steps[0], names_of(reader, module)))
            else:
                matched = walk_fits(steps, walk)
            if matched:
                found |= {f"{writer}->{reader}" for writer, reader, _ in walk}
    return found


QUERIES = (
    "m* -> a1.*",
    "a1.* <- m*",
    "* -> *",
    "a1.*",
    "m0, a0.*",
    "m? -> logits",
    "a* -> m* | a0.* -> logits",
    "** -> m1",
    "m0 -> **",
    "a0.* -> ** -> logits",
    "a0.* -> * -> logits",
    "logits <- ** <- a1.* <- *",
    "** -> a1.* -> **",
    "** -> a0.* -> ** -> m1 -> **",
    "** -> ** -> m0",
    "* -> m0 -> ** -> **",
    "* -> ** -> ** -> a1.* -> ** -> ** -> *",
    "!m* -> !logits",
    "!m0",
    "* -> !a1.h0 -> *",
    "a0.h1 -> **",
    "** -> a1.h0",
)
PORTED = (
    "m* -> a1.*<v>",
    "* -> a*<k> -> *",
    "** -> a1.*<q> -> ** -> logits",
    "a1.h1<k> <- *",
    "a1.*<v>",
    "a*.h0<?> <- *",
)
SHARED = ("* -> a1.kv0", "** -> a1.kv0<k> -> m1", "a0.kv0<v>", "* -> a0.h1<v> -> *", "* -> !a0.kv0<k> -> **")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_queries_find_what_brute_force_finds(name: str) -> None:
    queries = QUERIES + (PORTED if name != "joint" else ()) + (SHARED if name in ("gqa", "mqa") else ())
    queries += ("input -> * -> logits", "!input") if name != "split" else ("tok -> * -> logits", "pos, tok -> m*")
    n_found = 0
    for seed in (1, 3):
        circuit = random_circuit(name, seed, ablation="zero" if seed == 3 else "counterfactual")
        every = walks(circuit.graph)
        for query in queries:
            found = {"->".join(edge) for edge in find(circuit, query).edges}
            assert found == by_brute_force(every, query), query
            n_found += 0 < len(found) < len(circuit)
    assert n_found > len(queries)


def spanned_names(reader: str, module: str) -> set[str]:
    """What a reading is called where edges are divided by spans: the head's name for a key has the key's span."""
    port = "".join(reader.partition("<")[1:])
    return {reader, module, module.partition("@")[0] + port} if port else {reader}


def spanned_fits(pattern: str, names: set[str]) -> bool:
    """As `fits`, where a pattern without "@" is one for every span."""
    if "," in pattern:
        return any(spanned_fits(part.strip(), names) for part in pattern.split(","))
    if "<" not in pattern:
        names = {re.sub("<.*>", "", name) for name in names}
    if "@" not in pattern:
        names = {name.partition("@")[0] for name in names}
    return any(fnmatchcase(name, pattern) for name in names)


@pytest.mark.parametrize(
    "query",
    [
        "*@name -> *", "* -> *@end", "a1.kv0<k>@name", "a1.h0<k>@name <- *", "a0.h1@end -> *", "a1.h0@end", "a1.h1",
        "* -> m*@name", "input -> * -> logits", "* -> a*<v>@name -> logits", "** -> logits@end", "a0.*@name -> **",
        "** -> a1.h0@end -> **", "m0@name, m0@end -> logits", "a*<q> <- *",
    ],
)  # fmt: skip
def test_queries_with_spans_find_what_brute_force_finds(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    universe = with_spans(UNIVERSES["gqa"], ("name", "end"), asked=("name", "end"))
    kept = np.random.default_rng(9).random(universe.n_edges) < 0.5
    circuit = Circuit.from_edges(universe, kept, ablation="counterfactual")
    monkeypatch.setitem(globals(), "names_of", spanned_names)
    monkeypatch.setitem(globals(), "fits", spanned_fits)
    expected = by_brute_force(walks(circuit.graph), query)
    assert 0 < len(expected) < len(circuit)
    assert {"->".join(edge) for edge in find(circuit, query).edges} == expected


# -------------------------------------------------------------------- by hand


def edges(query: str) -> list[str]:
    return find(hand_circuit(), query).table["edge"].tolist()


def test_a_circuit_worked_out_by_hand() -> None:
    assert edges("input -> *") == ["input->a0.kv0<v>", "input->m0", "input->logits"]
    assert edges("m0->a1.kv0<k>") == edges("a1.kv0<k><-m0") == edges(" m0  ->\ta1.h0<k>\n") == ["m0->a1.kv0<k>"]
    # a0.h0 and a0.h1 share the value reader; only a0.h1 goes on to m0.
    assert edges("input -> a0.h1<v> -> m0") == ["input->a0.kv0<v>", "a0.h1->m0"]
    assert edges("input -> a0.kv0<v> -> m0") == ["input->a0.kv0<v>", "a0.h1->m0"]
    assert edges("input -> a0.h0 -> m0") == []
    assert edges("input -> logits | a0.h1 -> m0") == ["a0.h1->m0", "input->logits"]
    # a1.h1 is in the universe but not in the circuit.
    assert edges("* -> a1.h1") == []
    assert edges("a1.*") == ["a0.h0->a1.h0<q>", "m0->a1.kv0<k>", "a1.h0->logits"]
    assert edges("!a1.*, m0") == ["input->m0", "a0.h1->m0", "m0->a1.kv0<k>"]


def test_numbers_and_choices() -> None:
    circuit = Circuit.from_edges(
        UNIVERSES["mha"], ["input->m0", "m0->a1.h0<q>", "m0->a1.h1<k>", "a1.h0->logits", "a1.h1->m1", "m1->logits"]
    )

    def found(query: str) -> list[str]:
        return ["->".join(edge) for edge in find(circuit, query).edges]

    assert found("m{0..1} -> *") == ["m0->a1.h0<q>", "m0->a1.h1<k>", "m1->logits"]
    assert found("m{1} -> *") == found("m{1..1} -> *") == ["m1->logits"]
    assert found("* -> a1.*<{q,v}>") == ["m0->a1.h0<q>"]
    assert found("* -> a1.h{0, 1}<{q, k}>") == found("* -> a{0..1}.h?<*>") == ["m0->a1.h0<q>", "m0->a1.h1<k>"]
    deep = type(circuit.universe)(family="gpt2", n_layers=12, n_heads=1, n_kv_heads=1)
    mlps = Circuit.from_edges(deep, [f"m{layer}->logits" for layer in range(12)], ablation="zero")
    assert len(find(mlps, "m{2..10} -> *")) == 9
    assert len(find(mlps, "m1* -> *")) == 3


def test_the_table_the_graph_and_the_circuit() -> None:
    circuit = hand_circuit().with_provenance({"model": "toy", "seed": 3})
    found = find(circuit, "input -> a0.h1 -> m0")
    assert list(found.table.columns) == ["edge", "source", "target", "kind", "source_layer", "target_layer", "score"]
    assert found.table.to_numpy().tolist() == [
        ["input->a0.kv0<v>", "input", "a0.kv0<v>", "v", -1, 0, 4.0],
        ["a0.h1->m0", "a0.h1", "m0", "mlp", 0, 0, 2.0],
    ]
    assert list(found.graph) == ["input", "a0.kv0<v>", "a0.h1", "m0"]
    assert set(found.graph.edges) == {("input", "a0.kv0<v>"), ("a0.kv0<v>", "a0.h1"), ("a0.h1", "m0")}
    assert found.graph.edges["a0.h1", "m0"]["score"] == 2.0
    # input->a0.kv0<v> also flows into a0.h0 and from there to the logits.
    assert set(found.circuit) == set(circuit) - {"input->m0", "input->logits"}
    assert found.circuit.scores.tolist() == [4.0, 2.0, 3.0, -5.0, 6.0]
    assert found.circuit.provenance["parents"] == [circuit.digest]
    assert found.circuit.provenance["model"] == "toy"
    assert "seed" not in found.circuit.provenance
    assert len(find(circuit, "input -> logits").circuit) == 1


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_the_circuit_holds_all_paths_through_a_match(name: str, ablation: str) -> None:
    circuit = random_circuit(name, 2, ablation=ablation)
    found = find(circuit, "m0 -> *, m1 | * -> a1.h1")
    assert 0 < len(found) < len(circuit)
    wanted = set()
    for walk in walks(circuit.graph):
        steps = {(writer, reader) for writer, reader, _ in walk}
        if steps & set(found.edges):
            wanted |= steps
    assert set(found.circuit.edges) == wanted
    assert found.circuit.n_raw == len(wanted)


def test_an_empty_circuit_holds_nothing() -> None:
    empty = Circuit.from_edges(UNIVERSES["gqa"], [])
    for query in ("* -> *", "a1.h0", "** -> m1"):
        found = find(empty, query)
        assert len(found) == len(found.table) == len(found.graph) == len(found.circuit) == 0
    assert list(find(empty, "*").table.columns)[0] == "edge"


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("query", "column", "message"),
    [
        ("", 1, "expected a name, got the end of the query"),
        ("   ", 1, "expected a name, got the end of the query"),
        ("m0 ->", 6, "expected a name, got the end of the query"),
        ("-> m0", 1, "expected a name, got '->'"),
        ("m0 -> -> m1", 7, "expected a name, got '->'"),
        ("m0 m1", 4, "expected ->, <- or |, got 'm1'"),
        ("m0 -> m1 <- input", 10, "all arrows of a chain to point the same way"),
        ("m0 => m1", 4, "expected a name, -> or <-, got '='"),
        ("m0 > m1", 4, "expected a name, -> or <-, got '>'"),
        ("m0 - m1", 4, "expected a name, -> or <-, got '-'"),
        ("a1.h0<q -> m1", 6, "expected a name, -> or <-, got '<'"),
        ("m0 | | m1", 6, "expected a name, got '|'"),
        ("m0,", 4, "expected a name, got the end of the query"),
        ("**", 1, "expected a name beside **"),
        ("** -> **", 1, "expected a name beside **"),
        ("m0 -> **, m1", 9, "expected ->, <- or |, got ','"),
        ("m0 -> m**", 7, "expected a name such as a3.h7"),
        ("m{1..0} -> *", 2, "expected a range from low to high, got 1..0"),
        ("m{0..99999} -> *", 2, "expected a range from low to high"),
        ("!m{} -> *", 3, "expected {q,k} or {3..7}, got {}"),
        ("m{0 -> *", 2, "expected a name, -> or <-, got '{'"),
        ("a0.h0(q) -> *", 1, "expected a name such as a3.h7"),
        ("a1.h0<q> -> logits", 1, "cannot write an edge: a port only reads, drop it"),
        ("m1 <- !a1.h0<q>", 7, "cannot write an edge: a port only reads, drop it"),
        ("logits -> m1", 1, "cannot write an edge: the logits only read"),
        ("* -> input", 6, "cannot read an edge: embeddings and vectors only write"),
        ("* -> m0, input -> *", 10, "cannot read an edge: embeddings and vectors only write"),
        ("m0 -> logits -> **", 7, "cannot write an edge: the logits only read"),
    ],
)
def test_errors_point_at_the_column(query: str, column: int, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find(random_circuit("mha", 1), query)
    first, *rest = str(caught.value).split("\n")
    assert first.startswith(f"column {column}: ")
    assert message in first
    assert rest == [f"  {query}", " " * (column + 1) + "^"]


@pytest.mark.parametrize(
    ("query", "column", "message"),
    [
        ("a1.h7 -> m1", 1, "unknown node 'a1.h7'; did you mean 'a1.h"),
        ("m0 -> a1.h0<x>", 7, "unknown node 'a1.h0<x>'; did you mean 'a1.h0<"),
        ("m1 -> m0 | m5 -> *", 12, "unknown node 'm5'; did you mean 'm"),
        ("a9.* -> *", 1, "no node fits 'a9.*'"),
        ("m0 -> a1.*<qkv>", 7, "no node fits 'a1.*<qkv>'"),
        ("** -> a1.kv*", 7, "no node fits 'a1.kv*'"),
    ],
)
def test_names_that_the_universe_lacks(query: str, column: int, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find(random_circuit("mha", 1), query)
    text = str(caught.value)
    assert message in text
    assert f"(column {column}; the universe has 2 layers of 2 heads, counted from 0)" in text
    assert text.endswith(f"  {query}\n" + " " * (column + 1) + "^")


def test_notebooks_show_the_query_and_what_it_found() -> None:
    circuit = hand_circuit()
    found = find(circuit, "m0 -> *, m0")
    html = found._repr_html_()
    assert "m0 -&gt; *, m0" in html
    assert f"{len(found)} of the circuit&#x27;s 7 edges" in html
    assert all(f"{u}-&gt;{v}".replace("<", "&lt;").replace("k>", "k&gt;") in html for u, v in found.edges)
    assert "<table" not in find(circuit, "input -> * -> * -> * -> * -> logits")._repr_html_()
