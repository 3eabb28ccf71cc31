"""Changes at positions as data: where they are in prompts, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuitgraph import Universe
from circuitgraph.errors import CircuitFormatError, ConfigurationError, UnknownNameError
from circuitgraph.graph.spans import with_spans
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.interventions.positions import PositionChange

UNIVERSE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
# Three tokens padded at the left, four, two padded at the right.
REAL = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
ASKED = np.array([[0, 0, 1, 0], [0, 1, 0, 1], [0, 1, 0, 0]], dtype=bool)


@pytest.mark.parametrize(
    "positions, expected",
    [
        ("all", [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]),
        ("first", [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
        ("last", [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]]),
        ("all but first", [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0]]),
        ("all but last", [[0, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),
        ("asked", [[0, 0, 1, 0], [0, 1, 0, 1], [0, 1, 0, 0]]),
        (1, [[0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]]),
        (-2, [[0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]),
        ([0, -1, 1], [[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0]]),
    ],
)
def test_positions_are_counted_in_a_prompts_own_tokens(positions, expected) -> None:
    found = PositionChange(writer="m0", positions=positions, change=1).places(REAL, ASKED)
    assert found.astype(int).tolist() == expected


@pytest.mark.parametrize(
    "positions, said",
    [
        (2, "position 2, and prompt 2 of the batch has 2 tokens"),
        (-3, "position -3, and prompt 2 of the batch has 2 tokens"),
        ([0, 3], "position 3, and prompt 0 of the batch has 3 tokens"),
        ("asked", "position 'asked', and prompt 1 of the batch has 4 tokens"),
    ],
)
def test_a_prompt_without_the_position_is_named(positions, said: str) -> None:
    asked = ASKED & np.array([[True], [False], [True]])
    with pytest.raises(ConfigurationError, match=f"m0 is changed at {said}"):
        PositionChange(writer="m0", positions=positions, change=1).places(REAL, asked)
    one = np.array([[True]])
    with pytest.raises(ConfigurationError, match="prompt 0 of the batch has 1 token, none of them that"):
        PositionChange(writer="m0", positions="all but last", change=1).places(one, one)


@pytest.mark.parametrize(
    "given, error, said",
    [
        ({"positions": "lst"}, UnknownNameError, "did you mean 'last'"),
        ({"positions": []}, ConfigurationError, "positions are whole numbers"),
        # As an iterator: of a list the types are checked too, of one item drawn at random.
        ({"positions": iter([0, 1.5])}, ConfigurationError, "positions are whole numbers"),
        ({"positions": True}, ConfigurationError, "positions are whole numbers"),
        ({"change": 0.0}, ConfigurationError, "nothing is changed"),
        ({"positions": -(10**30)}, ConfigurationError, "no prompt has a position as far as that"),
        ({"change": 10**400}, ConfigurationError, "its change has to be a finite number"),
        ({"change": float("nan")}, ConfigurationError, "its change has to be a finite number"),
        ({"vector": (1.0, float("inf"))}, ConfigurationError, "its vector has to be a finite number"),
    ],
)
def test_what_says_no_change_is_refused(given, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        PositionChange(**{"writer": "m0", "positions": 0, "change": 1.0, **given})


def test_writers_universes_and_ablations_that_do_not_fit_are_refused() -> None:
    change = PositionChange(writer="m0", positions=0, change=1)
    with pytest.raises(UnknownNameError, match="unknown writer 'm9'"):
        Intervention.from_positions(UNIVERSE, [PositionChange(writer="m9", positions=0, change=1)])
    with pytest.raises(ConfigurationError, match="needs ablation 'zero'; got 'mean'"):
        Intervention(universe=UNIVERSE, changes=np.zeros(UNIVERSE.n_edges), ablation="mean", at_positions=(change,))
    spanned = with_spans(UNIVERSE, ("start", "end"), asked=("end",))
    with pytest.raises(ConfigurationError, match="universe has spans of positions"):
        Intervention.from_positions(spanned, [change])


def saved(tmp_path: Path) -> tuple[Intervention, Path]:
    changes = [
        PositionChange(writer="m0", positions="last", change=-1),
        PositionChange(writer="a0.h1", positions=[0, -1], change=0.25, vector=(0.5, -1.5)),
    ]
    made = Intervention.from_positions(UNIVERSE, changes, provenance={"task": "ioi"})
    return made, made.save(tmp_path / "there.json")


def test_a_file_comes_back_and_fits_its_schema(tmp_path: Path) -> None:
    import jsonschema

    made, path = saved(tmp_path)
    values = json.loads(path.read_text())
    assert values["at_positions"] == [
        {"writer": "m0", "positions": "last", "change": -1.0},
        {"writer": "a0.h1", "positions": [0, -1], "change": 0.25, "vector": [0.5, -1.5]},
    ]
    assert Intervention.load(path) == made != Intervention.from_writers(UNIVERSE, {})
    assert "and on 2 writers at some positions" in repr(Intervention.load(path))
    schema = json.loads((Path(__file__).parents[3] / "docs/reference/schemas/intervention.schema.json").read_text())
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "at_positions": [{"writer": "m0"}]}, schema)


@pytest.mark.parametrize(
    "there, said",
    [
        ({}, "'at_positions' has to be a list"),
        (["m0"], "a change at positions is an object; got str"),
        ([{"writer": "m0"}], "lacks 'positions'"),
        ([{"writer": "m0", "positions": 0, "chnge": 1}], "did you mean 'change'"),
        ([{"writer": "m0", "positions": 0, "change": "much"}], "finite number; got 'much'"),
        ([{"writer": "m0", "positions": 0, "vector": 3}], "its vector is a list"),
        ([{"writer": "m0", "positions": None, "change": 1}], "positions are whole numbers"),
        ([{"writer": "m0", "positions": {"0": 1}, "change": 1}], "positions are whole numbers"),
        ([{"writer": "m9", "positions": 0, "change": 1}], "unknown writer 'm9'"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, there: object, said: str) -> None:
    _, path = saved(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "at_positions": there}))
    with pytest.raises(CircuitFormatError, match=rf"there\.json: .*{said}"):
        Intervention.load(path)


def test_a_field_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "at_position": []}))
    with pytest.raises(CircuitFormatError, match="unknown field 'at_position'; did you mean 'at_positions'"):
        Intervention.load(path)
