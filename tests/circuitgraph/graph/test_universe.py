"""Counts against published figures, names and indices against a slow enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, universes

GPT2 = {"family": "gpt2", "n_layers": 12, "n_heads": 12, "n_kv_heads": 12}
LLAMA_8B = {"family": "llama", "n_layers": 32, "n_heads": 32, "n_kv_heads": 8}


@pytest.mark.parametrize(
    ("fields", "n_edges"),
    [
        (GPT2, 32_491),  # EAP-IG, auto-circuit and MIB
        ({**GPT2, "embeddings": "split"}, 32_936),  # Edge Pruning with embedding writers
        ({"family": "llama", "n_layers": 30, "n_heads": 9, "n_kv_heads": 3}, 70_651),
        ({"family": "llama", "n_layers": 40, "n_heads": 40, "n_kv_heads": 40}, 3_877_661),
        (LLAMA_8B, 805_681),
        ({**LLAMA_8B, "kv_heads": "per_query"}, 1_592_881),
        ({"family": "tracr", "n_layers": 4, "n_heads": 1, "n_kv_heads": 1, "embeddings": "split"}, 94),
        ({"family": "tracr", "n_layers": 2, "n_heads": 1, "n_kv_heads": 1, "embeddings": "split"}, 32),
    ],
)
def test_counts(fields: dict[str, object], n_edges: int) -> None:
    universe = Universe(**fields)  # type: ignore[arg-type]
    assert universe.n_edges == n_edges == universe.reader_offsets[-1]


def slow_edges(universe: Universe) -> list[tuple[str, str]]:
    """Edges by what precedes what, one reader at a time."""
    past = ["tok", "pos"] if universe.embeddings == "split" else ["input"]
    edges: list[tuple[str, str]] = []
    for layer in range(universe.n_layers):
        past = past + [name for name in universe.virtual if name.endswith(f"@{layer}")]
        query = [f"a{layer}.h{head}" for head in range(universe.n_heads)]
        if universe.qkv == "joint":
            readers = [f"{head}<qkv>" for head in query]
        else:
            shared = universe.kv_heads == "native" and universe.n_kv_heads < universe.n_heads
            source = [f"a{layer}.kv{group}" for group in range(universe.n_kv_heads)] if shared else query
            readers = [f"{h}<q>" for h in query] + [f"{h}<k>" for h in source] + [f"{h}<v>" for h in source]
        edges += [(writer, reader) for reader in readers for writer in past]
        before_mlp = past + query if universe.block_order == "sequential" else past
        edges += [(writer, f"m{layer}") for writer in before_mlp]
        past = [*past, *query, f"m{layer}"]
    return edges + [(writer, "logits") for writer in past]


@STEADY
@given(universe=universes())
def test_edges_and_names_equal_an_enumeration(universe: Universe) -> None:
    expected = slow_edges(universe)
    assert universe.n_edges == len(expected)
    assert [universe.edge_index(*edge) for edge in expected] == list(range(len(expected)))
    assert [universe.edge_name(index) for index in range(len(expected))] == ["->".join(e) for e in expected]
    writers, readers = universe.endpoints(np.arange(universe.n_edges))
    named = [(universe.writers[w], universe.readers[r]) for w, r in zip(writers, readers, strict=True)]
    assert named == expected
    assert len(universe.writers) == universe.n_writers == len(set(universe.writers))
    assert len(universe.readers) == universe.n_readers == len(set(universe.readers))


@STEADY
@given(universe=universes())
def test_kinds_and_layers_agree_with_the_names(universe: Universe) -> None:
    assert [node_kind(name) for name in universe.writers] == universe.writer_kinds.tolist()
    assert [node_kind(name) for name in universe.readers] == universe.reader_kinds.tolist()
    layers = [-1 if node_layer(name) is None else node_layer(name) for name in universe.writers]
    assert layers == universe.writer_layers.tolist()
    layers = [universe.n_layers if node_layer(name) is None else node_layer(name) for name in universe.readers]
    assert layers == universe.reader_layers.tolist()


@STEADY
@given(universe=universes())
def test_blocks_tile_the_gate_vector(universe: Universe) -> None:
    edges = reader = 0
    for block in universe.blocks:
        assert block.edges.start == edges
        assert block.first_reader == reader
        edges, reader = block.edges.stop, reader + block.n_readers
    assert (edges, reader) == (universe.n_edges, universe.n_readers)


def test_structural_edges_lead_to_every_head_that_shares_the_scale() -> None:
    """Behind a norm of their sum a head's key moves all others of its layer; no layer leads into another."""
    universe = Universe(family="gemma2", n_layers=2, n_heads=2, n_kv_heads=1, head_scale="shared")
    readers = ("h0<q>", "h1<q>", "kv0<k>", "kv0<v>")
    expected = {(f"a{n}.{reader}", f"a{n}.h{head}") for n in (0, 1) for reader in readers for head in (0, 1)}
    assert set(universe.structural_edges()) == expected
    assert len(universe.structural_edges()) == 16


