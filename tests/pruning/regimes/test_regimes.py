"""Regimes: aligned or refused, trained once each, measured as `evaluate` measures, and gone on with."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import analysis
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, OutputError, PromptFormatError, UnknownNameError
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.regimes import training
from pruning.regimes.derived import combined, consensus_of
from pruning.regimes.study import Study, load_regimes, regimes_of, run_regimes
from pruning.runs.provenance import first_difference
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

pytestmark = pytest.mark.slow

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay")
OPENINGS = {"ask": "say who", "show": "x"}
RECIPE = recipe_named("quick").changed(steps=6, target_sparsity=0.5)


def rows_of(regime: str) -> list[dict[str, str]]:
    rows = []
    for number, (a, b) in enumerate(list(permutations(NAMES, 2))[:24]):
        c = next(name for name in reversed(NAMES) if name not in (a, b))
        rows.append(
            {
                "clean": f"{OPENINGS[regime]} {a} gave {b} a cup to<predict> {b}</predict>",
                "corrupted": f"{OPENINGS[regime]} {a} gave {c} a cup to",
                "wrong_answer": f" {c}",
                "split": ("train", "train", "validation", "test")[number % 4],
                "group": f"{a}-{b}",
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, tiny_llama) -> CompiledModel:
    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = word_tokenizer([" ".join(("x", *NAMES)) + " gave a cup to say who"])
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return compile_model(load_model(str(folder)), verify=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("prompts")
    return {regime: write(folder / f"{regime}.jsonl", rows_of(regime)) for regime in OPENINGS}


@pytest.fixture(scope="module")
def study(compiled, files, tmp_path_factory) -> tuple[Study, Path]:
    out = tmp_path_factory.mktemp("studies") / "study"
    return run_regimes(compiled, files, seeds=(0, 1), recipe=RECIPE, out=out, n_random=2), out


class TestAlignment:
    def tokenizer(self, compiled) -> PreTrainedTokenizerFast:
        assert isinstance(compiled.tokenizer, PreTrainedTokenizerFast)
        return compiled.tokenizer

    def refused(self, compiled, tmp_path, rows, match) -> None:
        files = {"ask": write(tmp_path / "a.jsonl", rows_of("ask")), "show": write(tmp_path / "b.jsonl", rows)}
        with pytest.raises(PromptFormatError, match=match):
            load_regimes(files, self.tokenizer(compiled))

    def test_an_item_that_one_regime_lacks(self, compiled, tmp_path):
        self.refused(compiled, tmp_path, rows_of("show")[:-1], r"split 'test': 1 of 'ask' are not in 'show': 'Eve-Dan'")

    def test_a_prompt_without_a_group(self, compiled, tmp_path):
        rows = rows_of("show")
        del rows[0]["group"]
        self.refused(compiled, tmp_path, rows, "'show'.*1 of 12 train prompts have no group, such as 'x Ann gave Bob")

    def test_an_item_in_two_splits_of_one_regime(self, compiled, tmp_path):
        rows = rows_of("show")
        rows[3]["group"] = rows[0]["group"]
        self.refused(
            compiled, tmp_path, rows, "item 'Ann-Bob' is in split 'test' of regime 'show' and in split 'train'"
        )

    def test_what_one_regime_trains_on_the_other_must_not_test(self, compiled, tmp_path):
        rows = rows_of("show")
        rows[0]["split"], rows[3]["split"] = rows[3]["split"], rows[0]["split"]
        self.refused(compiled, tmp_path, rows, "in split 'train' of regime 'show' and in split 'test' of regime 'ask'")

    def test_order_does_not_matter_and_frequency_is_told(self, compiled, tmp_path):
        rows = rows_of("show")[::-1]
        twice = {**rows[0], "clean": rows[0]["clean"].replace("x ", "who "), "corrupted": "who Eve gave Fay a cup to"}
        files = {
            "ask": write(tmp_path / "a.jsonl", rows_of("ask")),
            "show": write(tmp_path / "b.jsonl", [*rows, twice]),
        }
        told: list[str] = []
        found = run_regimes(compiled, files, seeds=(0,), recipe=RECIPE, n_random=0, say=told.append)
        assert found.notes and "1 of 6 items are not asked equally often" in found.notes[0]
        assert any("Eve-Dan" in line for line in told)

    def test_names_that_cannot_be_folders(self, compiled, files):
        for name in ("../x", "a/b", "", "Ask"):
            with pytest.raises(ConfigurationError):
                load_regimes({"ask": files["ask"], name: files["show"]}, self.tokenizer(compiled))

    def test_tasks_with_regimes(self):
        assert set(regimes_of("capitals")) == {"instruction", "in-context"}
        with pytest.raises(UnknownNameError, match="did you mean 'antonyms'"):
            regimes_of("antonym")


class TestTable:
    def test_rows(self, study):
        table = study[0].faithfulness
        # Seeds 0 and 1 and the consensus: two circuits, intersection, union, two differences, two draws each of
        # three sizes; beside them the full model and nothing; on two regimes.
        assert len(table) == 2 * (2 + 3 * (6 + 3 * 2))
        assert set(table["n"]) == {6}
        assert not table.duplicated(["role", "of", "seed", "draw", "regime"]).any()

    def test_circuits_measure_as_evaluate_does(self, study):
        found, table = study[0], study[0].faithfulness
        row = table[(table["role"] == "circuit") & (table["of"] == "ask") & (table["seed"] == "1")]
        for regime, task in found.tasks.items():
            circuit = found.circuits["ask"][1]
            other = evaluate(self.compiled, circuit, task.splits["test"], n_random=0).metrics
            mine = row[row["regime"] == regime].iloc[0]
            full = table[(table["role"] == "full") & (table["regime"] == regime)].iloc[0]
            for name in ("kl", "accuracy", "exact_match", "logit_diff"):
                assert mine[name] == pytest.approx(other["circuit"][name], abs=1e-6)
                assert full[name] == pytest.approx(other["full"][name], abs=1e-6)

    @pytest.fixture(autouse=True)
    def _model(self, compiled):
        self.compiled = compiled

    def test_derived_circuits_are_those_of_the_analysis(self, study):
        found = study[0]
        table = found.faithfulness[found.faithfulness["regime"] == "ask"]
        digests = {(row.role, row.of, row.seed): row.digest for row in table.itertuples() if row.role != "random"}
        agreed = {name: analysis.consensus(list(one.values())) for name, one in found.circuits.items()}
        by_seed = {str(seed): {name: one[seed] for name, one in found.circuits.items()} for seed in (0, 1)}
        for seed, pair in {**by_seed, "consensus": agreed}.items():
            ask, show = pair["ask"], pair["show"]
            expected = {
                ("circuit", "ask"): ask, ("circuit", "show"): show,
                ("intersection", ""): analysis.intersection(ask, show), ("union", ""): analysis.union(ask, show),
                ("difference", "ask"): analysis.difference(ask, show),
                ("difference", "show"): analysis.difference(show, ask),
            }  # fmt: skip
            assert {key: digests[*key, seed] for key in expected} == {k: c.digest for k, c in expected.items()}

    def test_three_regimes(self):
        universe = self.compiled.universe
        sets = {"a": [0, 1, 2, 3], "b": [2, 3, 4], "c": [3, 4, 5]}
        circuits = {name: Circuit.from_edges(universe, np.array(ids), ablation="zero") for name, ids in sets.items()}
        raw = {(one.role, one.of): one.circuit.n_raw for one in combined(circuits, "0")}
        kept = {name: set(circuit.edge_ids.tolist()) for name, circuit in circuits.items()}
        assert raw["intersection", ""] == len(kept["a"] & kept["b"] & kept["c"])
        assert raw["union", ""] == len(kept["a"] | kept["b"] | kept["c"])
        assert raw["difference", "b"] == len(kept["b"] - kept["a"] - kept["c"])
        assert consensus_of(list(circuits.values()), 2 / 3).n_raw == len(
            (kept["a"] & kept["b"]) | (kept["a"] & kept["c"]) | (kept["b"] & kept["c"])
        )


class TestGoingOn:
    def test_nothing_is_trained_twice(self, compiled, files, study, monkeypatch):
        monkeypatch.setattr(training, "run_discovery", lambda *args, **options: pytest.fail("trained again"))
        told: list[str] = []
        again = run_regimes(compiled, files, seeds=(0, 1), recipe=RECIPE, out=study[1], n_random=2, say=told.append)
        assert "4 of 4 circuits are there already" in told[0]
        assert again.faithfulness.equals(study[0].faithfulness)

    def test_a_study_that_was_stopped_goes_on_to_the_same_end(self, compiled, files, study, tmp_path):
        def stop(regime, seed, record):
            if (regime, seed) == ("show", 0) and record.step == 2:
                raise KeyboardInterrupt

        out = tmp_path / "study"
        with pytest.raises(KeyboardInterrupt):
            run_regimes(compiled, files, seeds=(0, 1), recipe=RECIPE, out=out, n_random=2, watch=stop)
        assert [str(path.relative_to(out)) for path in out.rglob("circuit.json")] == [
            "circuits/ask/seed-0/circuit.json"
        ]
        assert json.loads((out / "study.json").read_text())["finished"] is False
        trained: list[tuple[str, int]] = []
        again = run_regimes(
            compiled, files, seeds=(0, 1), recipe=RECIPE, out=out, n_random=2,
            watch=lambda regime, seed, record: trained.append((regime, seed)),
        )  # fmt: skip
        assert set(trained) == {("show", 0), ("ask", 1), ("show", 1)}
        assert again.faithfulness.equals(study[0].faithfulness)
        about = json.loads((out / "study.json").read_text())
        assert about["finished"] and about["circuits"]["show"]["1"]["n_edges"] == len(again.circuits["show"][1])

    def test_other_settings_are_refused_and_nothing_changes(self, compiled, files, study):
        before = (study[1] / "study.json").read_bytes()
        with pytest.raises(OutputError, match=r"recipe.steps is 6 there and would be 7 now"):
            run_regimes(compiled, files, seeds=(0,), recipe=RECIPE.changed(steps=7), out=study[1])
        assert (study[1] / "study.json").read_bytes() == before

    def test_optimal_ablation_is_refused(self, compiled, files):
        with pytest.raises(ConfigurationError, match="each has constants of its own"):
            run_regimes(compiled, files, seeds=(0,), recipe=RECIPE, ablation="optimal")

    def test_another_direction_is_refused(self, compiled, files):
        with pytest.raises(ConfigurationError, match="a study looks at its regimes by noising; got direction 'both'"):
            run_regimes(compiled, files, seeds=(0,), recipe=RECIPE, direction="both", ablation="counterfactual")

    def test_other_weights_are_refused_where_they_are_known(self, compiled):
        of_before = Circuit.from_edges(compiled.universe, ["input->logits"])
        circuit = of_before.with_provenance({"weights": "1"})
        assert first_difference(circuit, {"weights": "2"}) == "weights is '1' there and would be '2' now"
        assert first_difference(circuit, {"weights": "1"}) is None
        assert first_difference(of_before, {"weights": "2"}) is None

    def test_a_folder_of_something_else_is_left_alone(self, compiled, files, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="no study"):
                run_regimes(compiled, files, seeds=(0,), recipe=RECIPE, out=tmp_path, overwrite=overwrite)
        (tmp_path / "study.json").write_text("{}")
        with pytest.raises(OutputError, match="holds notes.txt"):
            run_regimes(compiled, files, seeds=(0,), recipe=RECIPE, out=tmp_path, overwrite=True)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_the_folder_is_read_back(self, study):
        circuits, metrics = analysis.read_study(study[1])
        assert circuits.by_seed["show"]["1"] == study[0].circuits["show"][1]
        assert metrics is not None and metrics["digest"].tolist() == study[0].faithfulness["digest"].tolist()
        assert np.allclose(metrics["kl"], study[0].faithfulness["kl"])


class TestGivenCircuits:
    def test_they_are_not_trained(self, compiled, files, study, monkeypatch):
        monkeypatch.setattr(training, "run_discovery", lambda *args, **options: pytest.fail("trained"))
        given = {regime: list(by_seed.values()) for regime, by_seed in study[0].circuits.items()}
        again = run_regimes(compiled, files, circuits=given, n_random=2)
        assert again.faithfulness.equals(study[0].faithfulness)
        assert list(again.circuits["ask"]) == [0, 1]

    def test_as_many_for_each_regime(self, compiled, files, study):
        circuits = list(study[0].circuits["ask"].values())
        with pytest.raises(ConfigurationError, match="ask: 2, show: 1"):
            run_regimes(compiled, files, circuits={"ask": circuits, "show": circuits[:1]})
        with pytest.raises(UnknownNameError, match="did you mean 'ask'"):
            run_regimes(compiled, files, circuits={"aks": circuits})
