"""`discover` by any registered method: the circuit is what the rule makes of the scores, and the rest goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import OlmoeConfig, OlmoeForCausalLM

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, UnknownNameError, UnsupportedModelError
from circuitgraph.models import load_model
from pruning.execution.probe import Probe
from pruning.methods.acdc import ACDC, acdc
from pruning.methods.eap_ig import EAPIG
from pruning.methods.registry import METHODS
from pruning.methods.weight_magnitude import WeightMagnitude
from pruning.runs.checking.preflight import look_at
from pruning.runs.choice_files import read_run_file
from pruning.runs.discover import discover
from pruning.runs.load import plan_with
from pruning.runs.method_settings import method_kinds
from pruning.runs.rank import rank_edges
from pruning.runs.request import BY_RECIPE, RunRequest
from pruning.runs.run import run_from, run_of
from pruning.tasks import load_task
from pruning.tasks.loading import TaskData
from tests.pruning.prompts.small_prompts import random_prompts

TRAIN, TEST = random_prompts(lengths=[5, 4, 5], wrong=True), random_prompts(lengths=[5, 5], wrong=True, seed=1)
QUICK = {"n_random": 0, "n_effects": 0, "splits": ("test",), "progress": False}
FEW = {"steps": 2, "prompts": 2, "draws": 2, "batches": 1, "target_edges": 30}
"""Settings that make any method quick."""


@pytest.fixture(scope="module")
def compiled(tiny_gpt2):
    return compile_model(tiny_gpt2(n_heads=2), verify=False)


@pytest.fixture(scope="module")
def task():
    return TaskData(
        name="mine", splits={"train": TRAIN, "test": TEST}, notes=(), provenance={"seed": 0}, data_hash="x",
        objective="kl",
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_RECIPE])
def test_every_method_gives_a_circuit(compiled, task, name: str) -> None:
    settings = {key: value for key, value in FEW.items() if key in method_kinds(name)}
    found = discover(compiled, task, method=name, rule="top", target_sparsity=0.6, seed=3, **settings, **QUICK)
    scores = rank_edges(compiled, task, name, settings, seed=3)
    np.testing.assert_array_equal(found.scores.values, scores.values)
    n = round(0.4 * compiled.universe.n_edges)
    size = scores.values if name == "acdc" else np.abs(scores.values)
    raw = set(np.argsort(-size, kind="stable")[:n].tolist())
    assert found.circuit.n_raw == n and set(found.circuit.edge_ids.tolist()) <= raw
    told = found.circuit.provenance
    assert (told["method"], told["objective"], told["seed"]) == (name, scores.provenance["objective"], 3)
    assert told["settings"] == scores.provenance["settings"] and "recipe" not in told
    assert (told["selection"]["rule"], told["selection"]["sparsity"]) == ("top", 0.6)
    assert found.run is None and not found.missing and found.metrics["splits"]["test"]["raw"]["n"] == 2


def test_a_search_gives_its_own_circuit(compiled, task) -> None:
    probe = Probe(compiled=compiled, pairs=TRAIN, objective="kl")
    for chosen, settings in (({"threshold": 0.03}, ACDC(threshold=0.03)), ({"target_sparsity": 0.6}, None)):
        settings = settings or ACDC(target_edges=round(0.4 * compiled.universe.n_edges))
        searched = acdc(probe, settings)
        found = discover(compiled, task, method="acdc", **chosen, **QUICK)
        assert set(found.circuit.edge_ids.tolist()) <= set(np.flatnonzero(searched.kept).tolist())
        assert found.circuit.n_raw == searched.n_kept
        assert found.circuit.provenance["selection"]["rule"] == "own"
        assert found.circuit.provenance["selection"]["threshold"] == searched.threshold
    with pytest.raises(ConfigurationError, match="asks for 18 edges, and target_edges for 5"):
        discover(compiled, task, method="acdc", target_sparsity=0.6, target_edges=5, **QUICK)


def test_a_search_that_misses_its_size_says_so() -> None:
    loaded = load_model("tracr:reverse")
    program = compile_model(loaded, embeddings="split", verify=False)
    prompts = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    found = discover(program, prompts, method="acdc", target_sparsity=0.7, **QUICK)
    assert f"has {found.circuit.n_raw} edges, as near to 28 edges as the search came" in found.diagnoses[-1]
    assert found.circuit.n_raw < 20  # all others change nothing, and are never kept


def test_one_ranking_gives_a_front_and_a_folder(compiled, task, tmp_path) -> None:
    place = tmp_path / "result"
    found = discover(
        compiled, task, method=EAPIG(steps=2), target_sparsity=0.5, front=(0.8, 0.5), rule="greedy", out=place, **QUICK
    )
    assert {path.name for path in place.iterdir()} == {
        "run.toml", "scores.safetensors", "scores.json", "circuit.json", "circuit-0.5.json", "circuit-0.8.json",
        "front.csv", "metrics.json", "examples.csv", "state.json",
    }  # fmt: skip
    scores = EdgeScores.load(place)
    for sparsity in (0.5, 0.8):
        kept = Circuit.load(place / f"circuit-{sparsity}.json")
        alone = scores.select("greedy", round((1 - sparsity) * compiled.universe.n_edges))
        assert kept.edge_ids.tolist() == alone.edge_ids.tolist()
        assert kept.provenance["selection"] == {**alone.provenance["selection"], "sparsity": sparsity}
    assert found.front["sparsity"].tolist() == [0.5, 0.8]
    assert json.loads((place / "state.json").read_text())["finished"]
    # The file describes the run: the same again.
    again = run_from(compiled, task, read_run_file(place))
    assert again.request == found.request and again.method == EAPIG(steps=2)
    assert RunRequest.from_dict(json.loads(json.dumps(found.request.to_dict()))) == found.request


def test_other_rules(compiled, task) -> None:
    by_score = discover(compiled, task, method="eap", rule="threshold", **{"selection.threshold": 0.2}, **QUICK)
    assert by_score.circuit.n_raw == int((np.abs(by_score.scores.values) >= 0.2).sum()) > 0
    connected = discover(compiled, task, method="eap", rule="connected", target_sparsity=0.8, **QUICK)
    assert len(connected.circuit) == connected.circuit.n_raw == round(0.2 * compiled.universe.n_edges)
    # Where the solver fails, the largest take its place, and it is said.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pruning.runs.ranked_run.choose_edges", _only_top)
        found = discover(compiled, task, method="eap", rule="connected", target_sparsity=0.8, **QUICK)
    assert "by the rule connected (RuntimeError: no solver)" in found.diagnoses[-1]
    assert found.circuit.provenance["selection"]["rule"] == "top"


def _only_top(several, rule, options):
    from circuitgraph.circuits.selection.rules import choose_edges

    if rule != "top":
        raise RuntimeError("no solver")
    return choose_edges(several, rule, options)


def test_trained_methods_are_recipes(compiled, task) -> None:
    assert run_of(compiled, task, None, {"method": "edge-pruning"}) == run_of(compiled, task, None, {})
    nested = run_of(compiled, task, None, {"method": "nested", "steps": 9}).request
    assert nested.method is None and (nested.recipe.name, nested.recipe.steps) == ("nested", 9)
    with pytest.raises(
        ConfigurationError, match="'nested' ranks for all sparsities, and the recipe 'quick' trains for"
    ):
        run_of(compiled, task, "quick", {"method": "nested"})
    found = discover(compiled, task, method="edge-pruning", steps=2, **QUICK)
    np.testing.assert_allclose(found.scores.values, found.run.gates.log_alpha.detach().double().numpy())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "epa"}, "unknown method 'epa'"),
        ({"method": "eap", "recipe": "quick"}, "'eap' trains by no recipe, and recipe 'quick' was named"),
        ({"method": "eap", "learning_rate": 0.1}, "'eap' trains by no recipe, so it has no learning_rate"),
        ({"method": "eap-ig", "stpes": 3}, "unknown setting 'stpes'; did you mean 'steps'"),
        ({"method": "eap-ig", "steps": "3"}, "steps must be a whole number of at least 1; got '3'"),
        ({"method": "eap", "objective": "kl"}, "that of 'kl' is 0"),
        ({"method": "random", "objective": "kl"}, "'random' compares nothing"),
        ({"method": "eap-ig", "ablation": "zero"}, "'eap-ig' needs counterfactual ablation"),
        ({"method": "eap", "teacher_top_k": 4}, "'eap' has no teacher_top_k"),
        ({"method": "eap", "rule": "own"}, "'eap' gives scores and no circuit of its own"),
        ({"method": "eap", "rule": "stable"}, "unknown rule 'stable'"),
        ({"method": "eap", "rule": "threshold"}, "takes a threshold"),
        ({"method": "eap", "rule": "top", "exactly": False}, "rule 'top' has no exactly"),
        ({"method": "eap", "target_sparsity": 97}, "did you mean 0.97"),
        ({"rule": "top"}, "trained gates become a circuit by the recipe's own rule"),
        ({"method": 3}, "method must be the name of a registered method"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(compiled, task, given, message: str) -> None:
    given = dict(given)
    with pytest.raises((ConfigurationError, UnknownNameError), match=message):
        run_of(compiled, task, given.pop("recipe", None), given)


def test_what_a_method_cannot_do_is_an_error_of_the_check(compiled, task, monkeypatch) -> None:
    def refuse(self, compiled):
        raise UnsupportedModelError("no such MLP")

    monkeypatch.setattr(WeightMagnitude, "require_model", refuse)
    run = run_of(compiled, task, None, {"method": "weight-magnitude", "splits": ("test",)})
    assert [(one.name, "no such MLP" in one.text) for one in look_at(run).errors] == [("method-does-not-fit", True)]
    graph = compiled.graph.copy()
    graph.remove_edge("input", "logits")
    with pytest.raises(ConfigurationError, match=r"edited \(removed edges\)"):
        discover(compiled.with_graph(graph), task, method="eap", **QUICK)
    with pytest.raises(ConfigurationError, match="'eap' has no checkpoints"):
        discover(compiled, task, method="eap", out="nowhere", resume=True, **QUICK)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"method": "acdc"}, "queries and keys of a layer's heads are normed together"),
        ({"method": "eap-ig", "backward": "relp"}, "backward='relp' has no rule for MLPs of the kind"),
        ({"method": "weight-magnitude"}, "does not know the matrices of MLPs of the kind"),
        ({"survivors": 9, "survivors_by": "acdc"}, "queries and keys of a layer's heads are normed together"),
    ],
)
def test_an_architecture_that_a_method_does_not_know(chosen, message: str, task) -> None:
    """OLMoE's experts are no MLP with two or three matrices, and its queries and keys are normed over all heads."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OlmoeConfig(vocab_size=29, num_experts=2, num_experts_per_tok=1, max_position_embeddings=16, **sizes)
    experts = compile_model(OlmoeForCausalLM(config).eval(), verify=False)
    with pytest.raises(UnsupportedModelError, match=message):
        discover(experts, task, **chosen, **QUICK)


def test_a_plan_knows_what_is_refused_from_the_config_alone() -> None:
    chosen = {"model.name": "tracr:reverse", "task.name": "tracr-reverse", "method.name": "eap-ig"}
    assert plan_with(chosen, objective="kl").request.ablation == "counterfactual"
    assert plan_with({**chosen, "method.name": "eap"}, objective="kl").request.ablation == "zero"
