"""The folder: its tables read back are the matrices, and its page names every picture that is there."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from analysis.transfer.writing import Transfer, write_transfer
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from tests.analysis.transfer.test_matrices import TABLE

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
A = Circuit.from_edges(UNIVERSE, {"input->logits": 6, "input->m0": -1, "m0->logits": 1})
B = Circuit.from_edges(UNIVERSE, {"input->logits": 2})


def test_tables_pictures_circuits_and_a_page(tmp_path):
    table = TABLE.assign(split="test", n=50)
    made = Transfer(table=table, circuits={"a": A, "b": B}, groups={"a": "x", "b": "y"})
    with pytest.raises(ConfigurationError, match="two tasks of one kind"):
        write_transfer(made, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    made = Transfer(table=table, circuits={"a": A, "b": B})
    page = write_transfer(made, tmp_path / "x", command="circuitgraph transfer")
    text, files = page.read_text(), {one.name for one in page.parent.iterdir()}
    for name, matrix in made.matrices.items():
        read = pd.read_csv(page.parent / f"{name}.csv", index_col="task")
        pd.testing.assert_frame_equal(read, matrix, check_names=False)
    assert made.matrices["kl"].columns.tolist() == ["empty", "a", "b"]
    assert set(re.findall(r"\]\((.*?)\)", text)) == {"faithfulness.svg", "faithfulness-own.svg", "iou.svg"} <= files
    assert Circuit.load(page.parent / "circuit-a.json") == A
    weighted = pd.read_csv(page.parent / "weighted-recall.csv", index_col="circuit")
    assert weighted.loc["a"].tolist() == [1.0, 0.75] and weighted.loc["b"].tolist() == [1.0, 1.0]
    tests = pd.read_csv(page.parent / "overlap.csv")
    assert (
        tests["null"].tolist() == ["hypergeometric", "stratified"] and tests["a_in_b"].round(2).tolist() == [0.33] * 2
    )
    assert "| a | 0.800 | -0.200 |" in text and "Made by `circuitgraph transfer`" in text


def test_one_circuit_shares_with_none(tmp_path):
    table = TABLE[TABLE["circuit"] != "b"].assign(split="test", n=50)
    page = write_transfer(Transfer(table=table, circuits={"a": A}), tmp_path / "x")
    assert "What they share" not in page.read_text() and not (page.parent / "overlap.csv").exists()


def test_two_names_of_one_file_are_refused(tmp_path):
    made = Transfer(table=TABLE, circuits={"a:b": A, "a b": B})
    with pytest.raises(ConfigurationError, match=r"two circuits would be written to circuit-a_b\.json"):
        write_transfer(made, tmp_path / "x")


def test_names_that_tables_have_themselves(tmp_path):
    renamed = TABLE.replace({"circuit": {"a": "circuit", "b": "task"}}).assign(split="test", n=50)
    made = Transfer(table=renamed, circuits={"circuit": A, "task": B})
    folder = write_transfer(made, tmp_path / "x").parent
    assert pd.read_csv(folder / "containment.csv")["circuit_"].tolist() == ["circuit", "task"]
    read = pd.read_csv(folder / "faithfulness.csv", index_col="task_")
    pd.testing.assert_frame_equal(read, made.matrices["faithfulness"], check_names=False)


def test_a_circuit_that_does_as_much_as_no_edge_is_held_against_none(tmp_path):
    empty = TABLE[(TABLE["circuit"] == "empty") & (TABLE["task"] == "a")].assign(circuit="a")
    table = pd.concat([TABLE[(TABLE["circuit"] != "a") | (TABLE["task"] != "a")], empty])
    table = table.assign(split="test", n=50)
    made = Transfer(table=table, circuits={"a": A, "b": B})
    assert made.matrices["faithfulness-own"].index.tolist() == ["b"]
    assert made.matrices["faithfulness"].loc["a", "a"] == 0
