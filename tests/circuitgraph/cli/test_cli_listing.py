"""`models`, `tasks`, `recipes` and `graph`."""

from __future__ import annotations

import json
import sys

import pytest

from circuitgraph.graph.build import build_graph
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.recipes import RECIPES
from pruning.tasks import TaskDescription, task_names
from tests.circuitgraph.cli.conftest import call


def test_models_are_listed():
    assert {row["name"] for row in call("models", "--json").json["models"]} >= {"smollm2-135m", "tracr:reverse"}
    assert "save_pretrained" in call("models").out


@pytest.mark.slow
def test_every_task_is_listed_with_an_example():
    rows = {row["name"]: row for row in call("tasks", "--json").json}
    assert sorted(rows) == task_names()
    assert all(row["example"] for row in rows.values())
    assert "<predict>" in rows["ioi"]["example"]


def test_tasks_as_text(monkeypatch):
    described = TaskDescription(
        name="tracr-xproportion", description="The share of x so far.", objective="mse", sizes={},
        options={"max_length": 5},
        example="BOS x a x x → 1 0.5 0.67 0.75",
    )  # fmt: skip
    monkeypatch.setattr("pruning.tasks.describe_tasks", lambda: [described])
    said = call("tasks").out
    assert said.startswith("tracr-xproportion: ")
    assert "    --task-option max_length=5\n" in said
    assert "    BOS x a x x → 1 0.5 0.67 0.75\n" in said


def test_every_recipe_is_listed_with_its_settings():
    rows = {row["name"]: row for row in call("recipes", "--json").json}
    assert set(rows) == set(RECIPES)
    assert rows["paper-gpt2"]["steps"] == 3000
    assert "multiplier_rate" in call("recipes").out


@pytest.fixture
def config_alone(tmp_path, tiny_llama):
    model = tiny_llama(n_layers=3, n_heads=4, n_kv_heads=2)
    model.config.save_pretrained(tmp_path)
    return tmp_path, model


class TestGraph:
    @pytest.mark.parametrize("choices", [{}, {"kv_heads": "per_query", "qkv": "joint"}])
    def test_counts_are_those_of_the_explicit_graph(self, config_alone, choices):
        folder, model = config_alone
        flags = [word for name, value in choices.items() for word in (f"--{name.replace('_', '-')}", value)]
        found = call("graph", "--model", folder, "--json", *flags).json
        universe = Universe(family="llama", n_layers=3, n_heads=4, n_kv_heads=2, **choices)
        graph = build_graph(universe)
        kinds = [kind for _, _, kind in graph.edges(data="kind") if kind != "structural"]
        assert found["universe"] == universe.to_dict()
        assert found["edges"].pop("total") == len(kinds) == universe.n_edges
        assert found["edges"] == {kind: kinds.count(kind) for kind in set(kinds)}
        nodes = [kind for _, kind in graph.nodes(data="kind")]
        assert found["nodes"].pop("total") == len(nodes)
        assert found["nodes"] == {kind: nodes.count(kind) for kind in set(nodes)}
        for row in found["layers"]:
            into = [v for u, v, mask in graph.edges(data="mask") if mask is not None]
            assert row["total"] == sum(graph.nodes[v]["layer"] == row["layer"] for v in into)
        assert found["n_parameters"] == sum(weights.numel() for weights in model.parameters())

    def test_text_and_its_estimate(self, config_alone):
        ended = call("graph", "--model", config_alone[0], "--batch-size", 4, "--tokens", 7)
        assert ended.code == 0
        assert "4 prompts of 7 tokens" in ended.out
        assert "stream" in ended.out

    def test_memory_of_a_device_that_need_not_be_there(self, config_alone):
        found = {
            device: call("graph", "--model", config_alone[0], "--device", device, "--json").json["memory"]
            for device in ("cpu", "cuda:1")
        }
        assert found["cuda:1"]["device"] == "cuda:1"
        assert found["cuda:1"]["program"] == found["cuda:1"]["heap"] == 0 < found["cpu"]["program"]
        ended = call("graph", "--model", config_alone[0], "--device", "cude")
        assert ended.code == 2
        assert "cuda" in ended.err

    def test_split_embeddings_need_learned_positions(self, config_alone):
        ended = call("graph", "--model", config_alone[0], "--embeddings", "split")
        assert ended.code == 2
        assert "learned position" in ended.err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--model", "tracr:revers"), "tracr:reverse"),
            (("--model", "tracr:reverse", "--dtype", "float23"), "float32"),
            (("--model", "tracr:reverse", "--qkv", "apart"), "split"),
        ],
    )
    def test_wrong_names(self, arguments, said):
        ended = call("graph", *arguments)
        assert ended.code == 2
        assert said in ended.err

    def test_no_model_of_this_kind(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        ended = call("graph", "--model", tmp_path)
        assert ended.code == 2
        assert "'bert' is not supported" in ended.err


def test_listing_needs_no_weights(monkeypatch):
    monkeypatch.setattr("circuitgraph.models.load_model", lambda *_, **__: sys.exit("loaded"))
    assert call("graph", "--model", "tracr:xproportion", "--json").code == 0


class TestModelsCheck:
    def config(self, folder, **changes):
        from transformers import Gemma2Config

        values = Gemma2Config(num_hidden_layers=2).to_dict() | changes
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    def test_what_compiles(self, tmp_path):
        ended = call("models", "--check", self.config(tmp_path), "--json")
        told = json.loads(ended.out)
        # Two layers of 8 heads, 4 of keys and values: Σ p(8 + 8) + p + 8 with p = 1, 10, and the logits see 19.
        assert told["n_edges"] == (16 + 9) + (160 + 18) + 19
        assert (ended.code, told["compiles"], told["universe"]["head_scale"]) == (0, True, "shared")
        assert "compiles: gemma2: 2 layers of 8 heads" in call("models", "--check", tmp_path).out

    def test_the_graph_is_the_one_that_other_commands_take(self):
        told, graph = (call(*what, "--json").json for what in (
            ("models", "--check", "tracr:reverse"), ("graph", "--model", "tracr:reverse"),
        ))  # fmt: skip
        assert told["universe"]["embeddings"] == "split" and told["n_edges"] == 94
        assert graph["universe"]["embeddings"] == "split"

    def test_all_that_stands_in_the_way_is_named_at_once(self, tmp_path):
        folder = self.config(tmp_path, attention_bias=True, made_up=3, head_dim="wide")
        ended = call("models", "--check", folder)
        assert ended.code == 2
        assert all(said in ended.err for said in ("head_dim='wide'", "attention_bias=True", "made_up=3"))
        as_json = call("models", "--check", folder, "--json")
        assert as_json.code == 2
        assert json.loads(as_json.out)["compiles"] is False
