"""Coarser universes, against names mapped one by one."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from analysis.granularity import coarsen, common_universe
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

FINEST = {
    "mha": Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2, embeddings="split", kv_heads="per_query"),
    "gqa": Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2, embeddings="split", kv_heads="per_query"),
    "mqa": Universe(family="llama", n_layers=2, n_heads=3, n_kv_heads=1, embeddings="split", kv_heads="per_query"),
    "parallel": Universe(
        family="pythia", n_layers=2, n_heads=2, n_kv_heads=2, embeddings="split", block_order="parallel"
    ),
}


def coarser_than(finest: Universe) -> list[Universe]:
    found = []
    for embeddings, kv_heads, qkv in product(("split", "joint"), ("per_query", "native"), ("split", "joint")):
        if qkv == "split" or kv_heads == "per_query" or finest.group_size == 1:
            found.append(replace(finest, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv))
    return found


def coarse_name(edge: str, universe: Universe) -> str:
    """An edge's name in a coarser universe, from what the names mean."""
    writer, reader = edge.split("->")
    if universe.embeddings == "joint" and writer in ("tok", "pos"):
        writer = "input"
    match = re.fullmatch(r"a(\d+)\.h(\d+)<([qkv])>", reader)
    if match and universe.qkv == "joint":
        reader = f"a{match[1]}.h{match[2]}<qkv>"
    elif match and match[3] in "kv" and universe.grouped:
        reader = f"a{match[1]}.kv{int(match[2]) // universe.group_size}<{match[3]}>"
    return f"{writer}->{reader}"


def largest(scores: list[float]) -> float:
    """The score of largest size, the positive one of two."""
    return max(scores, key=lambda score: (abs(score), score))


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
@pytest.mark.parametrize("name", FINEST)
def test_every_edge_goes_where_its_name_says(name: str, ablation: str) -> None:
    finest, n_joined = FINEST[name], 0
    for seed, universe in enumerate(coarser_than(finest)):
        rng = np.random.default_rng(seed)
        edges = np.flatnonzero(rng.random(finest.n_edges) < 0.4)
        scores = rng.choice([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], len(edges))
        circuit = Circuit.from_edges(finest, edges, scores=scores, ablation=ablation)
        groups: dict[str, list[float]] = {}
        for edge, score in zip(circuit, circuit.scores.tolist(), strict=True):
            groups.setdefault(coarse_name(edge, universe), []).append(score)
        for how, join in (("sum", sum), ("max", largest)):
            coarse = coarsen(circuit, universe, scores=how)
            got = dict(zip(coarse, coarse.scores.tolist(), strict=True))
            assert got == pytest.approx({edge: join(values) for edge, values in groups.items()})
            assert coarse.n_raw == len(coarse)
            assert coarse.ablation == ablation
        n_joined += len(groups) < len(circuit)
    assert n_joined >= 3


@pytest.mark.parametrize("name", FINEST)
def test_steps_may_be_taken_one_after_the_other(name: str) -> None:
    finest = FINEST[name]
    circuit = Circuit.from_edges(finest, np.arange(0, finest.n_edges, 2))
    for universe in coarser_than(finest):
        by_steps = coarsen(coarsen(circuit, replace(finest, embeddings=universe.embeddings)), universe)
        assert by_steps == coarsen(circuit, universe)


def test_the_provenance_tells_what_was_done() -> None:
    circuit = Circuit.from_edges(FINEST["gqa"], ["tok->m0", "m0->logits"], provenance={"model": "toy", "seed": 1})
    universe = replace(circuit.universe, embeddings="joint")
    coarse = coarsen(circuit, universe, scores="sum")
    told = coarse.provenance
    assert (told["operation"], told["scores"], told["kept_if"], told["model"]) == ("coarsen", "sum", "any", "toy")
    assert told["parents"] == [circuit.digest]
    assert told["parent_universe"] == circuit.universe.to_dict()
    assert coarse.universe == universe


def test_the_same_universe_and_an_empty_circuit() -> None:
    universe = FINEST["gqa"]
    circuit = Circuit.from_edges(universe, {"tok->m0": -2.0, "m0->logits": 1.0})
    same = coarsen(circuit, universe)
    assert same == circuit
    assert same.scores.tolist() == [-2.0, 1.0]
    assert len(coarsen(Circuit.from_edges(universe, []), replace(universe, embeddings="joint"))) == 0


def test_with_a_key_per_head_native_and_per_query_are_the_same() -> None:
    per_query = FINEST["mha"]
    native = replace(per_query, kv_heads="native")
    circuit = Circuit.from_edges(native, np.arange(native.n_edges))
    assert list(coarsen(circuit, per_query)) == list(circuit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": "split"}, "embeddings: 'joint' of the circuit is coarser than 'split'"),
        ({"kv_heads": "per_query"}, "kv_heads: 'native' of the circuit is coarser than 'per_query'"),
        ({"kv_heads": "per_query", "qkv": "joint"}, "kv_heads: 'native' of the circuit is coarser"),
        ({"n_layers": 3}, "n_layers: 2 against 3: the universes are of different architectures"),
        ({"family": "qwen"}, "family: 'llama' against 'qwen'"),
        ({"block_order": "parallel"}, "block_order: 'sequential' against 'parallel'"),
        ({"n_heads": 6, "embeddings": "split"}, "n_heads: 4 against 6"),
    ],
)
def test_what_is_not_coarser_is_refused(change: dict, message: str) -> None:
    universe = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
    circuit = Circuit.from_edges(universe, ["input->logits"])
    with pytest.raises(GraphMismatchError, match=message):
        coarsen(circuit, replace(universe, **change))
    with pytest.raises(UnknownNameError, match="unknown way to join scores 'mean'; did you mean 'max'"):
        coarsen(circuit, universe, scores="mean")


@pytest.mark.parametrize("name", FINEST)
def test_the_common_universe_is_the_finest_that_both_reach(name: str) -> None:
    universes = coarser_than(FINEST[name])
    full = {universe: Circuit.from_edges(universe, np.arange(universe.n_edges)) for universe in universes}

    def reaches(finer: Universe, coarser: Universe) -> bool:
        try:
            coarsen(full[finer], coarser)
        except GraphMismatchError:
            return False
        return True

    n_without = 0
    for one, other in product(universes, universes):
        both = [universe for universe in universes if reaches(one, universe) and reaches(other, universe)]
        if not both:
            n_without += 1
            with pytest.raises(GraphMismatchError, match="no universe onto which both can be mapped"):
                common_universe(one, other)
            continue
        common = common_universe(one, other)
        assert common in both
        assert common.n_edges == max(universe.n_edges for universe in both)
    assert (n_without > 0) == (FINEST[name].group_size > 1)


def test_no_common_universe_of_two_architectures() -> None:
    with pytest.raises(GraphMismatchError, match="n_kv_heads: 2 against 4"):
        common_universe(
            Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2),
            Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=4),
        )
