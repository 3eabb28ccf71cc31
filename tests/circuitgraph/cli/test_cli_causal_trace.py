"""`circuitgraph causal-trace`: its files, its JSON, and what it refuses before a model is loaded."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from analysis.figures import tracing
from circuitgraph.cli import causal_trace as cli
from tests.circuitgraph.cli.conftest import call

SMALL = ("causal-trace", "--model", "induction-neox", "--task", "induction", "--no-verify")
FEW = ("--train-prompts", 6, "--test-prompts", 4, "--steps", 3, "--starts", 1, "--draws", 1, "--widths", "0,1")
FILES = ["corruptions.csv", "null-token.safetensors", "prompts.csv", "trace.csv", "trace.json", "trace.png"]


def test_files_json_and_table(tmp_path: Path) -> None:
    out = tmp_path / "found"
    ended = call(*SMALL, *FEW, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == FILES
    whole = json.loads((out / "trace.json").read_text())
    rows = list(csv.DictReader(io.StringIO((out / "trace.csv").read_text())))
    assert len(rows) == 3 * 2 * 3 * 2 * 2  # corruptions, kinds, places, widths, layers
    assert [float(row["kl_share"]) for row in rows] == pytest.approx([row["kl_share"] for row in whole["trace"]])
    assert {row["corruption"] for row in rows} == {
        "null_token",
        "mean",
        "noise",
    }  # names that stay
    assert ended.json["trace"] == whole["trace"] and whole["n_traced"] == len(whole["prompts"]) == 4
    assert [row["corruption"] for row in whole["corruptions"]] == ["null_token", "mean", "noise"]
    assert whole["subject"] == "differing" and whole["settings"]["widths"] == [0, 1] and whole["task"] == "induction"
    copied = [row for row in whole["trace"] if (row["kind"], row["place"], row["layer"]) == ("attention", "last", 1)]
    assert len(copied) == 6 and all(row["kl_share"] > 0.99 for row in copied)  # the last layer's heads copy the letter
    with safe_open(out / "null-token.safetensors", "numpy") as file:
        assert file.get_tensor("null_token").shape == (96,)
        assert json.loads(file.metadata()["about"])["null_token"] == whole["null_token"]
    assert (out / "trace.png").read_bytes()[1:4] == b"PNG"
    assert "exists" in call(*SMALL, *FEW, "--out", out).err
    told = call(*SMALL, *FEW, "--corruptions", "mean", "--kinds", "mlp", "--out", out, "--overwrite")
    assert told.code == 0 and "subject: differing, such as" in told.out and "null-token" not in str(list(out.iterdir()))


def test_table_and_figure_of_windows_wider_than_the_model(tmp_path: Path, monkeypatch) -> None:
    """Windows that hold the same layers are shown once; the figure has windows that are smaller than the model."""
    drawn, draw = [], tracing.causal_trace_figure
    monkeypatch.setattr(
        tracing, "causal_trace_figure", lambda *given, **named: drawn.append(named) or draw(*given, **named)
    )
    told = call(*SMALL, *FEW, "--widths", "0,2,4", "--corruptions", "mean", "--out", tmp_path / "a")
    assert told.code == 0, told.err
    assert "hidden by mean (4 of 18)" in told.out  # kinds, places, and layers 0, 1 and 0-1
    rows = [line.split()[:3] for line in told.out.splitlines() if line.startswith("attention  last ")]
    assert sorted(rows) == [["attention", "last", "0-1"], ["attention", "last", "1"]]
    assert drawn == [{"width": 0, "n_layers": 2}]


def test_nothing_lost(tmp_path: Path) -> None:
    """The mean of one subject of one token is that token; without a test split the training prompts are traced."""
    prompts = tmp_path / "prompts.jsonl"
    pair = {"clean": "A B C D A B C<predict> D</predict>", "corrupted": "A B C E A B C", "split": "train"}
    prompts.write_text(json.dumps(pair) + "\n")
    given = ("causal-trace", "--model", "induction-neox", "--task", f"jsonl:{prompts}", "--no-verify", "--steps", 0)
    told = call(*given, "--corruptions", "mean", "--out", tmp_path / "a")
    assert told.code == 0, told.err
    assert "tracing 1 training prompts at most, since the task has no test prompts" in told.err
    assert json.loads((tmp_path / "a" / "trace.json").read_text())["n_test"] == 0
    assert "Subject hidden by mean: no probability was lost, so there are no shares of it" in told.out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "corruptions.csv", "prompts.csv", "trace.csv", "trace.json"
    ]  # fmt: skip


def test_a_rate_that_ruins_the_token(tmp_path: Path) -> None:
    told = call(*SMALL, *FEW, "--steps", 1, "--rate", "1e38", "--out", tmp_path / "a")
    assert told.code == 1 and "null token, after 1 steps: its loss is not finite; try a smaller rate" in told.err
    assert "bug" not in told.err and not (tmp_path / "a").exists()


def test_ended_when_the_folder_is_there(tmp_path: Path, monkeypatch) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_show", end)
    told = call(*SMALL, *FEW, "--corruptions", "mean", "--out", tmp_path / "a")
    assert told.code == 130 and f"Interrupted; the result is in {tmp_path / 'a'}" in told.err
    assert (tmp_path / "a" / "trace.json").exists()


def test_refused(tmp_path: Path) -> None:
    for option, value, said in (
        ("--layers", "1-2", "--layers"), ("--widths", "a", "--widths"), ("--widths", "", "widths"),
        ("--rate", 0, "rate"),
        ("--kinds", "mpl", "did you mean 'mlp'"), ("--places", "first", "unknown place"),
        ("--corruptions", "nil", "unknown corruption"), ("--objective", "mse", "unknown objective"),
    ):  # fmt: skip
        told = call(*SMALL, option, value, "--out", tmp_path / "a")
        assert told.code == 2 and said in told.err and "loading" not in told.err, (option, told.err)
    told = call(*SMALL, *FEW, "--subject", "country", "--out", tmp_path / "a")
    assert told.code == 2 and "unknown way to find the subject 'country'" in told.err
    assert call(*SMALL, *FEW, "--subject", "group", "--out", tmp_path / "a").code == 2
    assert not (tmp_path / "a").exists()
