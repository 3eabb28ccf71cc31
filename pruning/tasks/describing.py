"""`describe_tasks`: every task with one rendered example, for `circuitgraph tasks` and the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from circuitgraph.errors import CircuitGraphError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import Task, get_task, task_names


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """What a user is told about a task.

    Attributes:
        name: What it is called.
        description: One sentence.
        objective: The objective it is trained with by default.
        sizes: Its default sizes, empty where the task itself decides.
        options: Its own options, with their defaults.
        example: One prompt, with the answer marked; for prompts made of text, its counterfactual below.
    """

    name: str
    description: str
    objective: str
    sizes: dict[str, int]
    options: dict[str, object]
    example: str


@dataclass(frozen=True)
class _SpellingTokenizer:
    """Stands in for a model's tokenizer where there is none: a word is a token, and so is a digit."""

    bos_token_id: None = None
    chat_template: None = None
    vocabulary: dict[str, int] = field(default_factory=dict)

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, return_attention_mask: bool = True
    ) -> dict[str, list]:
        if isinstance(text, str):
            return {"input_ids": self._ids(text)}
        return {"input_ids": [self._ids(one) for one in text]}

    def _ids(self, text: str) -> list[int]:
        pieces = re.findall(r" ?[^\W\d]+|\d|[^\w\s]|\s", text)
        return [self.vocabulary.setdefault(piece, len(self.vocabulary)) for piece in pieces]


def describe_tasks(
    tokenizer: object | None = None, *, seed: int = 0, only: Sequence[str] | None = None
) -> list[TaskDescription]:
    """Describe every task.

    Args:
        tokenizer: The tokenizer that examples are made for; without one, each word counts as one token.
        seed: Which example.
        only: Names of tasks; None describes all.

    Returns:
        A description per task, sorted by name. A task of another package that cannot be loaded says so.

    Examples:
        >>> [task.example for task in describe_tasks(only=["tracr-reverse"])]
        ['BOS 1 2 2 → 2 2 1']
    """
    return [_described(name, tokenizer, seed) for name in (task_names() if only is None else only)]


def _described(name: str, tokenizer: object | None, seed: int) -> TaskDescription:
    """Describe one task."""
    try:
        task = get_task(name)
    except CircuitGraphError as error:
        return TaskDescription(
            name=name,
            description=f"Cannot be loaded: {error}",
            objective="",
            sizes={},
            options={},
            example="",
        )
    return TaskDescription(
        name=name,
        description=task.description,
        objective=task.objective,
        sizes=dict(task.sizes or {}),
        options=dict(task.options),
        example=task.example or _example(task, tokenizer, seed),
    )


def _example(task: Task, tokenizer: object | None, seed: int) -> str:
    """Render a task's first prompt; nothing if this tokenizer cannot have it."""
    context = TaskContext(
        task=task.name,
        tokenizer=_SpellingTokenizer() if tokenizer is None else tokenizer,
        rng=np.random.default_rng(seed),
        sizes=dict(task.sizes or {}),
        options=dict(task.options),
    )
    try:
        made = task.function(context)
        if isinstance(made, Mapping):
            return next((pairs.texts[0] for pairs in made.values() if pairs.texts), "")
        pair = next(iter(made), None)
    except CircuitGraphError as error:
        return f"(none: {error})"
    return "" if pair is None else _rendered(pair)


def _rendered(pair: PromptPair) -> str:
    """Write a pair on lines of its own."""
    return f"{pair.marked()}\ncounterfactual: {pair.corrupted}"
