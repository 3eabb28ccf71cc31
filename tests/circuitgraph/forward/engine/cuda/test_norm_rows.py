"""Norms by kernels, in Triton's interpreter on the CPU, against the definition in float64."""

from __future__ import annotations

import json

import pytest

from tests.circuitgraph.forward.engine.cuda.interpreter import failures

pytestmark = pytest.mark.slow
pytest.importorskip("triton", reason="norms by kernels need triton, which comes with torch for CUDA")

_CHECK = """
import torch
from circuitgraph.forward.engine.cuda import norms as kernels

width, dtype, centred = case[0], getattr(torch, case[1]), case[2]
draw = torch.Generator().manual_seed(0)
x = torch.randn(3, 5, width, generator=draw).add_(0.5).to(dtype)
gradient = torch.randn(3, 5, width, generator=draw).to(dtype)
weight = torch.randn(width, generator=draw).to(dtype)
bias = torch.randn(width, generator=draw).to(dtype) if centred else None

leaf = x.double().requires_grad_()
given = leaf - leaf.mean(-1, keepdim=True) if centred else leaf
expected = given * (given.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * weight.double()
expected = expected + bias.double() if centred else expected
(pulled,) = torch.autograd.grad(expected, leaf, gradient.double())

out = torch.full_like(x, torch.nan)
kept = kernels.norm_rows(x, weight, bias, 1e-3, out)
back = gradient.clone()
kernels.norm_rows_back(x, weight, kept, back, back, centred=centred)
# Work is done in float32. Of bfloat16's eight bits the interpreter cuts off what does not fit: up to 2^-7, twice.
close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 2**-6}
torch.testing.assert_close(out.double(), expected.detach(), **close)
torch.testing.assert_close(back.double(), pulled, **close)
again = x.clone()
kernels.norm_rows(again, weight, bias, 1e-3, again)
assert torch.equal(again, out), "in place"
"""


CASES = [
    (width, dtype, centred)
    for centred in (False, True)
    for width, dtype in ((48, "float32"), (64, "float32"), (200, "bfloat16"))
]


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    return failures(_CHECK, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_and_their_gradients(case: tuple[int, str, bool], told: dict[str, str]) -> None:
    assert told[json.dumps(case)] == ""
