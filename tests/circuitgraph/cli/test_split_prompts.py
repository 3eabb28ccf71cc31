"""The prompts that a command measures on: those of a split, and never none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuitgraph.cli.split_prompts import prompts_to_measure
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.models import load_model
from pruning.tasks import load_task


def test_a_split_without_prompts_is_refused_by_name() -> None:
    task = load_task("tracr-reverse", load_model("tracr:reverse").tokenizer, options={"max_length": 3})
    assert prompts_to_measure(task, "test") is task.split("test")
    bare = replace(task, splits={**task.splits, "test": task.split("test").first(0)})
    with pytest.raises(ConfigurationError, match="task tracr-reverse has no test prompts; choose another --split"):
        prompts_to_measure(bare, "test")
    with pytest.raises(UnknownNameError, match="dev"):
        prompts_to_measure(task, "dev")
