"""The masked executor on Tracr models against the slow oracle: every cut, on every prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from conftest import Oracle

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def padded(oracle: Oracle, side: str) -> TokenBatch:
    """All prompts in one batch, each asked after BOS."""
    width = oracle.config["n_positions"]
    pad = oracle.config["tokens"].index(oracle.config["pad_token"])
    ids, real = [], []
    for same_length in oracle.prompts():
        gap = width - same_length.shape[1]
        around = ((0, 0), (gap, 0) if side == "left" else (0, gap))
        ids.append(np.pad(same_length, around, constant_values=pad))
        real.append(np.pad(np.ones_like(same_length), around))
    mask = torch.from_numpy(np.concatenate(real))
    index = ((mask.cumsum(-1) > 1) & mask.bool()).flatten().nonzero()[:, 0]
    tokens = torch.from_numpy(np.concatenate(ids))
    return TokenBatch(input_ids=tokens, attention_mask=mask, predict_index=index, predict_prompt=index // width)


def run(compiled: CompiledModel, batch: TokenBatch, cut: set[str]) -> np.ndarray:
    """Logits with some edges' messages replaced by zero."""
    wide = torch.float64 if compiled.dtype == torch.float64 else torch.float32
    gates = torch.ones(compiled.universe.n_edges, dtype=wide)
    for edge in cut:
        gates[compiled.universe.edge_index(*edge.split("->"))] = 0
    with torch.no_grad():
        values = compiled.ablation_values("zero")
        return compiled.masked(gates, batch, values).logits.double().numpy()


def flat(outputs: list[np.ndarray]) -> np.ndarray:
    """The oracle's outputs, one row an asked position."""
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in outputs])


@pytest.mark.parametrize(("dtype", "side"), [("float64", "left"), ("float32", "right")])
def test_every_single_cut_agrees_with_the_oracle(oracle: Oracle, dtype: str, side: str) -> None:
    model = load_model(f"tracr:{oracle.program.name}", dtype=dtype)
    compiled = compile_model(model, embeddings="split")
    assert compiled.universe.n_edges == len(oracle.edges())
    batch, asked = padded(oracle, side), flat(oracle.asked)
    for edge, expected in oracle.single_cuts.items():
        found = run(compiled, batch, {edge})
        np.testing.assert_allclose(found * asked, flat(expected), rtol=0, atol=TOLERANCE[dtype], err_msg=edge)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ground_truth_alone_reproduces_every_answer(any_oracle: Oracle, dtype: str) -> None:
    oracle = any_oracle
    model = load_model(f"tracr:{oracle.program.name}", dtype=dtype)
    compiled = compile_model(model, embeddings="split")
    cut = set(oracle.edges()) - ground_truth_edges(oracle.program.name)
    found, asked = run(compiled, padded(oracle, "right"), cut), flat(oracle.asked)
    np.testing.assert_allclose(found * asked, flat(oracle.expected()), rtol=0, atol=1e-4)
