"""`evaluate`, `run` and `draw`: what is done with a saved circuit."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from circuitgraph import Circuit, compile_model, load_model
from pruning.evaluation.evaluate import evaluate as measure
from pruning.evaluation.tables import flat_row
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import load_task
from tests.circuitgraph.cli.conftest import call


@pytest.mark.slow
class TestEvaluate:
    def test_it_gives_the_figures_of_the_result(self, text_result):
        folder = text_result
        ended = call("evaluate", folder / "circuit.json", "--n-random", 1, "--json")
        assert ended.code == 0, ended.err
        recorded = json.loads((folder / "metrics.json").read_text())
        for role in ("circuit", "full", "complement", "random"):
            ours, theirs = ended.json["metrics"][role], recorded["splits"]["test"][role]
            assert flat_row(ours, intervals=True) == pytest.approx(flat_row(theirs, intervals=True), nan_ok=True)
            assert ours.get("difference", {}).keys() == theirs.get("difference", {}).keys()
        assert ended.json["sparsity"].items() <= recorded["sparsity"].items()
        assert ended.json["head_scale"] == "own"
        assert "Warning" not in ended.err

    def test_another_split_as_a_table(self, text_result):
        ended = call("evaluate", text_result / "circuit.json", "--split", "validation", "--n-random", 0)
        assert ended.code == 0
        assert "validation, 6 prompts" in ended.out
        assert "complement" in ended.out
        assert "random" not in ended.out

    def test_effects_and_random_circuits_on_some_prompts(self, text_result):
        ended = call(
            "evaluate", text_result / "circuit.json", "--n-random", 1, "--random-prompts", 2, "--effects", 3,
            "--effect-prompts", 2, "--json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        metrics, worth = ended.json["metrics"], ended.json["effects"]
        assert metrics["random"]["n"] == 2 < metrics["circuit"]["n"]
        assert worth["n"] == 2 and worth["split"] == "test" and len(worth["edges"]) == 3
        circuit = Circuit.load(text_result / "circuit.json")
        strongest = np.argsort(-np.abs(circuit.scores), kind="stable")[:3]
        assert {row["part"] for row in worth["edges"]} == {list(circuit)[place] for place in strongest}
        assert "effects: " in ended.err and "evaluation: " in ended.err

    def test_a_number_of_prompts_that_is_none_is_refused(self, text_result):
        ended = call("evaluate", text_result / "circuit.json", "--random-prompts", "some")
        assert ended.code == 2 and "a number of prompts, or all" in ended.err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--split", "tests"), "'test'"),
            (("--task", "tracr-revers"), "'tracr-reverse'"),
            (("--task", "tracr-xproportion"), "only for the model 'tracr:xproportion'"),
            (("--model", "tracr:xproportion"), "n_layers: 4 against 2"),
            (("--dtype", "float33"), "float32"),
            (("--ablation", "zeros"), "did you mean 'zero'?"),
            (("--head-scale", "anew"), "norms behind heads, and tracr models have none"),
            (("--head-scale", "new"), "did you mean 'anew'?"),
        ],
    )
    def test_refusals(self, tracr_result, arguments, said):
        ended = call("evaluate", tracr_result / "circuit.json", *arguments)
        assert ended.code == 2
        assert said in ended.err

    def test_another_ablation_is_measured_and_said(self, text_result):
        def evaluated(*arguments: object):
            ended = call("evaluate", text_result / "circuit.json", "--n-random", 0, *arguments)
            assert ended.code == 0, ended.err
            return ended

        own, zero = evaluated("--json").json, evaluated("--ablation", "zero", "--json").json
        assert (own["ablation"], own["found_with_ablation"]) == ("counterfactual", "counterfactual")
        assert (zero["ablation"], zero["found_with_ablation"]) == ("zero", "counterfactual")
        found = Circuit.load(text_result / "circuit.json")
        loaded = load_model(found.provenance["model"])
        pairs = load_task(found.provenance["task"], loaded.tokenizer).split("test")
        expected = measure(compile_model(loaded), found, pairs, ablation="zero", n_random=0).metrics
        for role in ("circuit", "empty", "complement"):
            assert zero["metrics"][role]["kl"] == pytest.approx(expected[role]["kl"], rel=1e-4)
        assert zero["metrics"]["full"]["kl"] == pytest.approx(0, abs=1e-6)
        told = evaluated("--ablation", "mean").out
        assert "measured under mean ablation; found, and its dangling edges dropped, under counterfactual" in told
        assert "measured under" not in evaluated().out

    def test_a_circuit_that_does_not_say_where_it_is_from(self, tracr_result, tmp_path):
        circuit = Circuit.load(tracr_result / "circuit.json")
        bare = Circuit.from_edges(circuit.universe, list(circuit), ablation="zero").save(tmp_path / "bare.json")
        assert "--model" in call("evaluate", bare).err
        assert "--task" in call("evaluate", bare, "--model", "tracr:reverse").err
        named = ("--model", "tracr:reverse", "--task", "tracr-reverse", "--n-random", 0, "--json")
        assert call("evaluate", bare, *named).json["metrics"]["circuit"]["n"] == 363

    def test_prompts_dealt_by_seed_are_dealt_again(self, text_run, text_prompts, tmp_path):
        undealt = tmp_path / "undealt.jsonl"
        rows = [json.loads(line) for line in text_prompts.read_text().splitlines()]
        undealt.write_text("".join(json.dumps({**row, "split": None}) + "\n" for row in rows))
        given = ("--task", f"jsonl:{undealt}", "--seed", 3, "--steps", 2)
        assert call(*text_run, *given, "--out", tmp_path / "x").code == 0
        ended = call("evaluate", tmp_path / "x" / "circuit.json", "--n-random", 0, "--json")
        assert ended.json["data_hash"] == Circuit.load(tmp_path / "x" / "circuit.json").provenance["data_hash"]
        assert "Warning" not in ended.err

    def test_other_prompts_than_it_was_found_with_are_noticed(self, text_result, text_prompts, tmp_path):
        lines = text_prompts.read_text().splitlines()
        changed = tmp_path / "changed.jsonl"
        changed.write_text("\n".join(reversed(lines)) + "\n")
        circuit = Circuit.load(text_result / "circuit.json")
        renamed = circuit.with_provenance({"task": f"jsonl:{changed}"}).save(tmp_path / "c.json")
        assert "not those the circuit was found with" in call("evaluate", renamed, "--n-random", 0).err

    def test_prompts_that_it_was_trained_on_are_counted_by_their_tokens(self, text_result, text_prompts, tmp_path):
        rows = [json.loads(line) for line in text_prompts.read_text().splitlines()]
        trained = [row for row in rows if row["split"] == "train"]
        new = [row for row in rows if row["split"] == "test"]
        other = tmp_path / "other.jsonl"  # 3 of 5 were trained on; one of them with another answer and counterfactual
        mixed = [*trained[:2], {**trained[2], "corrupted": trained[3]["corrupted"]}, *new[:2]]
        other.write_text("".join(json.dumps({**row, "split": "test"}) + "\n" for row in mixed))
        given = ("evaluate", text_result / "circuit.json", "--n-random", 0)
        ended = call(*given, "--task", f"jsonl:{other}")
        assert ended.code == 0, ended.err
        assert "Warning: the circuit was trained on 3 of these 5 test prompts, such as 'x " in ended.err
        assert "trained on 12 of these 12 train prompts" in call(*given, "--split", "train").err
        assert "trained on" not in call(*given).err

    def test_prompts_of_another_seed(self, text_run, text_prompts, tmp_path):
        """Dealt by another seed, a file's test prompts are among those that were trained on."""
        undealt = tmp_path / "undealt.jsonl"
        rows = [json.loads(line) for line in text_prompts.read_text().splitlines()]
        undealt.write_text("".join(json.dumps({**row, "split": None}) + "\n" for row in rows))
        assert call(*text_run, "--task", f"jsonl:{undealt}", "--steps", 2, "--out", tmp_path / "x").code == 0
        circuit = Circuit.load(tmp_path / "x" / "circuit.json")
        tokenizer = load_model(circuit.provenance["model"]).tokenizer
        known, drawn = (load_task(f"jsonl:{undealt}", tokenizer, seed=seed) for seed in (0, 5))
        n = len(set(known.split("train").texts) & set(drawn.split("test").texts))
        assert n > 0
        ended = call("evaluate", tmp_path / "x" / "circuit.json", "--seed", 5, "--n-random", 0)
        assert f"trained on {n} of these {len(drawn.split('test'))} test prompts" in ended.err

    def test_other_weights_are_noticed(self, text_result, tmp_path):
        circuit = Circuit.load(text_result / "circuit.json")
        other = circuit.with_provenance({"config_hash": "another"}).save(tmp_path / "c.json")
        assert "found in config_hash another" in call("evaluate", other, "--n-random", 0).err

    def test_another_number_format_is_no_other_model(self, text_result, tmp_path):
        ended = call("evaluate", text_result / "circuit.json", "--n-random", 0, "--dtype", "bfloat16", "--json")
        assert ended.code == 0, ended.err
        assert (ended.json["dtype"], ended.json["found_with_dtype"]) == ("bfloat16", "float32")
        assert "config_hash" not in ended.err and "Warning: the circuit" not in ended.err
        assert "found in float32, this is bfloat16" in ended.err
        # Another config is noticed in another number format, too.
        other = Circuit.load(text_result / "circuit.json").with_provenance({"config_hash": "another"})
        path = other.save(tmp_path / "c.json")
        assert "config_hash another" in call("evaluate", path, "--n-random", 0, "--dtype", "bfloat16").err

    def test_intervals_are_in_the_table_and_in_json(self, text_result):
        ended = call("evaluate", text_result / "circuit.json", "--n-random", 2)
        figures = json.loads((text_result / "metrics.json").read_text())["splits"]["test"]["circuit"]
        low, high = figures["intervals"]["kl"]
        lines = ended.out.splitlines()
        (line,) = (line for line in lines if line.startswith("Circuit, 95 %: kl "))
        assert f"kl {low:.3f} to {high:.3f}, exact match" in line
        assert any(line.startswith("Circuit minus random circuits, 95 %: kl ") for line in lines)

    def test_an_edited_graph_is_taken_from_the_circuits_file(self, text_model, text_prompts, tmp_path):
        """The complement holds no edge that was removed from the graph that the circuit was found in."""
        compiled = compile_model(load_model(str(text_model)))
        graph = compiled.graph
        graph.remove_nodes_from(["m1"])
        edited = compiled.with_graph(graph)
        kept = (np.random.default_rng(0).random(compiled.universe.n_edges) < 0.5) & edited.gate_map.settled(
            np.ones(compiled.universe.n_edges, dtype=bool)
        )
        task = f"jsonl:{text_prompts}"
        told = {
            **compiled.identity,
            "dtype": "float32",
            "task": task,
            "edits": edited.gate_map.edits,
        }
        circuit = Circuit.from_edges(compiled.universe, kept, provenance=told)
        ended = call("evaluate", circuit.save(tmp_path / "c.json"), "--n-random", 1, "--json")
        assert ended.code == 0, ended.err
        pairs = load_task(task, compiled.tokenizer).split("test")
        expected = measure(edited, circuit, pairs, n_random=1).metrics
        assert set(ended.json["metrics"]) == set(expected) > {"edited"}
        for role in expected:
            assert ended.json["metrics"][role]["kl"] == pytest.approx(expected[role]["kl"], abs=1e-6)
        unlisted = circuit.with_provenance({"edits": {"removed": 300}}).save(tmp_path / "u.json")
        ended = call("evaluate", unlisted, "--n-random", 1)
        assert ended.code == 0 and "300 edges were removed and 0 of them are listed" in ended.err

    def test_outputs_that_are_no_numbers(self, text_result, text_model, tmp_path):
        broken = tmp_path / "broken"
        loaded = load_model(str(text_model))
        with torch.no_grad():
            loaded.model.model.embed_tokens.weight[:] = torch.nan
        loaded.model.save_pretrained(broken)
        loaded.tokenizer.save_pretrained(broken)
        ended = call(
            "evaluate", text_result / "circuit.json", "--model", broken, "--no-verify", "--n-random", 0, "--json"
        )
        assert ended.code == 0, ended.err
        assert ended.json["metrics"]["circuit"]["n_undefined"] == ended.json["metrics"]["circuit"]["n"]
        assert ended.json["metrics"]["circuit"]["exact_match"] is None
        assert "Warning: NaN or infinite logits: full on" in ended.err

    def test_no_circuit(self, tmp_path):
        (tmp_path / "c.json").write_text('{"format_version": 1,')
        ended = call("evaluate", tmp_path / "c.json")
        assert ended.code == 2
        assert "line 1" in ended.err


