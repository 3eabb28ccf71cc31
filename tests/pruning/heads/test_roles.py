"""Roles by their rules: planted heads are found, and nothing else is; places by hand; baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.errors import ConfigurationError, GraphMismatchError
from pruning import appearing_heads, head_roles
from pruning.heads.landmarks import landmarks
from tests.pruning.heads.planted import ANSWER_AT, looking_at, pairs, planted

HEADS = {
    "a0.h0": looking_at(lambda prompt, at: at - 1 if at else 0),
    "a0.h1": looking_at(lambda prompt, at: ANSWER_AT[prompt]),
    "a0.h2": looking_at(lambda prompt, at: 0),
    "a0.h3": looking_at(lambda prompt, at: ANSWER_AT[prompt] - 1),
    "a0.h4": looking_at(lambda prompt, at: ANSWER_AT[prompt]),
    "a0.h5": looking_at(lambda prompt, at: 4),
}
SAYS = {"a0.h1": {"right": 2.0, "attended": 2.0}, "a0.h4": {"right": -2.0, "attended": -2.0}, "a0.h5": {"type": 1.0}}


def test_planted_heads_are_found_and_nothing_else_is() -> None:
    roles = head_roles(planted(HEADS, SAYS), pairs(), spans={"relation": "t3 t5"})
    # Heads 1 and 4 look at the place after the earlier 5; head 3 looks at that 5 itself, from the last position.
    # Head 5 looks at the last token but one, in the relation in two of three prompts, and says answers of this kind.
    assert roles.by_head == {
        "a0.h0": "previous-token", "a0.h1": "induction, mover", "a0.h3": "duplicate-token",
        "a0.h4": "induction, suppression", "a0.h5": "relation",
    }  # fmt: skip
    rules = roles.rules.set_index("role")
    assert rules.loc["mover", "looks_at"] == "answer"
    # From the last of six positions one place of six is right; of two tokens in relation, 4 and 5, two are.
    assert rules.loc["mover", "uniform"] == pytest.approx(1 / 6)
    assert rules.loc["relation", "uniform"] == pytest.approx(2 / 6)
    assert rules.loc["relation", "n_prompts"] == 3
    assert rules.loc["previous-token", "uniform"] == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]))
    assert rules.loc["previous-token", "by_place"] == 1  # the token before is the same place in every prompt
    assert rules.loc["induction", "by_place"] == 0
    assert (rules["by_chance"] < rules["n_heads"] / 4).all()


def test_a_head_that_looks_there_but_says_something_else_is_no_mover() -> None:
    silent = planted(HEADS, {"a0.h1": {"right": 0.05}})
    assert head_roles(silent, pairs()).by_head["a0.h1"] == "induction"
    table = head_roles(planted(HEADS, SAYS), pairs()).table.set_index("head")
    assert table.loc["a0.h1", "answer"] == pytest.approx(0.9, abs=1e-6)
    assert table.loc["a0.h1", "first"] == pytest.approx(0.0)
    # From the second position on head 0 looks at the first token from position 1 alone: 0.9 of five rows.
    assert table.loc["a0.h0", "first"] == pytest.approx(0.9 / 5, abs=1e-6)


def test_the_share_is_what_counts_as_looking() -> None:
    found = planted(HEADS, SAYS)
    assert head_roles(found, pairs(), share=0.95).by_head == {}
    with pytest.raises(ConfigurationError, match="share"):
        head_roles(found, pairs(), share=0.0)


def test_the_subject_is_what_differs_where_prompts_do_not_hold_the_answer() -> None:
    from dataclasses import replace

    others = replace(pairs(), answer_ids=tuple(np.array([99]) for _ in range(4)))
    roles = head_roles(planted(HEADS, SAYS), others)
    assert roles.rules.set_index("role").loc["mover", "looks_at"] == "differing"
    assert "mover" in roles.by_head["a0.h1"]  # in these prompts only the former answer differs


def test_places_by_hand() -> None:
    places = landmarks(planted(HEADS), pairs(), {"two": "t5 t7"})
    duplicate, induction = places["duplicate"][0], places["induction"][0]
    assert duplicate.rows.tolist() == [5] and np.flatnonzero(duplicate.places[0]).tolist() == [1]
    assert induction.rows.tolist() == [5] and np.flatnonzero(induction.places[0]).tolist() == [2]
    assert np.flatnonzero(places["wrong"][0].places[0]).tolist() == [3]
    assert np.flatnonzero(places["differing"][1].places[0]).tolist() == [1]
    assert np.flatnonzero(places["two"][0].places[0]).tolist() == [1, 2]
    assert [len(one.rows) for one in places["two"]] == [1, 0, 0, 0]
    assert places["previous"][0].rows.tolist() == [1, 2, 3, 4, 5]


def test_heads_that_appear() -> None:
    before = planted(HEADS, {"a0.h1": {"right": 3.0}, "a0.h2": {"right": 0.5}})
    after = planted(HEADS, {"a0.h1": {"right": 3.0}, "a0.h4": {"right": 2.0}})
    found = appearing_heads(before, after, top=2).set_index("head")
    assert found.index[0] == "a0.h4" and found.loc["a0.h4", "change"] == pytest.approx(2.0)
    assert found["appears"].to_dict() == {name: name == "a0.h4" for name in found.index}
    assert found.loc["a0.h1", "place_before"] == found.loc["a0.h1", "place_after"] == 1
    assert not appearing_heads(before, before, top=2)["appears"].any()


def test_refused() -> None:
    found = planted(HEADS)
    with pytest.raises(ConfigurationError, match="no prompt holds"):
        head_roles(found, pairs(), spans={"relation": "capital"})
    with pytest.raises(ConfigurationError, match="taken"):
        head_roles(found, pairs(), spans={"answer": "t5"})
    with pytest.raises(ConfigurationError, match="no prompt holds"):
        head_roles(found, pairs(), spans={"relation": ""})
    with pytest.raises(ConfigurationError, match="other prompts"):
        head_roles(found, pairs().subset([1, 0, 2, 3]))
    with pytest.raises(GraphMismatchError):
        appearing_heads(found, planted({"a0.h0": HEADS["a0.h0"]}))
    with pytest.raises(ConfigurationError, match="top"):
        appearing_heads(found, found, top=0)
