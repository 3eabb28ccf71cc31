"""Norms by kernels, in Triton's interpreter on the CPU, against the definition in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("triton", reason="norms by kernels need triton, which comes with torch for CUDA")

_CHECK = """
import sys
import torch
from circuitgraph.forward.engine.cuda import norms as kernels

width, dtype, centred = int(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3] == "True"
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


@pytest.mark.parametrize("centred", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize(("width", "dtype"), [(48, "float32"), (64, "float32"), (200, "bfloat16")])
def test_rows_and_their_gradients(width: int, dtype: str, centred: bool):
    ran = subprocess.run(
        [sys.executable, "-c", _CHECK, str(width), dtype, str(centred)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
