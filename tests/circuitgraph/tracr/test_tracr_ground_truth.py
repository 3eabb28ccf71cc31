"""Proof of the ground truths: cut each edge alone, on every prompt, then run the survivors alone.

The forward pass is the slow numpy oracle of `conftest.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from circuitgraph.errors import UnknownNameError
from circuitgraph.tracr.ground_truth import ground_truth_edges

if TYPE_CHECKING:
    from conftest import Oracle

TOLERANCE = 1e-6  # BOS keeps a share of exp(-100 / sqrt(d_head)), up to 5.4e-7, of every attention


def test_universe_has_the_published_number_of_edges(oracle: Oracle) -> None:
    assert len(set(oracle.edges())) == len(oracle.edges()) == {"reverse": 94, "xproportion": 32}[oracle.program.name]


def test_every_prompt_is_tried(oracle: Oracle) -> None:
    sizes = {"reverse": [3, 9, 27, 81, 243], "xproportion": [4, 16, 64, 256, 1024]}
    assert [len(ids) for ids in oracle.prompts()] == sizes[oracle.program.name]


def test_uncut_oracle_answers_as_plain_python(oracle: Oracle) -> None:
    assert oracle.furthest(oracle.run(oracle.prompts(), set()), oracle.expected()) < TOLERANCE


def test_ground_truth_is_the_edges_that_matter_alone(oracle: Oracle) -> None:
    truth = ground_truth_edges(oracle.program.name)
    assert truth <= set(oracle.edges())
    full = oracle.run(oracle.prompts(), set())
    needed = {edge for edge, cut in oracle.single_cuts.items() if oracle.furthest(cut, full) > TOLERANCE}
    assert needed == truth


def test_no_edge_is_a_close_call(oracle: Oracle) -> None:
    """What an edge changes is either over 0.7 or under 1e-6: the tolerance decides nothing."""
    full = oracle.run(oracle.prompts(), set())
    changes = {edge: oracle.furthest(cut, full) for edge, cut in oracle.single_cuts.items()}
    assert not {edge: change for edge, change in changes.items() if TOLERANCE < change < 0.7}


def test_survivors_alone_reproduce_every_output(oracle: Oracle) -> None:
    prompts = oracle.prompts()
    cut = set(oracle.edges()) - ground_truth_edges(oracle.program.name)
    survivors = oracle.run(prompts, cut)
    assert oracle.furthest(survivors, oracle.run(prompts, set())) < TOLERANCE
    assert oracle.furthest(survivors, oracle.expected()) < TOLERANCE


def test_ground_truth_is_minimal(oracle: Oracle) -> None:
    """Taking one more edge from the survivors breaks an answer."""
    prompts = oracle.prompts()
    truth = ground_truth_edges(oracle.program.name)
    cut = set(oracle.edges()) - truth
    for edge in truth:
        assert oracle.furthest(oracle.run(prompts, cut | {edge}), oracle.expected()) > 0.3, edge


def test_reverse_seems_to_need_two_edges_less_on_prompts_of_full_length_only(
    oracles: dict[str, Oracle],
) -> None:
    oracle = oracles["reverse"]
    longest = oracle.run(oracle.prompts()[-1:], set())
    changes = {edge: oracle.furthest(cut[-1:], longest) for edge, cut in oracle.single_cuts.items()}
    needed = {edge for edge, change in changes.items() if change > TOLERANCE}
    assert ground_truth_edges("reverse") - needed == {"tok->a0.h0<v>", "a0.h0->m0"}
    assert len(needed) == 9


def test_unknown_program_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tracr:reverse'"):
        ground_truth_edges("tracr:revers")
