"""Gate gradients in bfloat16: as good as careful bfloat16 arithmetic can make them, which is not very good.

A gate's gradient is made of Δ = y − ỹ. Both are words of eight bits, rounded apart, and where they are near to each
other little is left of these bits: one rounding of what every writer says, with all else in float64, is enough to
put the gradients of sparse circuits off by 15 % (docs/performance.md). So the yardstick is the definition with
every sum in float32 and only what the model's own modules take and give in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.plain import PlainEngine
from tests.circuitgraph.forward.situations import BothWays, Situation, mix_by
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers

SIZES = {"n_layers": 2, "d_head": 16}
SEEDS = range(16)


def careful_definition(compiled: CompiledModel) -> oracle.PlainModel:
    """The definition with float32 sums between the model's own modules, which take and give bfloat16."""
    narrow, wide = (oracle.plain_model(compiled.model, dtype) for dtype in (torch.bfloat16, torch.float32))
    bound = compiled.bound

    def own(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: run(x.bfloat16())

    layers = [
        replace(layer, norm_attention=own(block.attention_norm), norm_mlp=own(block.mlp_norm), mlp=own(block.mlp))
        for layer, block in zip(narrow.layers, bound.blocks, strict=True)
    ]
    return replace(
        narrow,
        layers=layers,
        logits=own(lambda x: bound.unembed(bound.final_norm(x))),
        rotate=lambda x: wide.rotate(x.float()).bfloat16(),
    )


@pytest.mark.parametrize("way", ["rows", "dense"])
def test_long_sums_keep_small_terms(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 256 + 1 is 256, so adding 40 ones one after the other would change nothing."""
    mix_by(way, monkeypatch)
    ones = torch.ones(40, 9, 5, dtype=torch.bfloat16)
    out = torch.full((2, 9, 5), 256.0, dtype=torch.bfloat16)
    every = torch.tensor([[1.0] * 40, [0.5] * 40], dtype=torch.bfloat16)
    engine = PlainEngine()
    engine.mix(out, out, Coefficients(matrix=every, host=every.double().numpy()), ones)
    assert out[0].unique().tolist() == [296.0] and out[1].unique().tolist() == [276.0]
    long = torch.ones(1, 8, 64, dtype=torch.bfloat16)
    assert engine.dots(long, long, Pairs(wanted=np.ones((1, 1), dtype=bool))).item() == 512


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize(("case", "kept"), [("gpt2", 0.1), ("llama-gqa", 0.9)])
def test_no_worse_than_careful_bfloat16(case: str, kept: float, tiny_gpt2, tiny_llama) -> None:
    """Errors in norm scatter from prompt to prompt, so their geometric means are compared."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.bfloat16, **SIZES)
    exact, careful = oracle.plain_model(compiled.model), careful_definition(compiled)
    logarithms = []
    for seed in SEEDS:
        situation = Situation("mixture", 0.05, kept, "counterfactual", "none", (7,), 1, seed)
        both = BothWays(compiled, exact, situation)
        gates = both.gates
        every = torch.ones(len(gates), dtype=torch.bool)
        truth = both.gradients(both.definition, gates)[1]
        if truth.norm() < 1e-9:  # nothing that differs is before the answer
            continue
        ours = both.gradients(lambda z, both=both, every=every: both.executor(z, every), gates.float())[1]
        narrow = replace(both, plain=careful)
        theirs = narrow.gradients(narrow.definition, gates.float())[1]
        logarithms.append(torch.tensor([error(ours, truth), error(theirs, truth)]).log())
    found, yardstick = torch.stack(logarithms).mean(0).exp().tolist()
    assert len(logarithms) > 6
    assert found <= 1.5 * yardstick
