"""Content mapped between universes of one architecture, against a slow way by names."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitgraph.circuits.formats.content import Content, MergeRules, mapped
from circuitgraph.errors import GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

NATIVE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
PER_QUERY = replace(NATIVE, kv_heads="per_query")
JOINT = replace(PER_QUERY, qkv="joint")
SPLIT = replace(NATIVE, embeddings="split")
ALL = (NATIVE, PER_QUERY, JOINT, SPLIT, replace(JOINT, embeddings="split"))


def sources_of(edge: str, theirs: Universe, mine: Universe) -> list[str]:
    """The edges of `mine` that share a finest edge with one of `theirs`, by their names alone."""

    def finest(name: str, universe: Universe) -> set[tuple[str, str]]:
        writer, reader = name.split("->")
        writers = {"input": ["tok", "pos"]}.get(writer, [writer])
        found = re.fullmatch(r"(a\d+)\.(h|kv)(\d+)<(\w+)>", reader)
        if not found:
            return {(one, reader) for one in writers}
        layer, kind, number, letters = found[1], found[2], int(found[3]), found[4]
        heads = range(2 * number, 2 * number + 2) if kind == "kv" else [number]
        return {(one, f"{layer}.{head}{letter}") for one in writers for head in heads for letter in letters}

    names = (mine.edge_name(place) for place in range(mine.n_edges))
    wanted = finest(edge, theirs)
    return [name for name in names if wanted & finest(name, mine)]


@pytest.mark.parametrize("theirs", ALL, ids=lambda universe: universe.description)
@pytest.mark.parametrize("mine", ALL, ids=lambda universe: universe.description)
def test_each_edge_is_made_of_what_shares_a_place_with_it(mine: Universe, theirs: Universe) -> None:
    rng = np.random.default_rng(0)
    scores, kept = rng.normal(size=mine.n_edges).round(3), rng.random(mine.n_edges) < 0.5
    joins = {"sum": sum, "mean": np.mean, "max": lambda found: max(found, key=abs)}
    for name, join in joins.items():
        there = mapped(Content(universe=mine, scores=scores), theirs, MergeRules(join_scores=name))
        for place in range(0, theirs.n_edges, 37):
            sources = sources_of(theirs.edge_name(place), theirs, mine)
            right = join([scores[mine.edge_index(*source.split("->"))] for source in sources])
            assert there.scores[place] == pytest.approx(right, abs=1e-12)
    for name, rule in {"any": any, "all": all}.items():
        there = mapped(Content(universe=mine, kept=kept), theirs, MergeRules(kept_if=name))
        for place in range(0, theirs.n_edges, 37):
            sources = sources_of(theirs.edge_name(place), theirs, mine)
            assert there.kept[place] == rule(kept[mine.edge_index(*source.split("->"))] for source in sources)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), theirs=st.sampled_from([PER_QUERY, replace(PER_QUERY, embeddings="split")]))
def test_there_and_back_is_lossless(seed: int, theirs: Universe) -> None:
    """Into a finer universe and back, nothing differs, so no rule is needed; shares add up again."""
    rng = np.random.default_rng(seed)
    here = Content(universe=NATIVE, scores=rng.normal(size=NATIVE.n_edges), kept=rng.random(NATIVE.n_edges) < 0.5)
    for rules in (MergeRules(), MergeRules(kept_if="all", join_scores="mean"), MergeRules(join_scores="max")):
        back = mapped(mapped(here, theirs, rules), NATIVE, rules)
        np.testing.assert_array_equal(back.kept, here.kept)
        np.testing.assert_array_equal(back.scores[here.kept], here.scores[here.kept])
        assert back.lost == ()
    scores = Content(universe=NATIVE, scores=here.scores)
    shared = mapped(scores, theirs, MergeRules(spread="share"))
    np.testing.assert_allclose(mapped(shared, NATIVE, MergeRules(join_scores="sum")).scores, here.scores, rtol=1e-15)
    assert shared.scores.sum() == pytest.approx(here.scores.sum())


def test_what_differs_needs_a_rule_and_is_told() -> None:
    scores, kept = np.zeros(PER_QUERY.n_edges), np.zeros(PER_QUERY.n_edges, dtype=bool)
    place = PER_QUERY.edge_index("input", "a0.h1<k>")
    scores[place], kept[place] = -2.0, True
    with pytest.raises(GraphMismatchError, match=r"input->a0.kv0<k> .* -2 to 0; say how .* sum, mean, max"):
        mapped(Content(universe=PER_QUERY, scores=scores), NATIVE, MergeRules())
    with pytest.raises(GraphMismatchError, match=r"input->a0.kv0<k> is made of 2 edges of which 1 are kept"):
        mapped(Content(universe=PER_QUERY, kept=kept), NATIVE, MergeRules())
    edge = NATIVE.edge_index("input", "a0.kv0<k>")
    for name, right in {"sum": -2.0, "mean": -1.0, "max": -2.0}.items():
        there = mapped(Content(universe=PER_QUERY, scores=scores), NATIVE, MergeRules(join_scores=name))
        assert there.scores[edge] == right and there.lost == ("each of 1 edges is made of several whose scores differ",)
    both = Content(universe=PER_QUERY, scores=np.arange(PER_QUERY.n_edges) + 1.0, kept=kept)
    there = mapped(both, NATIVE, MergeRules(kept_if="any"))  # only the score of the one that is kept counts
    assert there.scores[edge] == place + 1 and there.kept.sum() == 1
    assert not mapped(both, NATIVE, MergeRules(kept_if="all")).kept.any()


def test_other_architectures_and_unknown_rules() -> None:
    deeper = replace(NATIVE, n_layers=3)
    with pytest.raises(GraphMismatchError, match="n_layers: 2 against 3"):
        mapped(Content(universe=NATIVE, scores=np.zeros(NATIVE.n_edges)), deeper, MergeRules())
    with pytest.raises(UnknownNameError, match="join_scores 'average'"):
        MergeRules(join_scores="average")
    with pytest.raises(UnknownNameError, match="kept_if"):
        MergeRules(kept_if="most")
