"""Edge attribution with spans: at each, products over its positions alone, against hooks; together those without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from pruning.execution.probe import Probe
from pruning.methods.conductance import Conductance
from pruning.methods.eap import EAP
from pruning.methods.eap_ig import EAPIG, EAPIGActivations
from pruning.methods.method import Method
from pruning.prompts.spans import asked_spans, span_labels
from tests.oracles.attribution import products
from tests.pruning.methods.test_attribution_by_hooks import PROMPTS, Oracle

NAMES = ("start", "middle", "end")
SPANS = (
    (("start", 0), ("middle", 1), ("end", 2)),
    (("start", 0), ("middle", 1), ("end", 2)),
    (("start", 0), ("middle", 2), ("end", 3)),
)
DIVIDED = replace(PROMPTS, spans=SPANS, divided_by=NAMES)


def scores(compiled, pairs, method: Method) -> np.ndarray:
    probe = Probe(compiled=compiled, pairs=pairs, objective="cross-entropy", batch_size=2)
    return np.asarray(method.score(probe, seed=0))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_score_is_of_the_positions_of_its_span(family: str, tiny_gpt2, tiny_llama) -> None:
    model = (tiny_gpt2(n_heads=2) if family == "gpt2" else tiny_llama(n_heads=4, n_kv_heads=2)).double()
    plain = compile_model(model, verify=False)
    asked = [name for name in NAMES if name in asked_spans(DIVIDED)]
    assert 0 < len(asked) < len(NAMES)  # so that some span has no logits
    spanned = plain.with_spans(NAMES, asked=asked)
    found, expected = scores(spanned, DIVIDED, EAP()), np.zeros(spanned.universe.n_edges)
    for prompt in range(len(PROMPTS)):
        one, labels = Oracle(model, plain.universe, prompt), torch.from_numpy(span_labels(DIVIDED, prompt))
        for place, part in enumerate(spanned.universe.parts):
            there = (labels == place)[None, :, None]
            changes = {name: torch.where(there, change, 0) for name, change in one.changes.items()}
            of_span = products(plain.universe, changes, one.clean.gradients)
            expected[part.edges] += of_span[: part.edges.stop - part.edges.start] / len(PROMPTS)
    # Llama's own norms and rotary embedding round to float32.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize(
    "method", [EAPIG(steps=2), EAPIGActivations(steps=1), Conductance(steps=2)], ids=lambda m: m.name
)
def test_scores_of_all_spans_add_up_to_those_without(method: Method, tiny_gpt2) -> None:
    plain = compile_model(tiny_gpt2(n_heads=2).double(), verify=False)
    spanned = plain.with_spans(NAMES, asked=NAMES)
    found = scores(spanned, DIVIDED, method)
    parts = [found[part.edges] for part in spanned.universe.parts]
    np.testing.assert_allclose(np.sum(parts, axis=0), scores(plain, PROMPTS, method), atol=1e-9)
    assert sum(bool(np.abs(part).max() > 1e-3) for part in parts) > 1
