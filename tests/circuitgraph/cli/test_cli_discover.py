"""`discover`: what it writes, what it refuses, and how it ends early."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from safetensors.numpy import load_file

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import OutputError, RenderingError, TrainingError
from tests.circuitgraph.cli.conftest import TRACR, call

FILES = {
    "circuit.json", "metrics.json", "examples.csv", "curve.csv", "curve.png", "circuit.dot", "circuit.pdf",
    "circuit.svg", "circuit.html", "effects.csv", "gates.safetensors", "report.md", "run.toml", "state.json",
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
class TestResult:
    def test_every_file_is_there_and_nothing_else(self, tracr_result):
        assert {path.name for path in tracr_result.iterdir()} == FILES
        assert [path.name for path in tracr_result.parent.iterdir() if path.name.startswith(".")] == []

    def test_circuit(self, tracr_result):
        circuit = Circuit.load(tracr_result / "circuit.json")
        provenance = circuit.provenance
        assert provenance["model"] == "tracr:reverse"
        assert provenance["recipe"]["name"] == "tracr"
        assert provenance["recipe"]["steps"] == 20
        # What a Tracr program asks for by itself.
        assert circuit.universe.embeddings == "split"
        assert circuit.ablation == "zero"
        assert circuit.universe.n_edges == 94
        graph = nx.node_link_graph(json.loads((tracr_result / "circuit.json").read_text()))
        assert nx.is_directed_acyclic_graph(graph)

    def test_metrics(self, tracr_result):
        metrics = json.loads((tracr_result / "metrics.json").read_text())
        assert set(metrics["splits"]) == {"validation", "test"}
        assert set(metrics["splits"]["test"]) == {
            "circuit", "raw", "full", "empty", "complement", "random",
        }  # fmt: skip
        assert metrics["splits"]["test"]["circuit"]["n"] == 363
        assert metrics["splits"]["test"]["full"]["accuracy"] == 1
        assert set(metrics["sparsity"]) >= {"n_universe", "n_raw", "n_effective", "raw", "effective"}
        assert metrics["seconds"] > 0
        assert metrics["peak_rss_bytes"] > 1 << 20

    def test_tables(self, tracr_result):
        assert len(rows_of(tracr_result / "examples.csv")) == 363
        curve = rows_of(tracr_result / "curve.csv")
        assert [int(row["step"]) for row in curve] == list(range(20))
        assert {"sparsity", "target", "live_heads", "live_mlps", "objective"} <= set(curve[0])

    def test_gates_are_an_alpha_an_edge(self, tracr_result):
        gates = load_file(tracr_result / "gates.safetensors")
        assert set(gates) == {"log_alpha"}
        assert gates["log_alpha"].shape == (94,)

    def test_report_shows_the_command_and_the_pictures(self, tracr_result):
        report = (tracr_result / "report.md").read_text()
        command = shlex.join(["circuitgraph", *map(str, TRACR), "--out", str(tracr_result)])
        assert command in report
        assert "![the circuit](<circuit.svg>)" in report
        assert "(<curve.png>)" in report
        assert "(<circuit.html>)" in report
        assert (tracr_result / "circuit.html").stat().st_size < 2_000_000

    @pytest.mark.slow
    def test_counterfactuals_on_a_model_from_a_folder(self, text_result, text_model):
        circuit = Circuit.load(text_result / "circuit.json")
        assert circuit.ablation == "counterfactual"
        assert circuit.provenance["model"] == str(text_model)
        assert circuit.sparsity["raw"] == pytest.approx(0.5, abs=0.01)
        assert len(rows_of(text_result / "examples.csv")) == 6

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_bits(self, text_result, text_run, tmp_path):
        assert call(*text_run, "--out", tmp_path / "again").code == 0
        for name in ("gates.safetensors", "examples.csv", "circuit.dot"):
            assert (tmp_path / "again" / name).read_bytes() == (text_result / name).read_bytes()


@pytest.mark.slow
class TestOptions:
    def test_json_alone_on_standard_output(self, tmp_path, text_run):
        ended = call(*text_run, "--out", tmp_path / "x", "--json")
        assert ended.code == 0
        assert ended.json["out"] == str(tmp_path / "x")
        assert set(ended.json["files"]) == FILES
        assert ended.json["interrupted"] is False
        assert ended.json["splits"]["test"]["circuit"]["n"] == 6
        assert "step 20/20" in ended.err

    def test_the_command_line_wins_over_the_recipe(self, tmp_path):
        ended = call(
            *TRACR, "--out", tmp_path / "x", "--recipe", "quick", "--steps", 3, "--target-sparsity", 0.5,
            "--batch-size", 4, "--seed", 5, "--ablation", "mean", "--embeddings", "joint", "--qkv", "joint",
            "--dry-run", "--json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        recipe, universe = ended.json["recipe"], ended.json["universe"]
        assert (recipe["name"], recipe["steps"], recipe["target_sparsity"], recipe["batch_size"]) == (
            "quick", 3, 0.5, 4,
        )  # fmt: skip
        assert (ended.json["ablation"], universe["embeddings"], universe["qkv"]) == ("mean", "joint", "joint")
        assert ended.json["seed"] == 5

    def test_the_command_line_wins_over_the_recipes_graph(self, tmp_path):
        ended = call(*TRACR, "--out", tmp_path / "x", "--embeddings", "joint", "--dry-run", "--json")
        assert ended.json["recipe"]["embeddings"] == "split"
        assert ended.json["universe"]["embeddings"] == "joint"

    def test_what_a_library_prints_stays_out_of_the_json(self, tmp_path, monkeypatch):
        from circuitgraph import models

        real = models.load_model

        def chatty(*arguments, **options):
            print("loading, dear user")
            return real(*arguments, **options)

        monkeypatch.setattr(models, "load_model", chatty)
        ended = call(*TRACR, "--out", tmp_path / "x", "--dry-run", "--json")
        assert ended.json["n_edges"] == 94
        assert "dear user" in ended.err

    def test_the_recipe_wins_over_the_defaults(self, tmp_path):
        ended = call(*TRACR, "--out", tmp_path / "x", "--recipe", "paper-tracr-xproportion",
                     "--objective", "kl", "--dry-run", "--json")  # fmt: skip
        assert ended.json["recipe"]["writer_gates"] is True
        assert (ended.json["objective"], ended.json["ablation"]) == ("kl", "zero")

    def test_sizes(self, text_model, text_prompts, tmp_path):
        ended = call(
            "discover", "--model", text_model, "--task", f"jsonl:{text_prompts}", "--out", tmp_path / "x",
            "--steps", 2, "--train-size", 5, "--validation-size", 0, "--test-size", 2, "--n-random", 0, "--json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        assert list(ended.json["splits"]) == ["test"]
        assert ended.json["splits"]["test"]["circuit"]["n"] == 2

    def test_dry_run_writes_nothing(self, tmp_path):
        ended = call(*TRACR, "--out", tmp_path / "deep" / "x", "--dry-run", "--json")
        assert ended.code == 0
        assert ended.json["n_edges"] == 94
        assert ended.json["sizes"] == {"train": 363, "validation": 363, "test": 363}
        assert ended.json["recipe"]["steps"] == 20
        assert ended.json["memory"]["total"] > 0
        assert "nothing was trained" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_a_task_takes_its_options(self, tmp_path):
        ended = call(*TRACR, "--out", tmp_path / "x", "--task-option", "max_length=2", "--dry-run", "--json")
        assert ended.json["sizes"]["train"] == 3 + 3 * 3

    def test_progress_is_a_line_a_twentieth_where_there_is_no_terminal(self, tmp_path, text_run):
        ended = call(*text_run, "--out", tmp_path / "x")
        lines = [line for line in ended.err.splitlines() if line.startswith("step ")]
        assert len(lines) == 20
        for part in ("KL ", "sparsity ", "target ", "heads ", "MLPs ", "left"):
            assert part in lines[5]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (("--model", "tracr:revers"), "'tracr:reverse'"),
            (("--task", "tracr-revers"), "'tracr-reverse'"),
            (("--task-option", "max_lenth=2"), "did you mean 'max_length'"),
            (("--task-option", "max_length=two"), "expected a number, such as 5; got 'two'"),
            (("--task-option", "max_length"), "expected NAME=VALUE"),
            (("--recipe", "paper-tracr-revers"), "'paper-tracr-reverse'"),
            (("--ablation", "zeros"), "'zero'"),
            (("--objective", "kll"), "'kl'"),
            (("--objective", "mse"), "answers are tokens"),
            (("--objective", "logit-diff"), "wrong answers"),
            (("--embeddings", "splitt"), "did you mean 'split'"),
            (("--dtype", "float31"), "float32"),
            (("--device", "gpu"), "cuda"),
            (("--target-sparsity", "0"), "(0, 2]"),
            (("--target-sparsity", "2.5"), "(0, 2]"),
            (("--target-sparsity", "nan"), "(0, 2]"),
            (("--steps", "0"), "at least 1"),
            (("--batch-size", "0"), "at least 1"),
            (("--seed", "-1"), "seed must be a whole number of at least 0; got -1"),
            (("--memory-gib", "0.01"), "0.010 GiB is what --memory-gib lets it take. It would hold:"),
            (("--train-size", "-1"), "--train-size"),
            (("--train-size", "5"), "takes no sizes"),
            (("--chat-template",), "chat template"),
            (("--task", "ioi"), "Tracr program"),
            (("--task", "jsonl:no-such-file.jsonl"), "no-such-file.jsonl"),
            (("--model", "no/such-folder/x"), "no/such-folder/x"),
        ],
    )
    def test_bad_input_is_refused_before_work_and_writes_nothing(self, tmp_path, monkeypatch, changed, said):
        monkeypatch.setattr("pruning.methods.edge_pruning.train.Trainer.step", lambda *_: pytest.fail("training began"))
        ended = call(*TRACR, "--out", tmp_path / "x", *changed)
        assert ended.code == 2
        assert said in ended.err
        assert "Traceback" not in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_no_training_prompts(self, text_model, text_prompts, tmp_path):
        ended = call(
            "discover", "--model", text_model, "--task", f"jsonl:{text_prompts}", "--out", tmp_path / "x",
            "--train-size", 0,
        )  # fmt: skip
        assert ended.code == 2
        assert "--train-size" in ended.err


def test_out_of_memory_says_what_the_run_was_to_hold(tmp_path, monkeypatch):
    given = {}

    def runs_out(run, *_):
        given.update(run.settings.to_dict())
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")

    monkeypatch.setattr("pruning.runs.discover.train_gates", runs_out)
    ended = call(*TRACR, "--out", tmp_path / "x", "--cache-gib", 0.5)
    assert ended.code == 1
    assert "what the run was to hold" in ended.err and "activations" in ended.err.split("what the run was to hold")[1]
    assert "CUBLAS_STATUS_ALLOC_FAILED" in ended.err and "--dtype bfloat16" in ended.err
    assert (given["cache_bytes"], given["micro_batch"], given["recompute"]) == (1 << 29, 32, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
class TestFolder:
    @pytest.fixture(autouse=True)
    def no_model(self, monkeypatch):
        """The folder is refused before a model is loaded."""
        self.load = lambda: monkeypatch.setattr(
            "circuitgraph.models.load_model", lambda *_, **__: pytest.fail("loaded a model")
        )

    def test_a_folder_that_exists(self, tmp_path):
        self.load()
        ended = call(*TRACR, "--out", tmp_path)
        assert ended.code == 2
        assert "--overwrite" in ended.err

    def test_a_file(self, tmp_path):
        self.load()
        (tmp_path / "x").write_text("mine")
        assert call(*TRACR, "--out", tmp_path / "x", "--overwrite").code == 2
        assert "cannot be made" in call(*TRACR, "--out", tmp_path / "x" / "y").err
        assert (tmp_path / "x").read_text() == "mine"

    def test_no_permission(self, tmp_path, monkeypatch):
        self.load()

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        ended = call(*TRACR, "--out", tmp_path / "x")
        assert ended.code == 2
        assert "Permission denied" in ended.err

    def test_a_full_disk(self, tmp_path, monkeypatch):
        import shutil

        self.load()
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        ended = call(*TRACR, "--out", tmp_path / "x")
        assert ended.code == 2
        assert "make room" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_strangers_files_are_never_overwritten(self, tmp_path):
        self.load()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "thesis.tex").write_text("years of work")
        ended = call(*TRACR, "--out", tmp_path / "x", "--overwrite")
        assert ended.code == 2
        assert "thesis.tex" in ended.err

    def test_an_older_result_is_replaced_whole(self, text_run, tmp_path):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "circuit.json").write_text("old")
        assert call(*text_run, "--out", tmp_path / "x", "--overwrite").code == 0
        assert {path.name for path in (tmp_path / "x").iterdir()} == FILES
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        Circuit.load(tmp_path / "x" / "circuit.json")

    def test_a_failure_while_writing_leaves_the_rest(self, text_run, tmp_path, monkeypatch):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "circuit.json").write_text("old")

        def full(*_, **__):
            raise OutputError("cannot write report.md: No space left on device")

        monkeypatch.setattr("analysis.report.write_report", full)
        ended = call(*text_run, "--out", tmp_path / "x", "--overwrite")
        assert ended.code == 1
        assert "Warning: missing: report: cannot write report.md: No space left" in ended.err
        assert f"`circuitgraph report {tmp_path / 'x'}` makes what is missing" in ended.err
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - {"report.md"}
        Circuit.load(tmp_path / "x" / "circuit.json")

    def test_a_failure_before_the_circuit_leaves_the_older_result(self, text_run, tmp_path, monkeypatch):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "circuit.json").write_text("old")

        def full(*_, **__):
            raise OutputError("cannot write: No space left on device")

        monkeypatch.setattr("pruning.runs.result_folder.write_atomically", full)
        ended = call(*text_run, "--out", tmp_path / "x", "--overwrite")
        assert ended.code != 0
        assert "No space left" in ended.err
        assert (tmp_path / "x" / "circuit.json").read_text() == "old"

    def test_without_graphviz_all_else_is_written(self, text_run, tmp_path, monkeypatch):
        import analysis.drawing.diagram

        def missing(*_):
            raise RenderingError("drawing pdf needs Graphviz: install the `dot` program")

        monkeypatch.setattr(analysis.drawing.diagram, "render", missing)
        ended = call(*text_run, "--out", tmp_path / "x")
        assert ended.code == 0
        assert "Warning: missing: drawings: only circuit.dot was drawn" in ended.err
        assert "install the `dot` program" in ended.err
        assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - {"circuit.pdf", "circuit.svg"}


@pytest.mark.slow
class TestEndedEarly:
    def stop_at(self, monkeypatch, step: int, error: BaseException) -> None:
        from pruning.methods.edge_pruning.train import Trainer

        real = Trainer.step

        def until(self, index):
            if index == step:
                raise error
            return real(self, index)

        monkeypatch.setattr(Trainer, "step", until)

    def test_ctrl_c_keeps_what_was_learnt(self, text_run, tmp_path, monkeypatch):
        self.stop_at(monkeypatch, 7, KeyboardInterrupt())
        ended = call(*text_run, "--out", tmp_path / "x", "--json")
        assert ended.code == 130
        assert "Interrupted after 7 of " in ended.err
        assert f"what was learnt by then is in {tmp_path / 'x'}; `circuitgraph discover --resume " in ended.err
        assert ended.json["interrupted"] is True
        assert "evaluating" not in ended.err
        drawings = {"circuit.dot", "circuit.pdf", "circuit.svg"}
        left_out = {*drawings, "examples.csv", "effects.csv"}
        assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - left_out | {"checkpoint"}
        assert set(ended.json["missing"]) == {"evaluation:validation", "evaluation:test", "effects", "drawings"}
        assert len(rows_of(tmp_path / "x" / "curve.csv")) == 7
        assert Circuit.load(tmp_path / "x" / "circuit.json").provenance["steps_taken"] == 7
        assert "interrupted by the user after 7 steps" in (tmp_path / "x" / "report.md").read_text()

    def test_nan_keeps_the_last_good_state(self, text_run, tmp_path, monkeypatch):
        self.stop_at(monkeypatch, 7, TrainingError("step 7: the loss is not finite"))
        ended = call(*text_run, "--out", tmp_path / "x")
        assert ended.code == 1
        assert "step 7: the loss is not finite" in ended.err
        assert f"last good state is in {tmp_path / 'x'}" in ended.err
        assert np.isfinite(load_file(tmp_path / "x" / "gates.safetensors")["log_alpha"]).all()

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [(KeyboardInterrupt(), 130, "nothing was written"), (TrainingError("not finite"), 1, "not finite")],
    )
    def test_before_the_first_step_nothing_is_written(self, text_run, tmp_path, monkeypatch, error, code, said):
        self.stop_at(monkeypatch, 0, error)
        ended = call(*text_run, "--out", tmp_path / "x")
        assert ended.code == code
        assert said in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_ctrl_c_elsewhere_writes_nothing(self, text_run, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("pruning.runs.discover.run_discovery", stop)
        ended = call(*text_run, "--out", tmp_path / "x")
        assert ended.code == 130
        assert list(tmp_path.iterdir()) == []
