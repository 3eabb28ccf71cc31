"""Whatever ends a run after training: gates and circuit are there, what is missing is said, `report` makes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from circuitgraph.circuits.circuit import Circuit
from pruning.runs.verdicts import verdicts
from tests.circuitgraph.cli.conftest import TRACR, call
from tests.circuitgraph.cli.test_cli_discover import FILES
from tests.circuitgraph.cli.test_file_formats import complaints

pytestmark = pytest.mark.slow

SMALL = (*TRACR, "--steps", 10, "--task-option", "max_length=3")
SAFE = {"gates.safetensors", "circuit.json", "curve.csv", "metrics.json", "run.toml", "state.json"}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def state(folder: Path) -> dict:
    found = json.loads((folder / "state.json").read_text())
    assert complaints("state", found) == []
    return found


def missing(folder: Path) -> set[str]:
    return {row["part"] for row in state(folder)["missing"]}


def before(monkeypatch, name: str, *, error: Exception | None = None, at: int = 1, signals: int = 1, number=15):
    """Raise an error or signals when a function is called for the `at`th time."""
    import importlib

    module, _, function = name.rpartition(".")
    holder = importlib.import_module(module)
    real, calls = getattr(holder, function), []

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            if error is not None:
                raise error
            for _ in range(signals):
                signal.raise_signal(number)
        return real(*arguments, **options)

    monkeypatch.setattr(holder, function, wrapped)


def test_a_judgement_that_fails_says_nothing_and_report_makes_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        before(patched, "pruning.runs.discover.verdicts", error=TypeError("no"), at=2)
        ended = call(*SMALL, "--out", tmp_path / "x")
    assert ended.code == 1 and missing(tmp_path / "x") == {"verdicts"}
    # Not what was judged before anything was measured, "measured on no prompts".
    assert json.loads((tmp_path / "x" / "metrics.json").read_text())["verdicts"] == []
    again = call("report", tmp_path / "x", "--json")
    assert again.code == 0 and again.json["made"] == ["verdicts", "report"]
    assert state(tmp_path / "x")["finished"] is True
    found = json.loads((tmp_path / "x" / "metrics.json").read_text())
    assert found["verdicts"] == verdicts(found)


class TestSignals:
    @pytest.mark.parametrize("stage", ["circuitgraph.models.load_model", "pruning.runs.trained_run.FrozenRuns"])
    def test_before_training_nothing_is_left(self, stage, tmp_path, monkeypatch):
        before(monkeypatch, stage)
        ended = call(*SMALL, "--out", tmp_path / "deep" / "x")
        assert ended.code == 143
        assert "Interrupted by SIGTERM; nothing was written." in ended.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("number", "code", "said"),
        [(2, 130, "the user"), (15, 143, "SIGTERM"), pytest.param(1, 129, "SIGHUP", marks=pytest.mark.full)],
    )
    def test_in_training_what_was_learnt_is_kept(self, number, code, said, tmp_path, monkeypatch):
        before(monkeypatch, "pruning.methods.edge_pruning.train.rate_at", at=8, number=number)
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == code
        assert f"interrupted by {said} after 7 steps" in ended.err
        assert "nothing was written" not in ended.err
        assert files(tmp_path / "x") >= SAFE | {"report.md", "circuit.html", "curve.png"}
        assert missing(tmp_path / "x") == {"evaluation:validation", "evaluation:test", "effects", "drawings"}
        assert "## What is missing" in (tmp_path / "x" / "report.md").read_text()
        assert f"`circuitgraph report {tmp_path / 'x'}` makes what is missing" in ended.err
        assert files(tmp_path) == {"x"}

    def test_while_edges_are_kept_there_is_a_circuit_all_the_same(self, tmp_path, monkeypatch):
        before(monkeypatch, "pruning.runs.trained_run.keep_faithful")
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 143
        assert (
            "The fewest edges that are enough were not looked for to the end (the run was ended by SIGTERM)"
            in ended.err
        )
        Circuit.load(tmp_path / "x" / "circuit.json")

    def test_in_evaluation_the_splits_before_it_are_kept_and_report_makes_the_rest(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patched:
            before(patched, "pruning.runs.measuring.evaluate", at=2)
            ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 143
        assert missing(tmp_path / "x") == {"evaluation:test", "effects", "drawings"}
        assert set(json.loads((tmp_path / "x" / "metrics.json").read_text())["splits"]) == {"validation"}
        assert state(tmp_path / "x")["stopped_by"] == "SIGTERM"

        again = call("report", tmp_path / "x", "--json")
        assert again.code == 0, again.err
        assert again.json["made"] == ["evaluation:test", "effects", "drawings", "report"]
        assert files(tmp_path / "x") == FILES
        assert state(tmp_path / "x")["finished"] is True
        whole = call(*SMALL, "--out", tmp_path / "whole")
        assert whole.code == 0
        ours, theirs = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("x", "whole"))
        assert ours["splits"] == theirs["splits"] and ours["verdicts"] == theirs["verdicts"]
        assert Circuit.load(tmp_path / "x" / "circuit.json").provenance["metrics"] == ours["splits"]
        assert "What is missing" not in (tmp_path / "x" / "report.md").read_text()

    @pytest.mark.full
    def test_while_pictures_are_made_the_cheap_ones_are_finished(self, tmp_path, monkeypatch):
        before(monkeypatch, "analysis.drawing.draw")
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 143
        assert missing(tmp_path / "x") == {"drawings"}

    @pytest.mark.full
    def test_while_the_report_is_written_it_is_finished(self, tmp_path, monkeypatch):
        before(monkeypatch, "analysis.report.write_report")
        assert call(*SMALL, "--out", tmp_path / "x").code == 0
        assert files(tmp_path / "x") == FILES

    def test_a_second_one_ends_at_once_and_says_what_is_there(self, tmp_path, monkeypatch):
        before(monkeypatch, "pruning.runs.measuring.evaluate", signals=1)
        before(monkeypatch, "analysis.figures.style.save_figure", signals=1)
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 143
        assert f"gates and circuit are in {tmp_path / 'x'}; `circuitgraph report {tmp_path / 'x'}`" in ended.err
        assert files(tmp_path / "x") == SAFE | {"checkpoint"}
        assert missing(tmp_path / "x") >= {"evaluation:test", "report", "explorer"}
        assert files(tmp_path) == {"x"}

    def test_a_process_of_its_own(self, tmp_path):
        """As a cluster does it: the signal comes from outside, while evaluating or before."""
        command = [
            sys.executable,
            "-m",
            "circuitgraph.cli",
            *map(str, SMALL),
            "--steps",
            "2000",
            "--out",
            str(tmp_path / "x"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            for line in run.stderr:
                if line.startswith("step "):
                    run.send_signal(signal.SIGTERM)
                    break
            said = run.stderr.read()
        assert run.returncode == 143, said
        assert files(tmp_path / "x") >= SAFE | {"report.md"}
        assert files(tmp_path) == {"x"}


class TestFailures:
    def test_an_evaluation_that_fails(self, tmp_path, monkeypatch):
        before(monkeypatch, "pruning.runs.measuring.evaluate", error=IndexError("index out of range in self"))
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 1
        assert "Warning: missing: evaluation:validation: IndexError: index out of range in self" in ended.err
        assert missing(tmp_path / "x") == {"evaluation:validation"}
        assert files(tmp_path / "x") == FILES

    def test_a_step_that_fails_for_any_reason_keeps_those_before_it(self, tmp_path, monkeypatch):
        before(monkeypatch, "pruning.methods.edge_pruning.train.rate_at", at=8, error=RuntimeError("cuda went away"))
        ended = call(*SMALL, "--out", tmp_path / "x")
        assert ended.code == 1
        assert "after 7 steps: RuntimeError: cuda went away" in ended.err
        assert Circuit.load(tmp_path / "x" / "circuit.json").provenance["steps_taken"] == 7

    def test_a_full_disk_after_the_circuit(self, tmp_path, monkeypatch):
        """`ulimit -f`, as a quota would: circuit.html is larger than 300 KiB and all else is smaller."""
        command = (
            f"ulimit -f 300; exec {sys.executable} -m circuitgraph.cli {' '.join(map(str, SMALL))} --out {tmp_path}/x"
        )
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert ended.returncode == 1, ended.stderr
        assert "missing: explorer: cannot write" in ended.stderr and "File too large" in ended.stderr
        assert missing(tmp_path / "x") == {"explorer"}
        assert files(tmp_path / "x") == FILES - {"circuit.html"}

    @pytest.mark.parametrize("line", [pytest.param("text.usetex: true", marks=pytest.mark.full), "backend: nosuch"])
    def test_settings_of_matplotlib_that_cannot_work(self, line, tmp_path):
        (tmp_path / "matplotlibrc").write_text(line + "\n")
        command = [sys.executable, "-m", "circuitgraph.cli", *map(str, SMALL), "--out", str(tmp_path / "x")]
        environment = {"MATPLOTLIBRC": str(tmp_path), "PATH": "/nowhere", "HOME": str(tmp_path)}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
        assert ended.returncode == 0, ended.stderr
        assert files(tmp_path / "x") >= SAFE | {"report.md", "circuit.html", "examples.csv", "effects.csv"}
        assert missing(tmp_path / "x") <= {"curve", "drawings"}


class TestReserved:
    def test_two_runs_into_one_folder(self, tmp_path):
        from pruning.runs.result_folder import ResultFolder

        with ResultFolder.opened(tmp_path / "x"):
            ended = call(*SMALL, "--out", tmp_path / "x")
            assert ended.code == 2
            assert "is reserved by another run" in ended.err and "loading" not in ended.err
        assert list(tmp_path.iterdir()) == []


class TestReport:
    def test_a_part_again(self, tmp_path, text_result):
        import shutil

        folder = tmp_path / "x"
        shutil.copytree(text_result, folder)
        (folder / "circuit.svg").unlink()
        (folder / ".report.md.00000000.tmp").write_text("half")
        ended = call("report", folder)
        assert ended.code == 0, ended.err
        assert f"Made in {folder}: drawings, report" in ended.out
        assert files(folder) == FILES
        ended = call("report", folder, "--only", "curve", "--json")
        assert ended.json["made"] == ["curve", "report"] and "loading" not in ended.err
        assert call("report", folder, "--json").json == {"out": str(folder), "made": [], "missing": {}, "again": None}

    def test_refusals(self, tmp_path):
        assert "is no folder" in call("report", tmp_path / "x").err
        assert "has no circuit.json" in call("report", tmp_path).err
        ended = call("report", tmp_path, "--only", "drawing")
        assert ended.code == 2 and "did you mean 'drawings'" in ended.err


class TestPython:
    def test_training_is_not_lost_by_an_evaluation_that_fails(self, tmp_path, monkeypatch):
        from circuitgraph import compile_model, load_model
        from circuitgraph.errors import IncompleteResultWarning
        from pruning import discover, load_task, recipe_named

        compiled = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
        task = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3})
        recipe = recipe_named("tracr").changed(steps=2, target_sparsity=0.5)
        before(monkeypatch, "pruning.runs.measuring.evaluate", at=2, error=RuntimeError("no"))
        with pytest.warns(IncompleteResultWarning, match="evaluation:test: RuntimeError: no.*circuitgraph report"):
            found = discover(compiled, task, recipe, n_random=0, out=tmp_path / "x")
        assert list(found.missing) == ["evaluation:test"] and set(found.metrics["splits"]) == {"validation"}
        assert Circuit.load(tmp_path / "x" / "circuit.json") == found.circuit
        assert files(tmp_path / "x") == SAFE | {"examples.csv", "effects.csv"}
