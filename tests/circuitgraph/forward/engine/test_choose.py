"""Which kernels a device, a number format and an installation have."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.forward.engine import choose as kernels
from circuitgraph.forward.engine.choose import cpu_kernels, kernels_on


def test_other_devices_than_a_gpu_have_no_kernels_of_a_gpu() -> None:
    assert kernels_on(torch.device("cpu")) is None and kernels_on(torch.device("meta")) is None


def test_what_the_cpus_kernels_take() -> None:
    pytest.importorskip("numba")
    rows = torch.ones(3, 4, 5)
    assert cpu_kernels(rows, rows[1:]) is not None and cpu_kernels(rows.double()) is not None
    for other in (rows.bfloat16(), rows.half(), rows[:, ::2], rows[..., 1:], rows.to("meta")):
        assert cpu_kernels(other) is None
    assert cpu_kernels(rows, rows.double()) is None and cpu_kernels(rows, rows[:, 1:]) is None


def test_a_model_says_whether_it_has_them(tiny_gpt2) -> None:
    pytest.importorskip("numba")
    model = tiny_gpt2()
    compiled = compile_model(model, verify=False)
    assert compiled.uses_cpu_kernels and not compile_model(model.bfloat16(), verify=False).uses_cpu_kernels


@pytest.fixture
def asked_anew():
    kernels._cpu_package.cache_clear()
    yield
    kernels._cpu_package.cache_clear()


def test_the_switch(monkeypatch: pytest.MonkeyPatch, asked_anew: None) -> None:
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert cpu_kernels(torch.ones(2)) is None


def test_kernels_that_are_wrong_are_warned_about_and_left_out(monkeypatch: pytest.MonkeyPatch, asked_anew) -> None:
    pytest.importorskip("numba")
    from circuitgraph.forward.engine import cpu

    monkeypatch.setattr(cpu.products, "mix", lambda *a, **k: None)
    with pytest.warns(UserWarning, match=f"pip install -U numba, or {kernels.SWITCH}=0"):
        assert cpu_kernels(torch.ones(2)) is None


def test_without_numba_torch_does_it_all() -> None:
    code = (
        "import sys, torch, numpy\n"
        "sys.modules['numba'] = None\n"
        "from circuitgraph.forward.engine import plain, cpu\n"
        "from circuitgraph.forward.engine.choose import cpu_kernels\n"
        "one = torch.ones(1, 1, 1)\n"
        "assert cpu.numba is None and cpu_kernels(one) is None\n"
        "plain.add_mixed(one, one[0], one, numpy.ones((1, 1)))\n"
        "assert one.item() == 2"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_looking_at_a_model_leaves_the_compilers_alone() -> None:
    """Importing Numba or Triton takes a second or so; who only looks at a graph does not wait for it."""
    code = (
        "import sys, circuitgraph.compiled.compile, circuitgraph.forward.masked\n"
        "assert 'numba' not in sys.modules, 'numba'\n"
        "assert 'circuitgraph.forward.engine.cpu' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
