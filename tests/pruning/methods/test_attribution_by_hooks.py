"""Attribution methods against their published formulas, written out over hooks on untouched Hugging Face models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.universe import Universe
from pruning.execution.probe import Probe
from pruning.methods.conductance import Conductance
from pruning.methods.eap import EAP, CleanCorrupted
from pruning.methods.eap_ig import EAPIG, EAPIGActivations
from pruning.methods.method import Method
from tests.oracles.attribution import HookedRun, minus, products, run_with_hooks
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 3, 4], n_asked=(1, 2))


class Oracle:
    """One prompt of one model, with the cross-entropy of its answers."""

    def __init__(self, model: nn.Module, universe: Universe, prompt: int) -> None:
        self.model, self.universe = model, universe
        self.clean_ids, self.other_ids = (
            torch.from_numpy(ids[prompt])[None] for ids in (PROMPTS.clean_ids, PROMPTS.corrupted_ids)
        )
        self.asked, self.answers = PROMPTS.predict_positions[prompt], torch.from_numpy(PROMPTS.answer_ids[prompt])
        self.clean, self.other = self.run(self.clean_ids), self.run(self.other_ids)
        self.changes = minus(self.other.said, self.clean.said)

    def loss(self, logits: Tensor) -> Tensor:
        rows = logits[self.asked].log_softmax(-1)
        return -rows[torch.arange(len(self.answers)), self.answers].mean()

    def run(self, ids: Tensor, **instead: Tensor) -> HookedRun:
        return run_with_hooks(self.model, self.universe, ids, self.loss, instead)

    def step(self, share: float) -> HookedRun:
        """With token embeddings between those of the counterfactual and the prompt."""
        return self.run(self.clean_ids, tok=self.other.tokens + share * (self.clean.tokens - self.other.tokens))

    def of(self, gradients: dict[str, Tensor], changes: dict[str, Tensor] | None = None) -> np.ndarray:
        return products(self.universe, self.changes if changes is None else changes, gradients)


def eap(one: Oracle) -> np.ndarray:
    return one.of(one.clean.gradients)


def eap_denoising(one: Oracle) -> np.ndarray:
    return one.of(one.other.gradients)


def clean_corrupted(one: Oracle) -> np.ndarray:
    return (eap(one) + eap_denoising(one)) / 2


def eap_ig_of_3(one: Oracle) -> np.ndarray:
    return sum(one.of(one.step(k / 3).gradients) for k in (0, 1, 2)) / 3


def conductance_of_3(one: Oracle) -> np.ndarray:
    runs = [one.step(k / 3) for k in (0, 1, 2)] + [one.clean]
    steps = zip(runs, runs[1:], strict=False)
    return sum(one.of(now.gradients, minus(now.said, after.said)) for now, after in steps)


def eap_ig_activations_of_2(one: Oracle) -> np.ndarray:
    n_layers = one.universe.n_layers
    clean, other = (_places(one, ids) for ids in (one.clean_ids, one.other_ids))
    total = np.zeros(one.universe.n_edges)
    for k in (1, 2):
        for place in clean:
            said = (k * clean[place] + (2 - k) * other[place]) / 2
            total += one.of(one.run(one.clean_ids, **{place: said}).gradients)
    return total / (2 * (1 + 2 * n_layers))


def _places(one: Oracle, ids: Tensor) -> dict[str, Tensor]:
    """What each place says: the token embedding, all heads of a layer before the output projection, each MLP."""
    from tests.oracles.hooks import hooked, landmarks

    marks, found = landmarks(one.model), {}
    run = one.clean if ids is one.clean_ids else one.other
    found["tok"] = run.tokens
    handles = [
        marks.output(layer).register_forward_pre_hook(lambda _m, x, n=f"a{layer}": found.update({n: x[0].detach()}))
        for layer in range(one.universe.n_layers)
    ]
    with hooked(handles):
        one.model(ids)
    return found | {name: said for name, said in run.said.items() if name.startswith("m")}


FORMULAS: dict[str, tuple[Method, Callable[[Oracle], np.ndarray]]] = {
    "eap": (EAP(), eap),
    "eap-denoising": (EAP(direction="denoising"), eap_denoising),
    "clean-corrupted": (CleanCorrupted(), clean_corrupted),
    "eap-ig": (EAPIG(steps=3), eap_ig_of_3),
    "conductance": (Conductance(steps=3), conductance_of_3),
    "eap-ig-activations": (EAPIGActivations(steps=2), eap_ig_activations_of_2),
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    make = {"gpt2": lambda: tiny_gpt2(n_heads=2), "llama": lambda: tiny_llama(n_heads=4, n_kv_heads=2)}
    return compile_model(make[request.param]().double(), verify=False)


@pytest.fixture(scope="module")
def oracles(compiled: CompiledModel) -> list[Oracle]:
    return [Oracle(compiled.model, compiled.universe, prompt) for prompt in range(len(PROMPTS))]


@pytest.mark.parametrize("name", FORMULAS)
def test_the_published_formula(name: str, compiled: CompiledModel, oracles: list[Oracle]) -> None:
    method, formula = FORMULAS[name]
    expected = np.mean([formula(one) for one in oracles], axis=0)
    found = method.score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=2), seed=0)
    assert np.abs(expected).max() > 0.01
    # Llama's own norms and rotary embedding round to float32.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_conductance_is_complete(compiled: CompiledModel, oracles: list[Oracle]) -> None:
    """Edges into the logits add up to what the objective changes from clean to corrupted, as steps grow."""
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy")
    whole = np.mean([float(one.loss(one.other.logits) - one.loss(one.clean.logits)) for one in oracles])
    into_logits = compiled.universe.blocks[-1].edges
    off = [abs(Conductance(steps=steps).score(probe)[into_logits].sum() - whole) for steps in (4, 16)]
    assert off[1] < 0.4 * off[0]
