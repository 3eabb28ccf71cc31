"""Edge scores: what they refuse, how they are ordered, and that files say what was written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from circuitgraph.circuits.edge_scores import ABOUT, NUMBERS, EdgeScores
from circuitgraph.errors import CircuitFormatError, ConfigurationError, OutputError, UnknownNameError
from circuitgraph.graph.universe import Universe

TOY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
VALUES = np.array([0.5, -3.0, 2.0, -0.25, 2.0, 0.0, 1e-300, -1e300])


def scores(values: np.ndarray = VALUES, **changes) -> EdgeScores:
    about = {"method": "mine", "direction": "noising", "estimates": "a rank", "ablation": "zero"}
    return EdgeScores.of(TOY, values, **{**about, "provenance": {"seed": np.int64(3)}, **changes})


def test_orders() -> None:
    assert scores().order().tolist() == [7, 1, 2, 4, 0, 3, 6, 5]  # equal ones as they stand
    assert scores().order(by="signed").tolist() == [2, 4, 0, 6, 5, 3, 1, 7]
    assert scores(estimates="log-alpha").order().tolist() == scores().order(by="signed").tolist()
    assert scores(estimates="log-alpha").order(by="size").tolist() == scores().order().tolist()
    assert scores().top(2) == ("m0->logits", "input->a0.h0<k>")
    with pytest.raises(UnknownNameError, match="did you mean 'size'"):
        scores().order(by="sizes")


def test_scores_by_name() -> None:
    assert scores()["input->a0.h0<k>"] == -3.0
    with pytest.raises(UnknownNameError):
        scores()["input->a9.h0<k>"]


def test_they_cannot_be_changed() -> None:
    values = VALUES.copy()
    found = scores(values)
    values[0] = 9.0
    assert found.values[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        found.values[0] = 1.0
    found.provenance["seed"] = 4
    assert found.provenance["seed"] == 3 and found.provenance["score_meaning"] == "a rank"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_score_can_be(bad: float) -> None:
    with pytest.raises(ConfigurationError, match=r"2 of 8 are not, the first that of input->a0.h0<v>: "):
        scores(np.where(np.arange(8) % 4 == 2, bad, 0.0))


def test_one_per_edge() -> None:
    with pytest.raises(ConfigurationError, match=r"each of the universe's 8 edges; got shape \(7,\)"):
        scores(VALUES[:7])
    with pytest.raises(UnknownNameError, match="direction"):
        scores(direction="up")
    with pytest.raises(UnknownNameError, match="ablation"):
        scores(ablation="none")


def test_files_hold_every_bit(tmp_path: Path) -> None:
    folder = scores().save(tmp_path / "a" / "scores")
    for place in (folder, folder / ABOUT):
        found = EdgeScores.load(place)
        np.testing.assert_array_equal(found.values, VALUES)
        assert found.universe == TOY and found.provenance == scores().provenance and found.digest == scores().digest
    assert sorted(path.name for path in folder.iterdir()) == [ABOUT, NUMBERS]


def test_an_older_folder_stays_unless_asked(tmp_path: Path) -> None:
    folder = scores().save(tmp_path / "scores")
    with pytest.raises(OutputError, match="exists"):
        scores(VALUES * 2).save(folder)
    assert EdgeScores.load(folder)["input->a0.h0<k>"] == -3.0
    assert EdgeScores.load(scores(-VALUES).save(folder, overwrite=True))["input->a0.h0<k>"] == 3.0
    (folder / "mine.txt").write_text("keep me")
    with pytest.raises(OutputError, match="holds mine.txt"):
        scores().save(folder, overwrite=True)


def edited(folder: Path, **changes: object) -> None:
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, **changes}))


BAD = {
    "no JSON": (lambda folder: (folder / ABOUT).write_text("{"), "Expecting property name"),
    "a list": (lambda folder: (folder / ABOUT).write_text("[]"), "is no JSON object"),
    "a field is gone": (lambda folder: (folder / ABOUT).write_text('{"format_version": 1}'), "lacks universe, method"),
    "newer": (lambda folder: edited(folder, format_version=2), "format version 2; this version reads 1"),
    "no numbers": (lambda folder: (folder / NUMBERS).unlink(), "No such file"),
    "damaged": (lambda folder: (folder / NUMBERS).write_bytes(b"\x10" * 40), "hold no edge scores"),
    "another universe": (
        lambda folder: edited(folder, universe=Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1).to_dict()),
        "got shape",
    ),
    "of another result": (lambda folder: edited(folder, sha256="0" * 64), "other scores than scores.json"),
    "no such direction": (lambda folder: edited(folder, direction="sideways"), "unknown direction"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_damaged_folders_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    folder = scores().save(tmp_path / "scores")
    spoil(folder)
    with pytest.raises(CircuitFormatError, match=re.escape(message)):
        EdgeScores.load(folder)


def test_a_table_of_all_edges() -> None:
    table = scores().table()
    assert list(table) == ["edge", "writer", "reader", "layer", "kind", "score", "rank"]
    assert table["edge"].tolist() == list(scores().top(8)) and table["rank"].tolist() == list(range(1, 9))
    assert table["score"].tolist() == [scores()[edge] for edge in table["edge"]]
    assert (table["writer"] + "->" + table["reader"]).equals(table["edge"])
    row = table.set_index("edge").loc["input->a0.h0<k>"]
    assert (row["layer"], row["kind"], row["score"]) == (0, "k", -3.0)


def test_a_card_escapes_names_and_counts_signs() -> None:
    card = scores(method="<b>", provenance={"model": "toy"})._repr_html_()
    assert "Scores of 8 edges by &lt;b&gt;" in card and "model toy" in card and "<b>" not in card
    rows = re.findall(r">(above 0|0|below 0)</td><td[^>]*>(\d+)<", card)
    assert rows == [("above 0", "4"), ("0", "1"), ("below 0", "3")]
