"""Exit codes, messages, help: what holds for every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitgraph import __version__
from circuitgraph.cli import failures
from circuitgraph.errors import ConfigurationError, ParityError
from tests.circuitgraph.cli.conftest import call

COMMANDS = (
    "discover", "check", "evaluate", "run", "draw", "sparsity", "compare", "paths", "find", "combine", "export",
    "graph", "bench", "models", "tasks", "recipes",
)  # fmt: skip
HELP = """
import contextlib, io, sys
from circuitgraph.cli import main
said = io.StringIO()
with contextlib.redirect_stdout(said):
    assert main(["--help"]) == 0
assert "discover" in said.getvalue()
print([name for name in ("torch", "transformers", "pandas", "matplotlib") if name in sys.modules])
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["circuitgraph", "circuitgraph.cli"])
def test_it_runs_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"circuitgraph {__version__}\n"), done.stderr


def test_help_lists_every_command_under_what_it_is_for():
    ended = call("--help")
    titles = [line.strip("╭╮─ ") for line in ended.out.splitlines() if line.startswith("╭")]
    assert titles[1:] == [
        "Find a circuit", "Measure circuits", "Look inside one", "Change a model", "Files of circuits", "What there is",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    ended = call(command, "--help")
    assert ended.code == 0
    assert "Usage:" in ended.out
    for option in ("--json",):
        assert option in ended.out


def test_version():
    assert call("--version").out == f"circuitgraph {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("discovre",), "discover"),
        (("discover", "--modle", "x"), "--model"),
        (("models", "--jsn"), "--json"),
        (("graph", "--model", "x", "--tokens", "many"), "--tokens"),
        (("run", "no-such-file.json", "--prompt", "x"), "no-such-file.json"),
    ],
)
def test_a_slip_of_the_pen_is_a_users_error_and_named(arguments, said):
    ended = call(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


def raising(error: BaseException):
    def function(*_, **__):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigurationError("expected this, got that"), 2, "Error: expected this, got that\n"),
        (ParityError("not the model"), 1, "Error: not the model\n"),
        (MemoryError(), 1, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "--dtype bfloat16"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), 1, "--dtype bfloat16"),
        (RuntimeError("std::bad_alloc"), 1, "--dtype bfloat16"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 1, "--dtype bfloat16"),
        (RuntimeError("boom"), 1, "RuntimeError: boom\n"),
        (KeyError("lost"), 1, "--debug models"),
        (KeyboardInterrupt(), 130, "Interrupted; nothing was written.\n"),
    ],
)
def test_what_goes_wrong_ends_with_its_code_and_a_sentence(monkeypatch, error, code, said):
    monkeypatch.setattr("circuitgraph.cli.output.print_table", raising(error))
    ended = call("models")
    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_traceback_can_be_had(monkeypatch, how):
    monkeypatch.setattr("circuitgraph.cli.output.print_table", raising(RuntimeError("boom")))
    if how == "variable":
        monkeypatch.setenv(failures.DEBUG_VARIABLE, "1")
    ended = call(*(["--debug"] if how == "option" else []), "models")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "in function" in ended.err


def test_out_of_memory_on_a_gpu_is_known_by_its_class():
    import torch

    assert failures.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not failures.out_of_memory(RuntimeError("shape mismatch"))
