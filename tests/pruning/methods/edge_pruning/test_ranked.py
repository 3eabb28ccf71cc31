"""Trained gates as methods: the numbers of the trainer itself, and nothing of a training that was ended."""

from __future__ import annotations

import pytest
import torch

import pruning.methods.edge_pruning.ranked as ranked
from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import TrainingError
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import TrainingRun, train
from pruning.methods.edge_pruning.ranked import EdgePruning, Nested
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.rank import rank_edges
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4, 5], n_asked=(1, 2))


@pytest.fixture(scope="module")
def compiled(tiny_gpt2):
    return compile_model(tiny_gpt2(), verify=False)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        (Nested(steps=3, prompts=2), recipe_named("nested").changed(steps=3, batch_size=2)),
        (EdgePruning(steps=3, sparsity=0.8), recipe_named("quick").changed(steps=3, target_sparsity=0.8)),
    ],
)
def test_scores_are_the_trainers(compiled, method, recipe) -> None:
    scores = rank_edges(compiled, PROMPTS, method, seed=5)
    trainer = Trainer(
        compiled, FrozenRuns(compiled, PROMPTS, ablation="counterfactual"), recipe, objective="kl", seed=5
    )
    gates = train(trainer).gates
    assert torch.equal(torch.tensor(scores.values).float(), gates.log_alpha.detach())
    assert scores.estimates == LOG_ALPHA and scores.provenance["objective"] == "kl"


def test_a_training_that_ended_early_gives_no_scores(compiled, monkeypatch) -> None:
    def ended(trainer, **how) -> TrainingRun:
        return TrainingRun(gates=trainer.gates, records=(), interrupted=how.pop("interrupted"), stopped_by="why")

    for interrupted, error in ((True, KeyboardInterrupt), (False, TrainingError)):
        monkeypatch.setattr(ranked, "train", lambda trainer, stop, i=interrupted: ended(trainer, interrupted=i))
        with pytest.raises(error):
            rank_edges(compiled, PROMPTS, Nested(steps=2))
