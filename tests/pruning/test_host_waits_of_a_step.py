"""How often the host waits for the device in a training step: once for the gates, once for the step's numbers."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.compile import compile_model
from tests.circuitgraph.test_host_waits import Waits
from tests.pruning.test_train import LAGRANGIAN, RECIPES, trainer_of


@pytest.mark.parametrize("name", ["lagrangian", "writers"])
def test_two_waits_a_step(name: str, tiny_gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second list is of the multipliers, which lie on the host, as AdamW's counts of steps do on any device."""
    trainer = trainer_of(compile_model(tiny_gpt2(), verify=False), RECIPES[name])
    trainer.step(0)
    with Waits(monkeypatch) as waits:
        record = trainer.step(1)
    assert record.undecided > 0
    counts = ["aten._local_scalar_dense.default"] * (len(trainer.gates.parameters) + 1)
    assert (waits.to_host, waits.found) == (1, ["tolist", *counts, "tolist"])


def test_every_recipe_reads_the_same_numbers(tiny_gpt2) -> None:
    """What is read at once is what single readings say."""
    trainer = trainer_of(compile_model(tiny_gpt2(), verify=False), LAGRANGIAN)
    kept = trainer.gates.sample
    drawn = []
    trainer.gates.sample = lambda *args, **kwargs: drawn.append(kept(*args, **kwargs)) or drawn[-1]  # type: ignore[method-assign]
    record = trainer.step(0)
    (sample,) = drawn
    assert record.undecided == sample.undecided == int(((sample.edges > 0) & (sample.edges < 1)).sum())
    assert record.sparsity == float(sample.sparsity.detach())
    assert isinstance(record.loss, float) and torch.tensor(record.loss).isfinite()
