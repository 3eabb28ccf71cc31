"""`study`: from two JSONL files to a folder with circuits, tables and a report; going on, and what is refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import analysis
from analysis.regimes.comparison import compare_regimes
from circuitgraph.circuits.circuit import Circuit
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_samples():
    """The null model that is drawn, with 19 samples and not 999: what they say is tested with the null models."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(analysis, "compare_regimes", functools.partial(compare_regimes, n_samples=19))
        yield


@pytest.fixture(scope="module")
def regimes(tmp_path_factory, text_prompts) -> tuple[object, ...]:
    """The same items in two wordings, as options."""
    folder = tmp_path_factory.mktemp("regimes")
    for name, opening in (("plain", "x"), ("cup", "a cup")):
        lines = []
        for number, line in enumerate(text_prompts.read_text().splitlines()):
            row = json.loads(line)
            for side in ("clean", "corrupted"):
                row[side] = row[side].replace("x", opening, 1)
            lines.append(json.dumps({**row, "group": f"item {number}"}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return ("--regime", f"plain={folder / 'plain.jsonl'}", "--regime", f"cup={folder / 'cup.jsonl'}")


@pytest.fixture(scope="module")
def short(text_model) -> tuple[object, ...]:
    """A command line for a quick study, but for regimes and `--out`."""
    return ("study", "--model", text_model, "--steps", 4, "--target-sparsity", 0.5, "--n-random", 1)


@pytest.fixture(scope="module")
def result(tmp_path_factory, short, regimes) -> Path:
    out = tmp_path_factory.mktemp("studies") / "study"
    ended = call(*short, *regimes, "--seeds", "0,1", "--out", out)
    assert ended.code == 0, ended.err
    return out


def test_the_folder(result):
    about = json.loads((result / "study.json").read_text())
    assert about["finished"] and about["seeds"] == [0, 1] and list(about["regimes"]) == ["plain", "cup"]
    for regime in ("plain", "cup"):
        for seed in (0, 1):
            circuit = Circuit.load(result / "circuits" / regime / f"seed-{seed}" / "circuit.json")
            assert circuit.provenance["regime"] == regime and circuit.provenance["seed"] == seed
    assert (result / "report.md").read_text().startswith("# plain against cup")
    assert {path.name for path in result.iterdir()} == {
        "study.json", "faithfulness.csv", "circuits", "tables", "figures", "drawings", "report.md",
    }  # fmt: skip


def test_another_seed_trains_that_one_alone(result, short, regimes):
    ended = call(*short, *regimes, "--seeds", "0,1,2", "--out", result, "--json")
    assert ended.code == 0, ended.err
    assert "4 of 6 circuits are there already" in ended.err
    assert "training 5 of 6: plain, seed 2" in ended.err and "training 4 of 6" not in ended.err
    assert ended.json["seeds"] == [0, 1, 2] and "report.md" in ended.json["files"]
    edges = next(row for row in ended.json["yardstick"] if row["level"] == "edges")
    assert edges["smallest_p"] == 0.25 and edges["n_across"] == 6


def test_given_circuits_need_neither_model_nor_task(result, tmp_path):
    files = [f"{regime}={result / 'circuits' / regime / 'seed-0' / 'circuit.json'}" for regime in ("plain", "cup")]
    ended = call("study", "--circuit", files[0], "--circuit", files[1], "--n-random", 0, "--out", tmp_path / "x")
    assert ended.code == 0, ended.err
    assert "evaluating 6 circuits" in ended.err and "training 1 of" not in ended.err


def test_dry_run_writes_nothing(short, regimes, tmp_path):
    ended = call(*short, *regimes, "--seeds", "3,4", "--out", tmp_path / "x", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["n_trainings"], ended.json["seeds"]) == (4, [3, 4])
    assert not (tmp_path / "x").exists()


def test_what_a_training_was_to_hold_is_told_where_memory_runs_out(short, regimes, tmp_path, monkeypatch):
    def runs_out(*_, **__):
        raise MemoryError

    monkeypatch.setattr("pruning.regimes.study.run_study", runs_out)
    ended = call(*short, *regimes, "--out", tmp_path / "x")
    assert ended.code == 1 and "what the run was to hold" in ended.err
    ended = call(*short, *regimes, "--out", tmp_path / "x", "--memory-gib", 0.01)
    assert ended.code == 2 and "the run does not fit" in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--task", "antonym"), "did you mean 'antonyms'"),
        (("--task", "ioi"), "These have both regimes; of others give each by itself"),
        ((), "expected at least two regimes"),
        (("--regime", "one"), "--regime: expected NAME=VALUE; got 'one'"),
        (("--regime", "a=x.jsonl", "--regime", "a=y.jsonl"), "--regime a is given twice"),
        (("--regime", "a=x.jsonl", "--task", "antonyms"), "not both"),
        (("--task", "antonyms", "--seeds", "0,x"), "--seeds: expected numbers"),
        (("--task", "antonyms", "--seeds", "1,1"), "each seed once"),
        (
            ("--task", "antonyms", "--method", "ugs"),
            "a study trains gates by a recipe, and method 'ugs' trains by none",
        ),
    ],
)
def test_refused_before_any_work(short, tmp_path, arguments, says):
    ended = call(*short, *arguments, "--out", tmp_path / "x")
    assert ended.code == 2
    assert says in ended.err
    assert "loading" not in ended.err and not (tmp_path / "x").exists()


def test_other_settings_and_other_folders(result, short, regimes, tmp_path):
    ended = call(*short, *regimes, "--target-sparsity", 0.6, "--seeds", "0", "--out", result)
    assert ended.code == 2 and "recipe.target_sparsity is 0.5 there and would be 0.6 now" in ended.err
    (tmp_path / "mine.txt").write_text("mine")
    ended = call(*short, *regimes, "--out", tmp_path)
    assert ended.code == 2 and "is no study" in ended.err
