"""The prompts of a split that a command measures on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs
    from pruning.tasks import TaskData


def prompts_to_measure(data: TaskData, split: str) -> EncodedPairs:
    """The prompts of a split, at least one.

    Args:
        data: The task.
        split: What `--split` says.

    Raises:
        UnknownNameError: The task has no such split.
        ConfigurationError: The split has no prompts.
    """
    pairs = data.split(split)
    if not len(pairs):
        raise ConfigurationError(f"task {data.name} has no {split} prompts; choose another --split")
    return pairs
