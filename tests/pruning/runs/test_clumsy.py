"""What a clumsy or a hostile user gives a run: it is refused by name before any work, or it does no harm."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import pruning.runs.checking.duration
from circuitgraph import compile_model, load_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CheckpointError, CheckpointWarning, ConfigurationError, UnknownNameError
from circuitgraph.stopping import stopping
from pruning import discover, load_task
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.checkpoint import Checkpoints, _sha256
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.checking.duration import time_passes
from pruning.runs.checking.memory import training_memory
from pruning.runs.choice_files import read_recipe_file, read_run_file
from pruning.runs.choices import of_keywords, read_settings
from pruning.runs.rank import rank_edges
from pruning.runs.settings import RunSettings
from pruning.tasks import TaskData

QUICK: dict[str, Any] = {"steps": 4, "n_random": 0, "n_effects": 0, "splits": (), "progress": False}


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)


@pytest.fixture(scope="module")
def task(compiled: CompiledModel) -> TaskData:
    return load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 2})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x = " + b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"[recipe]\nlearning_rate = " + b"9" * 400, "recipe.learning_rate must be a number"),
        (b"[recipe]\nsteps = " + b"9" * 5000, "is no TOML"),
        (b"seed = 0 # \xe9", "is no TOML: 'utf-8'"),
        (b"[settings]\ncache_bytes = '2 Gb'", "must be a number of bytes, such as 1073741824, 512MiB or 1.5GiB"),
        (b"[settings]\ntime_limit_seconds = 'soon'", "must be a time, such as 3h30m, 45m, 90s or 3600"),
        (b"seed = '3'", "seed must be a whole number of at least 0; got '3'"),
        (b"seed = 18446744073709551616", "seed must be at most 18446744073709551615; got 18446744073709551616"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_run_file(path)
    assert str(path) in str(raised.value) and said in str(raised.value)


def test_a_mark_at_the_start_and_units_are_read(tmp_path: Path) -> None:
    """As editors on Windows begin a file, and as `--set` takes numbers."""
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbf[settings]\ncache_bytes = '1.5GiB'\ntime_limit_seconds = '3h30m'\n")
    assert read_run_file(path) == {"settings.cache_bytes": 3 * 2**29, "settings.time_limit_seconds": 12600}


def test_a_description_of_a_run_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[model]\nname = 'gpt2'\n[recipe]\nsteps = 3\n")
    with pytest.raises(ConfigurationError, match="a file that describes a run goes with --like"):
        read_recipe_file(path)


@pytest.mark.parametrize("name", ["model", "task", "settings"])
def test_a_table_is_no_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is a table of settings; name one in it, such as {name}\\."):
        read_settings([f"{name}=3"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cache_bytes=1e9", "must be a number of bytes, such as 1073741824, 512MiB or 1.5GiB; got '1e9'"),
        ("time_limit_seconds=1.5h", "must be a time, such as 3h30m, 45m, 90s or 3600 (seconds) or none; got '1.5h'"),
    ],
)
def test_units_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_settings([text])
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_decay": -1.0}, "weight_decay must be at least 0; got -1.0"),
        ({"multiplier_rate": -1.0}, "multiplier_rate must be at least 0"),
        ({"init_std": -1.0}, "init_std must be at least 0"),
        ({"multiplier_rate": 1e300}, r"multiplier_rate must be at most 1e\+06; got 1e\+300"),
        ({"learning_rate": 1e308}, r"learning_rate must be at most 1e\+06"),
        ({"init_mean": -1e300}, r"init_mean must be at most 1e\+06"),
    ],
)
def test_numbers_that_the_training_could_not_take_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        recipe_named("tracr").changed(**change)


def test_none_for_what_has_to_be_something_is_not_chosen() -> None:
    assert of_keywords({"steps": None, "micro_batch": None}) == {"settings.micro_batch": None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2**64}, "seed must be at most"),
        ({"splits": ("test", "test")}, "splits names test more than once"),
        ({"watch": 3}, "watch must be a function; got 3"),
        ({"preflight": 3}, "preflight must be what pruning.preflight gave, or None; got 3"),
    ],
)
def test_python_is_told_before_any_work(compiled, task, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        discover(compiled, task, **{**QUICK, **change})


def test_ranking_takes_no_empty_ablation_and_no_wild_seed(compiled, task) -> None:
    with pytest.raises(UnknownNameError, match="unknown ablation ''"):
        rank_edges(compiled, task, ablation="")
    with pytest.raises(ConfigurationError, match="seed must be at most"):
        rank_edges(compiled, task, "gate-importance", seed=2**64)


def test_true_is_no_length(compiled) -> None:
    with pytest.raises(ConfigurationError, match="max_length must be a whole number from 1 to 5"):
        load_task("tracr-reverse", compiled.tokenizer, options={"max_length": True})


def test_a_batch_of_more_prompts_than_there_are_is_no_larger_than_they(compiled, task, monkeypatch) -> None:
    """The check before a run times one step: it listed as many prompts as a batch was to have."""
    monkeypatch.setattr(pruning.runs.checking.duration, "_typical", lambda once: once())
    recipe = recipe_named("tracr").changed(batch_size=10**13)
    timed = time_passes(
        compiled, task.split("train"), recipe, objective="kl", ablation="zero", clock=itertools.count().__next__,
        plan=training_memory(compiled, task.split("train"), RunSettings(), batch_size=10**13, ablation="zero"),
    )  # fmt: skip
    assert len(timed.steps) >= 2


def test_a_limit_beyond_all_clocks_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with stopping() as stop, stop.limited(1e30):
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        assert timers and max(timer.interval for timer in timers) <= threading.TIMEOUT_MAX
    assert not failed


# -------------------------------------------------------------------- checkpoints that were made by hand

REQUEST = {"seed": 3}
Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def trainer_of(compiled: CompiledModel, task: TaskData) -> Trainer:
    frozen = FrozenRuns(compiled, task.split("train"), ablation="zero")
    return Trainer(compiled, frozen, recipe_named("tracr").changed(steps=4, batch_size=4), objective="kl", seed=3)


@pytest.fixture(scope="module")
def trainer(compiled: CompiledModel, task: TaskData) -> Trainer:
    """One to give states to."""
    return trainer_of(compiled, task)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, compiled: CompiledModel, task: TaskData) -> Path:
    """Checkpoints after two steps and after three."""
    folder = tmp_path_factory.mktemp("kept") / "checkpoint"
    writing, other = Checkpoints(folder, REQUEST), trainer_of(compiled, task)
    for step in range(3):
        other.step(step)
        writing.keep(other.state())
    return folder


def edited(folder: Path, edit: Edit) -> Checkpoints:
    """With the newest changed, and checksums that fit."""
    path = max(folder.glob("step-*.json"))
    body = json.loads(path.read_text())
    del body["sha256"]
    tensors = load(path.with_suffix(".safetensors").read_bytes())
    edit(body, tensors)
    content = save(tensors)
    body["tensors_sha256"] = hashlib.sha256(content).hexdigest()
    path.with_suffix(".safetensors").write_bytes(content)
    path.write_text(json.dumps({**body, "sha256": _sha256(body)}))
    return Checkpoints(folder, REQUEST)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda body, tensors: body.pop("state"), "it has no 'state'"),
        (lambda body, tensors: body.pop("request"), "it has no 'request'"),
        (lambda body, tensors: body.pop("conditions"), "it has no 'conditions'"),
        (lambda body, tensors: body["state"].update(steps=99), "it is of 3 steps and says 99"),
        (lambda body, tensors: tensors.clear(), "it has no 'record.step'"),
        (lambda body, tensors: tensors.update(queue_sizes=tensors["queue_sizes"] + 1), "split_sizes"),
        (lambda body, tensors: body.update(format_version=9), "of version 9; this circuitgraph reads 1"),
        (lambda body, tensors: body.update(format_version=True), "of version True"),
    ],
)
def test_one_that_lacks_something_gives_way_to_the_one_before(
    tmp_path: Path, kept: Path, edit: Edit, said: str
) -> None:
    checkpoints = edited(shutil.copytree(kept, tmp_path / "checkpoint"), edit)
    with pytest.warns(CheckpointWarning, match=f"{re.escape(said)}.*going on from step 2"):
        found = checkpoints.newest()
    assert found is not None and found.steps == 2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda body, tensors: body["state"].update(n_parameters=0), "it has 0 sets of gates, and the run 1"),
        (lambda body, tensors: tensors.update({"parameter.0": tensors["parameter.0"][:1].clone()}), "other shapes"),
        (lambda body, tensors: tensors.update(multipliers=torch.zeros(4)), "other shapes"),
        (lambda body, tensors: tensors.update({"optimiser.0.exp_avg": torch.zeros(3)}), "other shapes"),
        (lambda body, tensors: tensors["parameter.0"].fill_(np.nan), "NaN or infinite"),
        (lambda body, tensors: tensors["optimiser.0.exp_avg"].fill_(np.inf), "NaN or infinite"),
        (lambda body, tensors: tensors["queue"].fill_(10**6), "it names prompts beyond the run's 12"),
        (lambda body, tensors: body["state"].update(micro_batch=0), "its micro_batch is 0"),
        (lambda body, tensors: body["state"].update(counts={}), "cannot be taken up"),
        (lambda body, tensors: body["state"].update(order_generator={}), "cannot be taken up"),
        (lambda body, tensors: tensors.update(generator=tensors["generator"][:5].clone()), "cannot be taken up"),
    ],
)
def test_one_that_does_not_fit_is_refused(tmp_path: Path, kept: Path, trainer: Trainer, edit: Edit, said: str) -> None:
    state = edited(shutil.copytree(kept, tmp_path / "checkpoint"), edit).newest()
    assert state is not None
    with pytest.raises(CheckpointError, match=said):
        trainer.restore(state)


def test_those_of_a_newer_version_are_not_to_be_removed(tmp_path: Path, kept: Path) -> None:
    folder = shutil.copytree(kept, tmp_path / "checkpoint")
    for path in folder.glob("step-*.json"):
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(CheckpointError, match="of version 2.*go on with the circuitgraph that wrote them"):
        Checkpoints(folder, REQUEST).newest()


def test_gates_that_are_no_numbers_after_a_step_end_the_training_before_it(compiled, task) -> None:
    other = trainer_of(compiled, task)
    first = other.step(0)
    before = other.state()

    def overflow() -> None:
        with torch.no_grad():
            other.gates.log_alpha[3] = np.inf

    other.optimiser.register_step_post_hook(lambda *_: overflow())
    ended = train(other)
    assert ended.stopped_by.startswith("step 1: gates are not finite after it; the state before this step was kept")
    assert list(ended.records) == [first] and torch.equal(other.gates.log_alpha, before.parameters[0])
