"""The command line and Python give the same run: the same defaults, circuit and provenance; and it can be run again."""

from __future__ import annotations

import inspect
import json
import sys
import tomllib
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pruning.methods.edge_pruning.train
from circuitgraph import compile_model, load_model
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning import discover, load_task
from pruning.runs.load import read_run
from tests.circuitgraph.cli.conftest import TRACR, call

MOST = 8
UNLIKE = {"seconds"}
WAY = (
    "circuitgraph.cli.discover", "circuitgraph.cli.check", "circuitgraph.cli.study", "circuitgraph.cli.study_job",
    "circuitgraph.cli.job", "circuitgraph.cli.option_groups", "pruning.runs.choices", "pruning.runs.decide",
    "pruning.runs.load", "pruning.runs.run", "pruning.runs.discover", "pruning.runs.stages", "pruning.runs.measuring",
    "pruning.runs.trained_run", "pruning.runs.ranked_run", "pruning.runs.decide_method",
    "pruning.runs.checking.preflight", "pruning.runs.checking.memory", "pruning.runs.checking.requirements",
    "pruning.regimes.study", "pruning.regimes.training", "pruning.regimes.planned", "pruning.frozen.runs",
    "pruning.execution.batch_run", "pruning.methods.edge_pruning.train", "pruning.methods.edge_pruning.loop",
)  # fmt: skip


SMALL = (*TRACR, "--task-option", "max_length=3")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    """A result of a short run on a program's shortest inputs."""
    folder = tmp_path_factory.mktemp("results") / "small"
    ended = call(*SMALL, "--out", folder)
    assert ended.code == 0, ended.err
    return folder


def told(circuit: Circuit) -> dict[str, Any]:
    """A circuit's provenance without what differs between any two runs."""
    plain = json.loads(json.dumps(dict(circuit.provenance)))
    return {name: value for name, value in plain.items() if name not in UNLIKE}


@pytest.mark.slow
def test_a_program_found_from_python_is_that_of_the_command_line(result):
    loaded = load_model("tracr:reverse")
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    compiled = compile_model(loaded, embeddings="split")
    found = discover(compiled, task, steps=20, n_random=1)
    saved = Circuit.load(result / "circuit.json")
    assert found.circuit == saved
    assert told(found.circuit) == told(saved)
    assert (found.request.recipe.name, found.request.ablation) == ("tracr", "zero")


@pytest.mark.slow
def test_so_is_one_of_a_model_that_reads_text(text_run, text_model, text_prompts, tmp_path):
    ended = call(*text_run, "--n-random", 1, "--set", "micro_batch=1", "--out", tmp_path / "x")
    assert ended.code == 0, ended.err
    saved = Circuit.load(tmp_path / "x" / "circuit.json")
    asked = read_run(tmp_path / "x").request
    loaded = load_model(str(text_model))
    task = load_task(f"jsonl:{text_prompts}", loaded.tokenizer)
    compiled = compile_model(loaded)
    found = discover(compiled, task, asked.recipe, n_random=1, micro_batch=1)
    assert found.circuit == saved
    assert told(found.circuit) == told(saved)
    assert saved.provenance["memory"]["micro_batch"] == 1


@pytest.mark.slow
def test_a_result_can_be_made_again_from_its_own_description(result, tmp_path):
    ended = call("discover", "--like", result, "--out", tmp_path / "again")
    assert ended.code == 0, ended.err
    first, again = (Circuit.load(folder / "circuit.json") for folder in (result, tmp_path / "again"))
    assert first == again and told(first) == told(again)
    files = [(folder / "run.toml").read_text() for folder in (result, tmp_path / "again")]
    assert files[0] == files[1]
    assert tomllib.loads(files[0])["recipe"]["steps"] == 20


