"""The scripts of measurements, at sizes at which they prove nothing but themselves."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

from circuitgraph.architectures import family_of
from circuitgraph.architectures.universe import universe_of
from circuitgraph.compiled.compile import compile_model
from pruning.bench.models import random_model
from pruning.bench.prompts import random_prompts
from pruning.bench.settings import BenchSettings
from pruning.bench.trained import read_trained
from tests.benchmarks import exactness, gpu
from tests.benchmarks.train_fixtures import train_gates

pytestmark = pytest.mark.slow

SMALL = ("--device", "cpu", "--dtype", "float32", "--batch", "2", "--seq", "8", "--rounds", "1", "--threads", "1")
LARGE = ("--narrow", "16", "--layers", "4", "--heads", "6", "--fill-batch", "1")


def run(capsys, *options: str) -> tuple[int, list[dict]]:
    code = gpu.main([*SMALL, *LARGE, *options])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestGpu:
    def test_card(self, capsys):
        code, (row,) = run(capsys, "--parts", "card")
        assert code == 0 and row["part"] == "card" and row["device"] == "cpu"
        assert row["versions"]["torch"] == torch.__version__

    def test_the_large_model_stage_by_stage(self, capsys, monkeypatch):
        monkeypatch.setattr(gpu, "SPARSITY", 0.9)
        code, found = run(capsys, "--parts", "large", "--micro-batch", "1")
        assert code == 0
        stages = {row["stage"]: row for row in found}
        assert list(stages) == [
            "model", "plain", "start", "sparse concentrated", "evaluate concentrated", "sparse spread",
            "evaluate spread", "middle",
        ]  # fmt: skip
        model = stages.pop("model")
        # Layers of 6 heads: attention sees 1 + 7 l writers, 18 readers of them; an MLP 7 (l + 1); logits 29.
        edges = sum(18 * (1 + 7 * layer) + 7 * (layer + 1) for layer in range(4)) + 29
        assert (model["edges"], model["layers"], model["heads"], model["d_model"]) == (edges, 4, 6, 48)
        assert all(row["seconds"] > 0 and row["peak_bytes"] > row["peak_above_weights"] for row in stages.values())
        plain = stages["plain"]["seconds"]
        assert all(row["ratio"] == pytest.approx(row["seconds"] / plain) for row in stages.values())
        assert stages["sparse spread"]["kept_edges"] == round(0.1 * edges)
        assert stages["sparse spread"]["live_nodes"] > stages["sparse concentrated"]["live_nodes"]
        assert stages["start"]["undecided"] >= 4 * 19 + 1 and stages["evaluate spread"]["undecided"] == 0
        assert stages["start"]["micro_batch"] == 1

    def test_the_shape_is_codellamas(self):
        config = gpu.large_config(1, 40, 40)
        assert (config.hidden_size, config.head_dim, config.intermediate_size) == (5120, 128, 13824)
        with torch.device("meta"):
            model = gpu.LlamaForCausalLM(config)
        assert sum(weights.numel() for weights in model.parameters()) == pytest.approx(13.016e9, rel=1e-3)
        family = family_of(config.model_type)
        assert universe_of(family, family.shape(config)).n_edges == 3_877_661

    def test_what_fails_is_told_and_the_rest_goes_on(self, capsys, monkeypatch):
        def fail(asked):
            yield {"row": 1}
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

        monkeypatch.setattr(gpu, "SPARSITY", 0.9)
        monkeypatch.setitem(gpu.PARTS, "bench", fail)
        monkeypatch.setattr(gpu.Large, "fill", lambda self: 1 / 0)
        code, found = run(capsys, "--parts", "bench", "large", "card")
        assert code == 1
        assert [row["part"] for row in found] == ["bench"] * 2 + ["large"] * 8 + ["card"]
        assert found[1]["error"] == "OutOfMemoryError: CUDA out of memory."
        errors = {row["stage"]: row.get("error") for row in found if row["part"] == "large"}
        assert errors["plain"] is None and errors["start"] == "ZeroDivisionError: division by zero"

    def test_a_device_that_is_not_there(self):
        from circuitgraph.errors import ConfigurationError

        with pytest.raises(ConfigurationError, match="cuda:99"):
            gpu.main(["--device", "cuda:99"])


class TestExactness:
    def test_float32_keeps_its_bounds(self, capsys, monkeypatch):
        monkeypatch.setattr(exactness, "BOUNDS", {"float32": exactness.BOUNDS["float32"]})
        code, found = run(capsys, "--parts", "exact", "--exact-width", "4")
        assert code == 0
        replayed = [row for row in found if "replayed" in row]
        assert len(replayed) == 2 * 4 * 2 and all(row["replayed"] and row["gradient_error"] < 1e-4 for row in replayed)
        found = [row for row in found if "replayed" not in row]
        assert len(found) == 2 * 2 * 4
        assert {(row["family"], row["differ"], row["gates"]) for row in found} == {
            (family, differ, gates) for family in ("gpt2", "llama") for differ in ("three", "all")
            for gates in ("start", "middle", "sparse", "every gate wanted")
        }  # fmt: skip
        assert all(0 < row["logits_error"] < 1e-5 for row in found)
        every = next(row for row in found if row["gates"] == "every gate wanted" and row["family"] == "gpt2")
        assert every["wanted"] == 1519

    def test_a_wrong_gradient_is_seen(self, monkeypatch):
        monkeypatch.setattr(exactness, "BOUNDS", {"float32": exactness.BOUNDS["float32"]})
        right = exactness.masked

        def wrong(compiled, *rest):
            logits, gradient = right(compiled, *rest)
            return logits, gradient * 1.002 if compiled.dtype == torch.float32 else gradient

        monkeypatch.setattr(exactness, "masked", wrong)
        row = next(exactness.compare(torch.device("cpu"), width=4))
        assert not row["ok"] and row["gradient_error"] == pytest.approx(0.002, rel=0.05)

    def test_errors_by_hand(self):
        assert exactness.error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
        assert exactness.error(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf


def test_fixtures_are_trained_to_their_sparsity(tmp_path):
    config = GPT2Config(
        n_layer=4, n_head=6, n_embd=24, vocab_size=53, n_positions=16, bos_token_id=0, eos_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    compiled = compile_model(random_model(GPT2LMHeadModel, config, seed=0), verify=False)
    prompts = random_prompts(8, 8, d_vocab=53, seed=0)
    told = train_gates(compiled, prompts, tag="98", steps=30, batch=4, seed=0, out=tmp_path / "new")
    path = tmp_path / "new" / "gpt2-random-98.safetensors"
    settings = BenchSettings(model="gpt2-random", trained_98=str(path))
    found = read_trained(settings, "98", compiled.universe.n_edges)
    assert found is not None and found.doubt is None
    assert (
        told["expected_sparsity"] == pytest.approx(0.98, abs=2e-3) == pytest.approx(found.expected_sparsity, abs=1e-4)
    )
    assert found.log_alpha.std() > 1, "they have moved apart"
    with safe_open(path, "pt") as file:
        about = file.metadata()
        assert file.get_tensor("log_alpha").dtype == torch.float16
    assert json.loads(about["recipe"]) == "quick, 30 steps, 4 prompts per step, seed 0"
    assert "8 x 8: random tokens" in json.loads(about["prompts"])