CLEAN, CORRUPTED = "x Ann gave Bob a cup to", "x Ann gave Eve a cup to"


@pytest.mark.slow
class TestRun:
    def test_full_model_and_circuit_side_by_side(self, text_result, text_model):
        ended = call(
            "run", text_result / "circuit.json", "--prompt", CLEAN, "--corrupted", CORRUPTED, "--json", "--top", 3
        )
        assert ended.code == 0, ended.err
        (row,) = ended.json["positions"]
        assert row["position"] == 6
        loaded = load_model(str(text_model))
        ids = torch.tensor([loaded.tokenizer(CLEAN)["input_ids"]])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, -1]
        best = torch.topk(logits, 3)
        assert [item["id"] for item in row["full"]] == best.indices.tolist()
        assert [item["logit"] for item in row["full"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [item["token"] for item in row["full"]] == [loaded.tokenizer.decode([i]) for i in best.indices]
        # The circuit: the masked pass, called directly.
        compiled, circuit = compile_model(loaded), Circuit.load(text_result / "circuit.json")
        ids = [np.array(loaded.tokenizer(text)["input_ids"]) for text in (CLEAN, CORRUPTED)]
        pair = EncodedPairs(clean_ids=(ids[0],), corrupted_ids=(ids[1],), predict_positions=(np.array([6]),))
        batch = pair.batch([0])
        with torch.no_grad():
            values = compiled.run_with_values(batch.corrupted)[1]
            ours = compiled.masked(torch.from_numpy(circuit.mask).float(), batch.clean, values).logits[0]
        assert row["circuit"][0]["id"] == int(ours.argmax())
        assert row["circuit"][0]["logit"] == pytest.approx(float(ours.max()), abs=1e-4)
        kl = (logits.log_softmax(-1).exp() * (logits.log_softmax(-1) - ours.log_softmax(-1))).sum()
        assert row["kl"] == pytest.approx(float(kl), abs=1e-4)

    def test_rounding_makes_no_kl_below_zero(self, text_result, tmp_path):
        circuit = Circuit.load(text_result / "circuit.json")
        about = {name: circuit.provenance[name] for name in ("model", "dtype")}
        whole = Circuit.from_edges(circuit.universe, np.ones_like(circuit.mask), provenance=about)
        path = whole.save(tmp_path / "whole.json")
        for name in ("Ann", "Cid", "Dan", "Fay"):
            given = ("--prompt", CLEAN.replace("Ann", name), "--corrupted", CORRUPTED)
            (row,) = call("run", path, *given, "--json").json["positions"]
            assert 0 <= row["kl"] < 1e-5

    def test_as_a_table(self, text_result):
        ended = call("run", text_result / "circuit.json", "--prompt", CLEAN, "--corrupted", CORRUPTED, "--top", 4)
        assert ended.code == 0
        assert "KL(full, circuit)" in ended.out
        assert len(ended.out.strip().splitlines()) == 6

    @pytest.mark.parametrize(
        ("prompt", "corrupted", "said"),
        [
            (CLEAN, "x Ann gave a cup to", "has 7 tokens and the corrupted prompt 6"),
            (CLEAN, None, "--corrupted"),
            ("", "", "empty"),
            (CLEAN, CLEAN + " ", "it has the tokens of its counterfactual"),
        ],
    )
    def test_refusals(self, text_result, prompt, corrupted, said):
        given = [] if corrupted is None else ["--corrupted", corrupted]
        ended = call("run", text_result / "circuit.json", "--prompt", prompt, *given)
        assert ended.code == 2
        assert said in ended.err

    def test_words_that_the_tokenizer_does_not_know(self, text_result):
        given = ("run", text_result / "circuit.json", "--corrupted", CORRUPTED)
        ended = call(*given, "--prompt", CLEAN.replace("cup", "kettle"))
        assert ended.code == 0
        assert ended.err.count("Warning: the tokenizer does not know 'kettle' in 'x ") == 1
        assert "does not know" not in call(*given, "--prompt", CLEAN).err

    @pytest.mark.slow
    def test_a_program_says_something_at_every_position(self, tracr_result):
        ended = call("run", tracr_result / "circuit.json", "--prompt", "1 2 3", "--json")
        assert ended.code == 0
        assert [row["position"] for row in ended.json["positions"]] == [1, 2, 3]
        assert [row["full"][0]["token"] for row in ended.json["positions"]] == ["3", "2", "1"]
        assert "not used" in call("run", tracr_result / "circuit.json", "--prompt", "1", "--corrupted", "2").err

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("prompt", "said"), [("1 2 4", "unknown token '4'"), ("1 1 1 1 1 1", "at most 5"), ("BOS", "empty")]
    )
    def test_a_program_refuses_what_it_does_not_know(self, tracr_result, prompt, said):
        ended = call("run", tracr_result / "circuit.json", "--prompt", prompt)
        assert ended.code == 2
        assert said in ended.err

    def test_a_program_of_numbers_and_means(self, tmp_path):
        loaded = load_model("tracr:xproportion")
        universe = compile_model(loaded, embeddings="split").universe
        everything = Circuit.from_edges(
            universe, np.ones(universe.n_edges, dtype=bool), ablation="mean",
            provenance={"model": "tracr:xproportion", "task": "tracr-xproportion"},
        ).save(tmp_path / "all.json")  # fmt: skip
        ended = call("run", everything, "--prompt", "x a x", "--json")
        assert ended.code == 0, ended.err
        shares = [(row["full"][0]["value"], row["circuit"][0]["value"]) for row in ended.json["positions"]]
        assert np.array(shares) == pytest.approx(np.array([[1, 1], [1 / 2, 1 / 2], [2 / 3, 2 / 3]]), abs=1e-4)
        assert all(row["kl"] is None for row in ended.json["positions"])
        assert "circuit 0.667" in call("run", everything, "--prompt", "x a x").out


class TestDraw:
    @pytest.mark.parametrize(
        ("name", "begins"), [("c.dot", b"digraph"), ("c.svg", b"<?xml"), ("c.pdf", b"%PDF"), ("c.png", b"\x89PNG")]
    )
    def test_every_format(self, text_result, tmp_path, name, begins):
        ended = call("draw", text_result / "circuit.json", "--out", tmp_path / name, "--max-edges", 20, "--json")
        assert ended.code == 0, ended.err
        assert (tmp_path / name).read_bytes().startswith(begins)
        n_edges = len(Circuit.load(text_result / "circuit.json"))
        assert ended.json["n_edges"] == n_edges > 20
        assert 0 < ended.json["n_drawn"] <= 20

    def test_refusals(self, text_result, tmp_path):
        assert ".pdf" in call("draw", text_result / "circuit.json", "--out", tmp_path / "c.pdff").err
        assert call("draw", text_result / "circuit.json", "--out", tmp_path / "none" / "c.dot").code == 2
        assert call("draw", text_result / "circuit.json", "--out", tmp_path / "c.dot", "--max-edges", 0).code == 2
        for wrong in (("--width", "7ft"), ("--width-by", "efect"), ("--width-by", "effect", "--out", "c.html")):
            ended = call("draw", text_result / "circuit.json", "--out", tmp_path / "c.dot", *wrong)
            assert ended.code == 2 and wrong[0][2:7] in ended.err, wrong
        assert ".html" in call("draw", text_result / "circuit.json", "--out", tmp_path / "c.htlm").err
        assert list(tmp_path.iterdir()) == []

    def test_a_page_of_one_circuit_or_two(self, text_result, tmp_path):
        file, n_edges = text_result / "circuit.json", len(Circuit.load(text_result / "circuit.json"))
        ended = call("draw", file, "--out", tmp_path / "c.html", "--json")
        assert ended.json == {"out": str(tmp_path / "c.html"), "n_edges": n_edges, "n_drawn": n_edges}
        ended = call("draw", file, file, "--out", tmp_path / "c.html", "--max-edges", 20, "--json")
        assert ended.json["n_edges"] == n_edges > 20 >= ended.json["n_drawn"] > 0
        held = (tmp_path / "c.html").read_text()
        assert held.startswith("<!doctype html>")
        assert (
            re.findall(r'"n_edges":(\d+),"score_meaning":[^,]+,"n_in_page":(\d+)', held)
            == [(str(n_edges), str(ended.json["n_drawn"]))] * 2
        )

    def test_two_circuits_in_a_column_of_a_paper(self, text_result, tmp_path):
        file = text_result / "circuit.json"
        ended = call("draw", file, file, "--out", tmp_path / "c.svg", "--width", "3.3in", "--json")
        assert ended.code == 0 and ended.json["n_drawn"] > 0, ended.err
        drawn = (tmp_path / "c.svg").read_text()
        assert "shared by all" in drawn
        width = re.search(r'<svg width="([\d.]+)pt"', drawn)
        assert width and float(width[1]) <= 3.3 * 72 + 1

    def test_it_says_what_was_left_out(self, text_result, tmp_path):
        said = call("draw", text_result / "circuit.json", "--out", tmp_path / "c.dot", "--max-edges", 20).out
        assert "the strongest of" in said
        assert math.isclose(len(list(tmp_path.iterdir())), 1)


def test_a_measure_that_no_role_has_is_no_column(capsys):
    from circuitgraph.cli.figures import print_metrics

    circuit = {"n": 200, "n_edges": 5, "kl": 0.25, "agreement_full_right": 0.5, "agreement_full_wrong": None}
    print_metrics("test", {"circuit": circuit, "random": circuit | {"n": 32, "agreement_full_right": None}})
    header, first, last = capsys.readouterr().out.splitlines()[2:]
    assert header.split() == ["edges", "kl", "agreement", "full", "right"]
    assert first.split() == ["circuit", "5", "0.250", "0.500"]
    assert last.split() == ["random", "(mean),", "32", "prompts", "5", "0.250", "–"]
