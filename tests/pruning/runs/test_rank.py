"""`rank_edges`: what it refuses before any work, and what its result says."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.edge_scores import DIRECTIONS
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.execution.probe import Probe
from pruning.frozen.constants import mean_constants
from pruning.methods.conductance import Conductance
from pruning.methods.eap import EAP, CleanCorrupted
from pruning.methods.eap_ig import EAPIG
from pruning.methods.gate_gradients import GateGradients
from pruning.methods.method import RANKING_ABLATIONS, Method
from pruning.methods.registry import METHODS
from pruning.runs.fields import kinds_of
from pruning.runs.method_settings import method_with, read_settings
from pruning.runs.rank import rank_edges
from pruning.selection.top import top_edges
from pruning.tasks import load_task
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5, 4, 5], wrong=True)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2):
    return compile_model(tiny_gpt2(), verify=False)


def test_eap_by_default(compiled) -> None:
    found = rank_edges(compiled, PROMPTS)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="negative-logit-diff")
    np.testing.assert_array_equal(found.values, EAP().score(probe))
    told = found.provenance
    assert (told["method"], told["objective"], told["ablation"]) == ("eap", "negative-logit-diff", "counterfactual")
    assert (told["n_prompts"], told["data_hash"]) == (3, PROMPTS.data_hash)
    assert told["weights"] == compiled.identity["weights"] and told["seconds"] > 0


def test_settings_of_a_method_are_kept(compiled) -> None:
    found = rank_edges(compiled, PROMPTS, GateGradients(levels=(0.5,), batches=1, batch_size=2), seed=4)
    assert found.provenance["settings"] == {"levels": [0.5], "batches": 1, "batch_size": 2}
    assert found.provenance["seed"] == 4 and found.direction == "between"


def test_the_known_circuit_of_a_program_stays_right(tmp_path) -> None:
    """The reverse program needs a few of its edges, and the strongest by their gradients are enough."""
    loaded = load_model("tracr:reverse")
    program = compile_model(loaded, embeddings="split", verify=False)
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 4})
    scores = rank_edges(program, task)
    assert (scores.ablation, scores.provenance["task"], scores.provenance["split"]) == (
        "zero",
        "tracr-reverse",
        "train",
    )
    circuit = top_edges(scores, 30)
    measured = evaluate(program, circuit, task.splits["test"], n_random=0).metrics["circuit"]
    assert measured["exact_match"] == 1.0 and len(circuit) < program.universe.n_edges / 2


def test_what_is_refused(compiled, tiny_gpt2) -> None:
    numeric = random_prompts(lengths=[4])
    with pytest.raises(UnknownNameError, match="did you mean 'eap'"):
        rank_edges(compiled, PROMPTS, "epa")
    with pytest.raises(UnknownNameError, match="objective"):
        rank_edges(compiled, PROMPTS, objective="logits")
    with pytest.raises(UnknownNameError, match="ablation"):
        rank_edges(compiled, PROMPTS, ablation="optimum")
    with pytest.raises(ConfigurationError, match="that of 'kl' is 0"):
        rank_edges(compiled, PROMPTS, objective="kl")
    with pytest.raises(ConfigurationError, match="'negative-logit-diff' needs wrong answers"):
        rank_edges(compiled, numeric, objective="negative-logit-diff")
    with pytest.raises(ConfigurationError, match="numbers|tokens"):
        rank_edges(compiled, PROMPTS, "gate-gradients", objective="mse")
    with pytest.raises(ConfigurationError, match="the model takes at most 16"):
        rank_edges(compiled, random_prompts(lengths=[17]))
    with pytest.raises(ConfigurationError, match="no prompts to rank"):
        rank_edges(compiled, random_prompts(lengths=[]))
    with pytest.raises(ConfigurationError, match="batch_size must be a whole number of at least 1"):
        rank_edges(compiled, PROMPTS, batch_size=0)


def test_an_edited_graph_is_refused(compiled) -> None:
    graph = compiled.graph.copy()
    graph.remove_edge("input", "logits")
    with pytest.raises(ConfigurationError, match=r"edited \(removed edges\)"):
        rank_edges(compiled.with_graph(graph), PROMPTS)


def test_prompts_that_do_not_differ_are_refused(compiled) -> None:
    from dataclasses import replace

    same = replace(PROMPTS, corrupted_ids=PROMPTS.clean_ids)
    with pytest.raises(PromptFormatError, match="counterfactual"):
        rank_edges(compiled, same)
    assert np.abs(rank_edges(compiled, same, ablation="zero").values).max() > 0


def test_settings_by_name(compiled) -> None:
    by_name = rank_edges(compiled, PROMPTS, "eap-ig", {"steps": 2})
    as_method = rank_edges(compiled, PROMPTS, EAPIG(steps=2))
    np.testing.assert_array_equal(by_name.values, as_method.values)
    assert by_name.provenance["settings"] == {"steps": 2, "backward": "standard"}
    for settings, text in (
        ({"stpes": 2}, "unknown setting of eap-ig 'stpes'; did you mean 'steps'"),
        ({"steps": "2"}, "steps must be a whole number of at least 1; got '2'"),
        ({"steps": 0}, "steps must be a whole number of at least 1; got 0"),
        ({"backward": "relq"}, "unknown backward 'relq'; did you mean 'relp'"),
    ):
        with pytest.raises((UnknownNameError, ConfigurationError), match=text):
            rank_edges(compiled, PROMPTS, "eap-ig", settings)
    with pytest.raises(ConfigurationError, match="settings came twice"):
        rank_edges(compiled, PROMPTS, EAPIG(), {"steps": 2})


def test_settings_from_text() -> None:
    assert read_settings("eap-ig", {"steps": "30", "backward": "gim"}) == {"steps": 30, "backward": "gim"}
    assert read_settings("gate-gradients", {"levels": "0.2, 0.8"}) == {"levels": (0.2, 0.8)}
    with pytest.raises(ConfigurationError, match="levels must be a number; got 'low'"):
        read_settings("gate-gradients", {"levels": "low"})
    with pytest.raises(ConfigurationError, match="steps must be a whole number of at least 1; got 'many'"):
        read_settings("eap-ig", {"steps": "many"})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_itself(name: str) -> None:
    """What users are told, and that each setting can be given as text and comes back as its default."""
    method = method_with(name)
    assert isinstance(method, Method) and method.name == name
    assert method.direction in DIRECTIONS and set(method.ablations) <= set(RANKING_ABLATIONS)
    assert all(text and "\n" not in text for text in (method.summary, method.source, method.cost, method.estimates))
    given = {key: text_of(getattr(method, key)) for key in kinds_of(type(method))}
    assert method_with(name, read_settings(name, given)) == method


def text_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_methods_between_two_prompts_take_no_constants(compiled) -> None:
    for method in (EAPIG(), EAP(direction="denoising"), CleanCorrupted(), Conductance()):
        with pytest.raises(ConfigurationError, match=f"'{method.name}' needs counterfactual ablation; got 'zero'"):
            rank_edges(compiled, PROMPTS, method, ablation="zero")


SHORT: dict[str, dict[str, object]] = {
    "ugs": {"steps": 3, "draws": 2}, "subnetwork-probing": {"steps": 3}, "edge-pruning": {"steps": 3},
    "nested": {"steps": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in METHODS if "optimal" in method_with(name).ablations])
def test_methods_take_constants(compiled, name: str) -> None:
    """The means given as constants are mean ablation; trained gates learn on from there, so they end elsewhere."""
    method = method_with(name, SHORT.get(name))
    objective = "cross-entropy" if name in ("eap", "exact") else None
    means = rank_edges(compiled, PROMPTS, method, ablation="mean", objective=objective).values
    constants = mean_constants(compiled, PROMPTS)
    given = rank_edges(compiled, PROMPTS, method, ablation="optimal", constants=constants, objective=objective).values
    if name in ("edge-pruning", "nested"):
        assert np.isfinite(given).all() and not np.array_equal(given, means)
    else:
        np.testing.assert_allclose(given, means, rtol=1e-4, atol=1e-5 * np.abs(means).max())


def test_constants_are_learnt_first_where_none_are_given(compiled) -> None:
    said: list[str] = []
    learnt = rank_edges(compiled, PROMPTS, ablation="optimal", say=said.append).values
    assert any("learning one constant per writer first" in line for line in said)
    means = rank_edges(compiled, PROMPTS, ablation="optimal", constants=mean_constants(compiled, PROMPTS)).values
    assert np.abs(learnt - means).max() > 1e-3 * np.abs(means).max()
    with pytest.raises(ConfigurationError, match="of kind 'optimal', and cut edges are to carry 'zero'"):
        rank_edges(compiled, PROMPTS, ablation="zero", constants=mean_constants(compiled, PROMPTS))
    with pytest.raises(ConfigurationError, match="'eap-ig' needs counterfactual ablation; got 'optimal'"):
        rank_edges(compiled, PROMPTS, "eap-ig", ablation="optimal")


def test_an_objective_that_is_flat_at_the_full_model_will_do_beside_it(compiled) -> None:
    for method in (EAPIG(steps=2), EAP(direction="denoising"), CleanCorrupted()):
        assert np.abs(rank_edges(compiled, PROMPTS, method, objective="kl").values).max() > 1e-3
    with pytest.raises(ConfigurationError, match="'eap-ig-activations with steps=1' takes the objective's gradient"):
        rank_edges(compiled, PROMPTS, "eap-ig-activations", {"steps": 1}, objective="kl")