def test_structural_edges_of_a_group_reach_all_its_heads() -> None:
    universe = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)
    assert set(universe.structural_edges()) == {
        *((f"a0.h{head}<q>", f"a0.h{head}") for head in range(4)),
        *((f"a0.kv{h // 2}<{letter}>", f"a0.h{h}") for h, letter in itertools.product(range(4), "kv")),
    }


def test_a_dictionary_and_back() -> None:
    universe = Universe(**{**GPT2, "embeddings": "split"})  # type: ignore[arg-type]
    assert Universe.from_dict(universe.to_dict()) == universe
    assert universe.first_difference(universe) is None
    assert universe.first_difference(Universe(**GPT2)) == "embeddings: 'split' against 'joint'"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qkv": "both"}, ConfigurationError, "qkv must be one of split, joint; got 'both'"),
        ({"n_layers": 0}, ConfigurationError, "n_layers must be a whole number of at least 1; got 0"),
        ({"n_heads": True}, ConfigurationError, "n_heads must be a whole number"),
        ({"n_kv_heads": 5}, ConfigurationError, "must be a multiple of n_kv_heads"),
        ({"n_kv_heads": 4, "qkv": "joint"}, ConfigurationError, "add kv_heads='per_query'"),
        ({"layers": 3}, UnknownNameError, "did you mean 'n_layers'"),
    ],
)
def test_refusals(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Universe.from_dict({**GPT2, **change})


def test_missing_fields_are_named() -> None:
    with pytest.raises(ConfigurationError, match="missing n_heads, n_kv_heads"):
        Universe.from_dict({"family": "gpt2", "n_layers": 1})


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a0.h12", "logits", "unknown writer 'a0.h12'; did you mean"),
        ("input", "a0.h3<w>", "unknown reader 'a0.h3<w>'; did you mean"),
        ("m3", "a3.h1<q>", "a3.h1<q> reads before m3 writes; it sees 40 writers, the last is m2"),
    ],
)
def test_unknown_edges_name_the_nearest(source: str, target: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Universe(**GPT2).edge_index(source, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a3", "m", "m3.h1", "m3<q>", "a3.h1<w>", "output", ".h3", "<q>"])
def test_what_is_no_node_has_no_kind(name: str) -> None:
    with pytest.raises(UnknownNameError, match="no node name"):
        node_kind(name)


def test_the_number_of_edges_is_that_of_the_blocks() -> None:
    for order, heads, kv, per in itertools.product(("sequential", "parallel"), (1, 4), (1, 4), ("native", "per_query")):
        if kv > heads:
            continue
        universe = Universe(
            family="any", n_layers=3, n_heads=heads, n_kv_heads=kv, block_order=order, kv_heads=per, embeddings="split"
        )
        assert universe.n_edges == universe.blocks[-1].edges.stop


@pytest.mark.parametrize(
    "sizes", [(30_000, 12, 12), (10**12, 1, 1), (1, 10**9, 1), (200, 500_000, 1)], ids=lambda sizes: str(sizes)
)
def test_a_universe_too_large_for_any_model_is_refused_at_once(sizes: tuple[int, int, int]) -> None:
    layers, heads, kv = sizes
    with pytest.raises(ConfigurationError, match=rf"n_layers \({layers:,}\) and n_heads \({heads:,}\) make .* edges"):
        Universe(family="gpt2", n_layers=layers, n_heads=heads, n_kv_heads=kv)


def test_the_largest_published_models_have_universes() -> None:
    # Llama 3.1 405B, and GPT-3 with keys and values of its own for each of its 96 heads.
    assert Universe(family="llama", n_layers=126, n_heads=128, n_kv_heads=8).n_edges == 147_352_528
    assert Universe(family="gpt3", n_layers=96, n_heads=96, n_kv_heads=96).n_edges < 200_000_000


def test_files_of_heads_with_a_scale_of_their_own_are_as_they_were() -> None:
    """Universes that were written before heads could share a scale are read, and written, without that field."""
    old = {
        "family": "llama", "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "block_order": "sequential",
        "embeddings": "joint", "kv_heads": "native", "qkv": "split",
    }  # fmt: skip
    assert Universe.from_dict(old).to_dict() == old
    assert Universe.from_dict({**old, "head_scale": "own"}).to_dict() == old
    shared = {**old, "head_scale": "shared"}
    assert Universe.from_dict(shared).to_dict() == shared
