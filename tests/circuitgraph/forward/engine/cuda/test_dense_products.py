"""Dense products by kernels, in Triton's interpreter on the CPU, against float64."""

from __future__ import annotations

import json

import pytest

from tests.circuitgraph.forward.engine.cuda.interpreter import failures

pytestmark = pytest.mark.slow
pytest.importorskip("triton", reason="products by kernels need triton, which comes with torch for CUDA")

_CHECK = """
import torch
from circuitgraph.forward.engine.cuda import dense as kernels

n_to, n_from, positions, width, dtype = *case[0], getattr(torch, case[1])
kernels.CHUNK = 256
draw = torch.Generator().manual_seed(0)
buffer = torch.randn(n_to + n_from + 3, positions, width, generator=draw).to(dtype)
rows, out = buffer[2 : 2 + n_from], torch.randn(n_to, positions, width, generator=draw).to(dtype)
coefficients = torch.randn(n_from, n_to, generator=draw).to(dtype).T
one = torch.randn(positions, width, generator=draw).to(dtype)
product = torch.einsum("ts,scw->tcw", coefficients.double(), rows.double())
# Products and sums are float32, what is stored has eleven bits.
close = {"rtol": 2**-10, "atol": 2**-10}
for base in (None, one, out):
    into = torch.full_like(out, torch.nan) if base is not out else out.clone()
    kernels.mix_dense(into, into if base is out else base, coefficients, rows)
    expected = product if base is None else product + base.double()
    torch.testing.assert_close(into.double(), expected, **close)
found = kernels.dots_dense(out, rows)
expected = torch.einsum("tcw,scw->ts", out.double(), rows.double())
torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
"""


# The interpreter does not multiply bfloat16; a GPU is asked by `tests/benchmarks/gpu.py`.
CASES = [(sizes, "float16") for sizes in ((1, 1, 1, 8), (3, 70, 5, 24), (36, 33, 9, 32), (17, 130, 3, 100))]


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    return failures(_CHECK, CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixing_and_dots(case: tuple[tuple[int, ...], str], told: dict[str, str]) -> None:
    assert told[json.dumps(case)] == ""
