"""The ground truths are found again by cutting, with what shipped them; sets with ties are found by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from circuitgraph.tracr.cut_model import CutModel
from circuitgraph.tracr.cutting import cut_in_order, establish_ground_truth, minimal_sets
from circuitgraph.tracr.ground_truth import GroundTruth, load_ground_truth
from circuitgraph.tracr.loading import load_tracr
from circuitgraph.tracr.programs import program_names
from tests.circuitgraph.tracr.conftest import SMALL

if TYPE_CHECKING:
    from conftest import Oracle

NOT_ALONE = ["dyck-1", "shuffle-dyck"]
QUICK = ["count", "first-token", "hist", "length", "parity", "sort-unique"]


def same(found: GroundTruth, shipped: GroundTruth) -> None:
    """All but the last digits of how far outputs moved."""
    for field in dataclasses.fields(GroundTruth):
        left, right = getattr(found, field.name), getattr(shipped, field.name)
        assert left == (pytest.approx(right, rel=1e-6, abs=1e-12) if isinstance(right, float) else right), field.name


@pytest.mark.parametrize("name", QUICK)
def test_the_true_edges_are_found_again(name: str) -> None:
    truth = dataclasses.replace(load_ground_truth(name), every_set_tried=False)
    same(establish_ground_truth(name, every_set=False), truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if load_ground_truth(name).n_readable <= 11])
def test_every_set_of_edges_that_can_matter_is_tried(name: str) -> None:
    same(establish_ground_truth(name), load_ground_truth(name))


@pytest.mark.full
@pytest.mark.parametrize("name", program_names())
def test_every_file_is_made_again(name: str) -> None:
    same(establish_ground_truth(name), load_ground_truth(name))


@pytest.mark.parametrize("name", program_names())
def test_every_truth_is_what_is_needed_and_of_the_shipped_weights(name: str) -> None:
    truth = load_ground_truth(name)
    assert truth.edges == truth.needed
    assert truth.unique == (name not in NOT_ALONE)
    assert truth.every_set_tried == (truth.n_readable <= 14)
    assert truth.weights_sha256 == load_tracr(name).revision
    assert truth.largest_change_of_others < truth.tolerance < 0.7 < truth.smallest_change_of_needed


def test_an_edge_that_cannot_be_read_changes_nothing(oracle: Oracle) -> None:
    """The slow oracle cuts every one of them alone, and no output moves but by rounding."""
    model = CutModel(oracle.program.name)
    assert model.edges == oracle.edges()
    full = oracle.run(oracle.prompts(), set())
    silent = set(model.edges) - model.readable
    assert silent and max(oracle.furthest(oracle.single_cuts[edge], full) for edge in silent) < 1e-12


def test_cut_model_says_what_the_oracle_says(oracle: Oracle) -> None:
    model = CutModel(oracle.program.name)
    for cut in (set(), {model.edges[1]}, set(model.edges[::3])):
        expected = [
            array[where[..., 0]] for array, where in zip(oracle.run(oracle.prompts(), cut), oracle.asked, strict=True)
        ]
        for found, right in zip(model.outputs(cut), expected, strict=True):
            np.testing.assert_allclose(found.numpy(), right, rtol=0, atol=1e-9)


def test_two_edges_of_which_one_is_enough_make_two_minimal_sets() -> None:
    def enough(kept: frozenset[str]) -> bool:
        return "c" in kept and bool(kept & {"a", "b"})

    assert minimal_sets("abcd", enough) == [frozenset("ac"), frozenset("bc")]
    assert cut_in_order("dcba", enough) == frozenset("ac")
    assert cut_in_order("abcd", enough) == frozenset("bc")


def test_cutting_begins_again_until_nothing_can_be_cut() -> None:
    """`a` can go only once `b` is gone, which comes after it."""

    def enough(kept: frozenset[str]) -> bool:
        return "c" in kept and ("a" in kept or "b" not in kept)

    assert cut_in_order("abc", enough) == frozenset("c")


def test_a_truth_with_a_tie_is_not_unique_and_survives_its_file(tmp_path: Path) -> None:
    tie = dataclasses.replace(load_ground_truth("hist"), edges=("a", "c"), needed=("c",), alternatives=(("b", "c"),))
    assert not tie.unique
    record = json.loads(tie.write(tmp_path).read_text())
    assert record["alternatives"] == [["b", "c"]] and record["ablation"] == "zero" and record["embeddings"] == "split"


@pytest.mark.parametrize("name", NOT_ALONE)
@pytest.mark.slow
def test_smaller_sets_of_needed_edges_are_enough_too(name: str) -> None:
    """A head that looks everywhere needs its positions only while it also reads tokens, which tell it where BOS is."""
    model, truth = CutModel(name), load_ground_truth(name)
    fewer = set(truth.alternatives[0])
    spared = set(truth.edges) - fewer
    assert fewer < set(truth.edges) and len({edge.split("<")[0] for edge in spared}) == 1
    assert {edge[-3:] for edge in spared} == {"<q>", "<k>"} and all(edge.startswith("pos->") for edge in spared)
    assert model.change(set(model.edges) - fewer) < truth.tolerance
    tokens = {edge.replace("pos->", "tok->") for edge in spared}
    for one in spared:
        assert model.change({one}, enough=0.7) > 0.7
        assert model.change({one, *tokens}) < truth.tolerance
