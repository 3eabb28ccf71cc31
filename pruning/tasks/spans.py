"""A task whose prompts are divided into spans of token positions, for a model with an edge for each of them.

```python
task = load_task("ioi", tokenizer).with_spans()
compiled = compiled.with_spans(task.spans, asked=task.asked_spans)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.spans import POSITIONS, TASK, asked_spans, divided

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from pruning.tasks.loading import TaskData


def divided_task(task: TaskData, how: str) -> TaskData:
    """A task whose batches say which token is in which span.

    Args:
        task: The task.
        how: `task`: the spans that its prompts name; `positions`: one for each position, for prompts of one length.

    Raises:
        UnknownNameError: There is no such way.
        PromptFormatError: Prompts name no spans, or not the same ones, or have not one length.
        ConfigurationError: The task is divided already.

    Examples:
        >>> from circuitgraph import load_model
        >>> from pruning import load_task
        >>> task = load_task("ioi-t1", load_model("smollm2-135m").tokenizer, sizes={"train": 4}).with_spans()
        >>> task.spans, task.asked_spans
        (('start', 'name1', 'name2', 'subject', 'end'), ('end',))
    """
    if task.spans:
        raise ConfigurationError(f"task {task.name} is divided into spans already: {', '.join(task.spans)}")
    splits, first, names, asked = {}, "", (), set()
    for name, pairs in task.splits.items():
        if not len(pairs):
            splits[name] = pairs
            continue
        splits[name] = divided(pairs, how)
        asked |= asked_spans(splits[name])
        if first and splits[name].divided_by != names:
            raise PromptFormatError(
                f"task {task.name}: the {name} prompts have the spans {', '.join(splits[name].divided_by)}, and the "
                f"{first} prompts {', '.join(names)}; all prompts must have the same spans"
            )
        first, names = first or name, splits[name].divided_by
    return replace(
        task, splits=splits, spans=names, asked_spans=tuple(name for name in names if name in asked),
        provenance={**task.provenance, "spans": how},
    )  # fmt: skip


def divided_as(task: TaskData, spans: Sequence[str]) -> TaskData:
    """A task divided into the spans of a circuit, where nothing says how that circuit's prompts were divided.

    Args:
        task: The prompts; they come back as they are where they are divided already.
        spans: The circuit's: `p0`, `p1` and so on are positions, others are those that prompts name themselves.

    Raises:
        PromptFormatError: The prompts cannot be divided so.
        ConfigurationError: They have other spans.
    """
    if spans and not task.spans:
        of_positions = list(spans) == [f"p{place}" for place in range(len(spans))]
        task = divided_task(task, POSITIONS if of_positions else TASK)
    if tuple(spans) != task.spans:
        raise ConfigurationError(
            f"the circuit has {_told(spans)}, and the prompts of task {task.name} have {_told(task.spans)}; it can be "
            "measured on prompts with the same spans alone"
        )
    return task


def _told(spans: Sequence[str]) -> str:
    return f"the spans {', '.join(spans)}" if spans else "no spans"


def with_spans_of(compiled: CompiledModel, task: TaskData) -> CompiledModel:
    """A model with an edge for each span of a task; the model itself where the task has none.

    Args:
        compiled: The model, without spans.
        task: The prompts.
    """
    return compiled.with_spans(task.spans, asked=task.asked_spans) if task.spans else compiled