def dry(*arguments: object) -> dict[str, Any]:
    ended = call("discover", *arguments, "--out", "never/made", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    return ended.json


@pytest.mark.slow
def test_options_win_over_an_earlier_run_and_set_over_options(result):
    found = dry("--like", result, "--steps", 7, "--set", "seed=4", "--set", "recipe.learning_rate=0.5")
    request = found["request"]
    assert (request["recipe"]["steps"], request["recipe"]["learning_rate"]) == (7, 0.5)
    assert (request["seed"], request["n_random"]) == (4, 1)
    assert request["task"]["seed"] == 0  # the prompts stay those of the earlier run
    assert dry("--like", result, "--recipe", "paper-tracr-reverse")["recipe"]["steps"] == 6000
    assert dry(*SMALL[1:], "--steps", 7, "--set", "steps=9")["recipe"]["steps"] == 9


def test_a_recipe_from_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base = "quick"\nname = "mine"\nsteps = 12\nkeep = "minimal"\n')
    found = dry(*TRACR[1:5], "--task-option", "max_length=3", "--recipe", file)
    assert (found["recipe"]["name"], found["recipe"]["steps"], found["recipe"]["keep"]) == ("mine", 12, "minimal")
    assert (found["recipe"]["ramp_steps"], found["ablation"]) == (8, "zero")  # scaled from 250 of 400


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "stps=3"), "unknown setting 'stps'; did you mean 'steps'"),
        (("--set", "steps=3.5"), "recipe.steps must be a whole number of at least 0; got '3.5'"),
        (("--set", "settings.device=gpu"), "cuda"),
        (("--recipe", "none/such.toml"), "none/such.toml cannot be read"),
        (("--like", "none/such"), "none/such cannot be read"),
        (("--recipe", "quik"), "did you mean 'quick'"),
    ],
)
def test_what_cannot_be_is_said(arguments, said):
    ended = call(*TRACR, *arguments, "--out", "never/made")
    assert ended.code == 2
    assert said in ended.err


def test_without_a_task_or_a_model_it_is_asked_for():
    ended = call("discover", "--task", "ioi", "--out", "never/made")
    assert ended.code == 2 and "which model? Give --model" in ended.err
    ended = call("check", "--model", "tracr:reverse")
    assert ended.code == 2 and "which task? Give --task" in ended.err


def test_python_refuses_what_it_does_not_know():
    loaded = load_model("tracr:reverse")
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    compiled = compile_model(loaded, embeddings="split", verify=False)
    untyped: Any = discover
    with pytest.raises(UnknownNameError, match="unknown setting 'n_randm'; did you mean 'n_random'"):
        untyped(compiled, task, n_randm=3)
    with pytest.raises(ConfigurationError, match="device is decided already: it belongs to the model or the prompts"):
        untyped(compiled, task, device="cuda")


# -------------------------------------------------------------------- nothing is handed through one by one


def n_parameters(function: Any) -> int:
    code = inspect.unwrap(function).__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    many = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return len([name for name in names if name not in ("self", "cls")]) + many


def functions_of(module: Any) -> dict[str, Any]:
    """Functions and methods that a module defines; what makes a dataclass is written by Python."""
    found = {}
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            found[name] = value
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for method, one in vars(value).items():
                if inspect.isfunction(one) and not (is_dataclass(value) and method == "__init__"):
                    found[f"{name}.{method}"] = one
    return found


@pytest.mark.parametrize("name", WAY)
def test_no_function_of_a_run_takes_many_parameters(name):
    module = import_module(name)
    every = functions_of(module)
    assert every
    assert {one: n_parameters(function) for one, function in every.items() if n_parameters(function) > MOST} == {}


@pytest.mark.slow
def test_none_on_the_way_from_the_command_line_to_a_step_does(monkeypatch, tmp_path):
    """The functions that are running when the first step is taken."""
    way: list[tuple[str, int]] = []

    def step(self, index):
        frame = sys._getframe(1)
        while frame is not None:
            path, code = Path(frame.f_code.co_filename), frame.f_code
            if {"pruning", "circuitgraph"} & set(path.parts) and "tests" not in path.parts:
                names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
                way.append((f"{path.name}:{code.co_name}", len([one for one in names if one != "self"])))
            frame = frame.f_back
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning.methods.edge_pruning.train.Trainer, "step", step)
    assert call(*SMALL, "--out", tmp_path / "x").code == 130
    names = [name for name, _ in way]
    assert names[0] == "loop.py:train"
    assert {"trained_run.py:train_gates", "discover.py:run_discovery", "discover.py:discover"} <= set(names)
    assert max(n for _, n in way) <= MOST, way
