"""`models`, `tasks`, `recipes` and `graph`."""

from __future__ import annotations

import json
import sys

import pytest

from circuitgraph.graph import build_graph
from circuitgraph.memory import count_parameters, estimate_memory
from circuitgraph.universe import Universe
from pruning.recipes import RECIPES
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
        assert "rows" in ended.out

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


def one_small_layer():
    """Its shape and its universe, for sums by hand."""
    from circuitgraph.architectures import ModelShape

    shape = ModelShape(
        n_layers=1, n_heads=2, n_kv_heads=2, d_model=4, d_head=2, d_mlp=8, d_vocab=10, n_positions=8,
        learned_positions=True,
    )  # fmt: skip
    return shape, Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)


class TestMemory:
    def test_estimate_by_hand(self):
        shape, universe = one_small_layer()
        found = estimate_memory(
            shape, universe, n_parameters=100, batch_size=3, seq=5, n_prompts=7, cache_bytes=1 << 20
        )
        # 15 tokens of width 4, in float32: 240 bytes a stream.
        assert found.weights == 400
        assert found.deltas == 4 * (240 + 3 * 16)  # input, two heads, MLP; at all tokens, and at the three asked
        assert found.rows == 8 * 240  # q, k, v of two heads, MLP, logits
        assert found.activations == (4 * 4 * 15 + 7 * 8 * 15) * 4
        assert found.working == 3 * 6 * 240 + 2 * 240
        assert found.logits == 6 * 3 * 10 * 4
        # A prompt: the two embeddings, the attention, the MLP and the heads, their queries, keys and values (4 each)
        # at 5 tokens, and 10 logits; a batch takes its layers from there, one after the other.
        assert found.cache == 7 * (32 * 5 + 10) * 4
        tight = estimate_memory(shape, universe, n_parameters=100, batch_size=3, seq=5, n_prompts=7, cache_bytes=4000)
        # In short form: the two embeddings, the heads and the MLP; a batch is whole again.
        assert tight.cache == 7 * (16 * 5 + 10) * 4 + 32 * 15 * 4
        few = estimate_memory(shape, universe, n_parameters=100, batch_size=3, seq=5, n_prompts=7, teacher_top_k=3)
        # Three ids and log-probabilities and one number more instead of 10 logits.
        assert few.cache == 7 * (32 * 5 + 3 + 3 + 1) * 4
        assert found.gates == 140 * universe.n_edges
        assert found.to_dict()["total"] == found.total > 450 << 20

    @pytest.mark.parametrize(
        ("kernels", "seq", "packed"), [("packed", 37, 512), ("packed", 38, 0), ("direct", 37, 0), ("plain", 37, 0)]
    )
    def test_weights_are_packed_for_fewer_than_112_tokens(self, kernels, seq, packed):
        shape, universe = one_small_layer()
        found = estimate_memory(shape, universe, n_parameters=100, batch_size=3, seq=seq, kernels=kernels)
        assert found.packed == packed  # two matrices of 4 x 8, two copies, float32

    def test_a_budget_of_zero_keeps_one_batch(self):
        from circuitgraph.architectures import family_of
        from circuitgraph.models import load_config

        config = load_config("tracr:reverse")
        shape = family_of("tracr").shape(config)
        universe = Universe(family="tracr", n_layers=4, n_heads=1, n_kv_heads=1, embeddings="split")
        sizes = {"n_parameters": count_parameters(config), "batch_size": 2, "seq": 6}
        zero = estimate_memory(shape, universe, **sizes, cache_bytes=0, ablation="zero")
        assert zero.cache == 0
        assert estimate_memory(shape, universe, **sizes, cache_bytes=0).cache > 0

    def test_counting_parameters_draws_no_random_number(self, tiny_gpt2):
        import torch

        model = tiny_gpt2()
        before = torch.random.get_rng_state()
        assert count_parameters(model.config) == sum(weights.numel() for weights in model.parameters())
        assert torch.equal(before, torch.random.get_rng_state())


def test_listing_needs_no_weights(monkeypatch):
    monkeypatch.setattr("circuitgraph.models.load_model", lambda *_, **__: sys.exit("loaded"))
    assert call("graph", "--model", "tracr:xproportion", "--json").code == 0
