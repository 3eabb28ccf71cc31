"""Proof of the ground truths: cut each edge alone, on every prompt, then run the survivors alone.

The forward pass is the slow numpy oracle of `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from circuitgraph.errors import UnknownNameError
from circuitgraph.tracr.cut_model import CutModel
from circuitgraph.tracr.ground_truth import ground_truth_edges, load_ground_truth
from tests.circuitgraph.tracr.conftest import LARGE

if TYPE_CHECKING:
    from conftest import Oracle

TOLERANCE = 1e-6  # BOS keeps a share of exp(-100 / sqrt(d_head)), up to 5.4e-7, of every attention
LEAKS = {"sort": 1e-5, "sort-freq": 1e-4}
"""Where heads are wider, or many look after one another, more leaks."""


def test_universe_has_the_published_number_of_edges(oracles: Callable[[str], Oracle]) -> None:
    for name, n_edges in {"reverse": 94, "xproportion": 32}.items():
        assert len(set(oracles(name).edges())) == len(oracles(name).edges()) == n_edges


def test_every_prompt_is_tried(oracles: Callable[[str], Oracle]) -> None:
    sizes = {
        "reverse": [3, 9, 27, 81, 243],
        "xproportion": [4, 16, 64, 256, 1024],
        "sort-unique": [4, 4 * 3, 4 * 3 * 2, 4 * 3 * 2],  # only distinct tokens
        "induction": [3, 27 - 3 * 2 * 1, 81, 243],  # only where some token comes again
    }
    for name, expected in sizes.items():
        assert [len(ids) for ids in oracles(name).prompts()] == expected


def test_uncut_oracle_answers_as_plain_python(any_oracle: Oracle) -> None:
    assert any_oracle.furthest(any_oracle.run(any_oracle.prompts(), set()), any_oracle.expected()) < tolerance_of(
        any_oracle
    )


def tolerance_of(oracle: Oracle) -> float:
    return LEAKS.get(oracle.program.name, TOLERANCE)


def test_ground_truth_is_the_edges_that_matter_alone(oracle: Oracle) -> None:
    """What an edge changes is either over 0.7 or next to nothing: the tolerance decides nothing."""
    full = oracle.run(oracle.prompts(), set())
    changes = {edge: oracle.furthest(cut, full) for edge, cut in oracle.single_cuts.items()}
    truth = load_ground_truth(oracle.program.name)
    assert {edge for edge, change in changes.items() if change > 0.7} == set(truth.edges) == set(truth.needed)
    assert {edge for edge, change in changes.items() if change > tolerance_of(oracle)} == set(truth.edges)
    assert len(changes) == truth.n_edges
    rest = [changes[edge] for edge in changes.keys() - set(truth.edges)]
    assert max(rest) == pytest.approx(truth.largest_change_of_others, abs=1e-12)
    assert min(changes[edge] for edge in truth.edges) == pytest.approx(truth.smallest_change_of_needed)


def test_survivors_alone_reproduce_every_output(any_oracle: Oracle) -> None:
    prompts = any_oracle.prompts()
    cut = set(any_oracle.edges()) - ground_truth_edges(any_oracle.program.name)
    survivors = any_oracle.run(prompts, cut)
    assert any_oracle.furthest(survivors, any_oracle.run(prompts, set())) < tolerance_of(any_oracle)
    assert any_oracle.furthest(survivors, any_oracle.expected()) < tolerance_of(any_oracle)


def test_ground_truth_is_minimal(oracle: Oracle) -> None:
    """Taking one more edge from the survivors breaks an answer."""
    prompts = oracle.prompts()
    truth = ground_truth_edges(oracle.program.name)
    cut = set(oracle.edges()) - truth
    for edge in truth:
        assert oracle.furthest(oracle.run(prompts, cut | {edge}), oracle.expected()) > 0.3, edge


def test_reverse_seems_to_need_two_edges_less_on_prompts_of_full_length_only(
    oracles: Callable[[str], Oracle],
) -> None:
    oracle = oracles("reverse")
    longest = oracle.run(oracle.prompts()[-1:], set())
    changes = {edge: oracle.furthest(cut[-1:], longest) for edge, cut in oracle.single_cuts.items()}
    needed = {edge for edge, change in changes.items() if change > TOLERANCE}
    assert ground_truth_edges("reverse") - needed == {"tok->a0.h0<v>", "a0.h0->m0"}
    assert len(needed) == 9


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow
def test_large_programs_need_each_edge_and_no_other(name: str) -> None:
    """Edges that a reader could read are cut one by one, of each until something breaks."""
    model, truth = CutModel(name), load_ground_truth(name)
    assert len(model.edges) == truth.n_edges and len(model.readable) == truth.n_readable
    assert (
        {edge for edge in truth.edges if model.change({edge}, enough=0.7) > 0.7} == set(truth.edges) <= model.readable
    )
    assert model.change(model.readable - set(truth.edges)) <= LEAKS.get(name, TOLERANCE)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.full
def test_large_programs_by_cutting_every_edge(name: str, oracles: Callable[[str], Oracle]) -> None:
    test_ground_truth_is_the_edges_that_matter_alone(oracles(name))


def test_unknown_program_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tracr:reverse'"):
        ground_truth_edges("tracr:revers")
