"""What results show by themselves: figures worked by hand, and hostile names as text."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from pruning.evaluation.card import metrics_line
from pruning.evaluation.evaluate import Evaluation
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.runs.discover import discover
from pruning.runs.discovery import Discovery
from pruning.tasks import TaskData, load_task
from tests.html_reader import read

METRICS = {
    "circuit": {"n": 1200, "kl": 0.2934, "accuracy": 1.0, "exact_match": 0.88, "logit_diff": 7.571},
    "random": {"n": 1200, "n_circuits": 3, "kl": 3.7968, "kl_sd": 0.01, "accuracy": None, "exact_match": 0.0455},
    "full": {"n": 1200, "kl": 0.0, "accuracy": 0.995, "exact_match": 1.0, "logit_diff": 5.234},
}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def task() -> TaskData:
    tokenizer = load_model("tracr:xproportion").tokenizer
    return load_task("tracr-xproportion", tokenizer, options={"max_length": 2})


@pytest.fixture(scope="module")
def found(task: TaskData) -> Discovery:
    compiled = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
    recipe = recipe_named("tracr").changed(steps=2, batch_size=4)
    return discover(compiled, task, recipe, splits=("test",), n_random=0)


def test_an_evaluation_is_a_line_and_a_table() -> None:
    evaluation = Evaluation(metrics=METRICS, examples=pd.DataFrame())
    told = "KL (nats) 0.293, accuracy 100.0 %, exact match 88.0 %, logit difference 7.57 on 1,200 prompts"
    assert repr(evaluation) == f"<Evaluation: {told}>"
    shown = read(evaluation._repr_html_())
    assert shown.texts == ["Evaluation on 1,200 prompts"]
    assert shown.rows == [
        ["", "KL (nats)", "accuracy", "exact match", "logit difference"],
        ["circuit", "0.293", "100.0 %", "88.0 %", "7.57"],
        ["full", "0.000", "99.5 %", "100.0 %", "5.23"],
        ["random, mean of 3", "3.797", "", "4.5 %", ""],
    ]


def test_numbers_are_compared_by_their_error() -> None:
    assert metrics_line({"circuit": {"n": 3, "mse": 0.01234, "accuracy": 0.5}}) == (
        "mean squared error 0.0123, accuracy 50.0 % on 3 prompts"
    )


def test_a_task_says_its_sizes_and_shows_a_prompt(task: TaskData) -> None:
    # All inputs of one and two tokens of four: 4 + 16, with a beginning-of-sequence token.
    assert repr(task) == "<Task tracr-xproportion: 20 train, 20 validation, 20 test prompts; objective mse>"
    shown = read(task._repr_html_())
    assert shown.rows[0] == ["split", "prompts", "tokens"]
    assert ["train", "20", "2 to 3"] in shown.rows
    hostile = read(replace(task, name=HOSTILE)._repr_html_())
    assert hostile.texts[0] == f"Task {HOSTILE}, compared by mse"
    assert "script" not in hostile.tags


def test_a_discovery_shows_figures_diagnoses_and_circuit(found: Discovery) -> None:
    against = [{"name": "few-prompts", "severity": "doubt", "text": f"few {HOSTILE}"}]
    metrics = {**found.metrics, "splits": {HOSTILE: found.metrics["splits"]["test"]}, "verdicts": against}
    hostile = replace(found, diagnoses=(HOSTILE,), metrics=metrics)
    shown = read(hostile._repr_html_())
    seconds = f"2 steps; {found.metrics['seconds']:.0f} s"
    assert shown.texts[:5] == ["Discovery", seconds, f"few {HOSTILE}", HOSTILE, HOSTILE]
    assert hostile.verdicts == (f"few {HOSTILE}",) and "verdicts against it: 1" in repr(hostile)
    assert f"Circuit of {len(found.circuit)} edge" in " ".join(shown.texts)
    assert "script" not in shown.tags
    assert "curve" not in repr(found) and f"<Circuit of {len(found.circuit)} of 32 edges" in repr(found)
