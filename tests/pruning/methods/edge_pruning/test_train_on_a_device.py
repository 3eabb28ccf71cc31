"""Training on a device: the same gates as on the host, and the host waits once a step, for the gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models import load_model
from pruning.execution.step_settings import StepSettings
from pruning.frozen.disk import DiskCache
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.discover import discover
from pruning.tasks import load_task
from tests.pretend_device import PretendDevice
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, RECIPES, learnt
from tests.pruning.prompts.small_prompts import random_prompts

LENGTHS = [4, 5, 4, 5, 4, 4]


def trainer_of(
    compiled: CompiledModel,
    recipe: Recipe,
    *,
    objective: str = "kl",
    ablation: str = "counterfactual",
    lengths: list[int] = LENGTHS,
    frozen: dict[str, Any] | None = None,
    **how: Any,
) -> Trainer:
    prompts = random_prompts(lengths=lengths, n_asked=(1, 2), wrong=True)
    runs = FrozenRuns(compiled, prompts, ablation=ablation, **(frozen or {}))
    recipe = replace(recipe, warm_start_batches=1)
    return Trainer(compiled, runs, recipe, objective=objective, seed=0, how=StepSettings(**how))


HELD = replace(BUDGET, warm_start="none")
SITUATIONS: dict[str, tuple[Recipe, dict[str, Any]]] = {
    "two draws": (replace(HELD, draws=2), {}),
    "one prompt at once": (HELD, {"micro_batch": 1}),
    "recomputed": (HELD, {"recompute": True}),
    "likeliest tokens": (LAGRANGIAN, {"frozen": {"teacher_top_k": 5}}),
    "nothing kept": (LAGRANGIAN, {"frozen": {"budget_bytes": 0}}),
    "some kept": (LAGRANGIAN, {"frozen": {"budget_bytes": 20_000}}),
    "zero": (LAGRANGIAN, {"ablation": "zero"}),
    "mean": (HELD, {"ablation": "mean"}),
    "mean-positional": (LAGRANGIAN, {"ablation": "mean-positional", "lengths": [5] * 6}),
    **{name: (LAGRANGIAN, {"objective": name}) for name in ("kl-top1", "logit-diff", "cross-entropy", "mse")},
    "position-kl": (LAGRANGIAN, {"objective": "position-kl"}),
}


def waits_of_a_step(trainer: Trainer, device: PretendDevice) -> list[str]:
    trainer.step(0)
    device.waits.clear()
    assert trainer.step(1).undecided > 0
    return device.waits


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["lagrangian", *(pytest.param(name, marks=pytest.mark.slow) for name in ("budget", "writers"))]
)
@pytest.mark.slow
def test_the_same_gates_as_on_the_host_and_one_wait_a_step(name: str, family: str, tiny_gpt2, tiny_llama) -> None:
    make = {"gpt2": tiny_gpt2, "llama": tiny_llama}[family]
    expected = learnt(train(trainer_of(compile_model(make(), verify=False), RECIPES[name])))
    with PretendDevice() as device:
        compiled = compile_model(device.send_model(make()))
        assert len(waits_of_a_step(trainer_of(compiled, RECIPES[name]), device)) == 1, device.waits
        found = learnt(train(trainer_of(compiled, RECIPES[name])))
    for a, b in zip(found, expected, strict=True):
        # AdamW divides by the size of the gradient, so that rounding in small ones shows.
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SITUATIONS)
def test_one_wait_a_step_whatever_the_settings(name: str, tiny_gpt2) -> None:
    recipe, how = SITUATIONS[name]
    with PretendDevice() as device:
        compiled = compile_model(device.send_model(tiny_gpt2()), verify=False)
        assert len(waits_of_a_step(trainer_of(compiled, recipe, **how), device)) == 1, device.waits


def test_one_wait_a_step_with_runs_on_disk(tiny_gpt2, tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, budget_bytes=10 << 20)
    with PretendDevice() as device:
        compiled = compile_model(device.send_model(tiny_gpt2()), verify=False)
        trainer = trainer_of(compiled, LAGRANGIAN, frozen={"budget_bytes": 0, "disk": disk})
        assert len(waits_of_a_step(trainer, device)) == 1, device.waits
        assert trainer.runner.frozen.drawn.disk == trainer.runner.frozen.drawn.total > 0


def test_one_wait_a_step_in_bfloat16(tiny_llama) -> None:
    with PretendDevice() as device:
        compiled = compile_model(device.send_model(tiny_llama(dtype=torch.bfloat16)), verify=False)
        assert len(waits_of_a_step(trainer_of(compiled, HELD), device)) == 1, device.waits


@pytest.mark.slow
def test_the_main_job_on_a_device() -> None:
    """Training, keeping, evaluation and baselines, of which only training counts its waits."""
    recipe = recipe_named("tracr").changed(steps=5, target_sparsity=0.5)
    with PretendDevice() as device:
        found = []
        for there in (False, True):
            loaded = load_model("tracr:xproportion")
            if there:
                device.send_model(loaded.model)
            compiled = compile_model(loaded, embeddings="split")
            task = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3})
            found.append(discover(compiled, task, recipe, seed=3, n_random=1))
    host, away = found
    assert away.circuit.mask.tolist() == host.circuit.mask.tolist()
    for role in ("circuit", "empty"):
        ours, theirs = (one.metrics["splits"]["test"][role] for one in (away, host))
        assert ours["mse"] == pytest.approx(theirs["mse"], rel=1e-5)
        assert ours["accuracy"] == theirs["accuracy"]
    assert theirs["mse"] > 0
