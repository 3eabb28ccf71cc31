"""Which prompts a circuit was trained on: its training prompts made again from its provenance, compared as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitgraph.errors import ConfigurationError
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.swapped import NOISING
from pruning.tasks import TaskData, get_task, load_task


def task_of_provenance(
    provenance: Mapping[str, Any], tokenizer: object, *, name: str | None = None, seed: int | None = None
) -> TaskData:
    """Make the prompts again that a circuit was found with, or those of another task.

    Args:
        provenance: The circuit's.
        tokenizer: The model's.
        name: A task; by default the circuit's own, with the options that it had.
        seed: Which prompts are drawn; by default those that the circuit was found with.

    Returns:
        The prompts, divided into spans as those were. Whether they are the same is for the caller to see: `data_hash`.

    Raises:
        ConfigurationError: No task is given or named by the circuit, or its prompts cannot be made any more.
        PromptFormatError: Its file of prompts is gone, or cannot be read.
    """
    own = provenance.get("task")
    name = name or (own if isinstance(own, str) else None)
    if name is None:
        raise ConfigurationError("the circuit does not say which task it was found for; give --task")
    found = provenance.get("task_options") if name == own else None
    made: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    if seed is None:
        seed = made.get("seed", provenance.get("seed"))
    task = load_task(
        name,
        tokenizer,
        # A task that decides its sizes itself, from all inputs, takes none.
        sizes=None if get_task(name).sizes is None else made.get("sizes"),
        seed=seed if isinstance(seed, int) else 0,
        chat_template=made.get("chat_template", False),
        bos=made.get("bos", "auto"),
        options=made.get("options"),
    )
    task = task.towards(str(made.get("direction", NOISING)))
    divided = options.get("spans") if isinstance(options := provenance.get("task_options"), Mapping) else None
    return task.with_spans(str(divided)) if divided else task


def trained_on(own: TaskData, pairs: EncodedPairs) -> list[int]:
    """Find the prompts that a circuit was trained on.

    Args:
        own: The prompts that it was found with, see `task_of_provenance`.
        pairs: Prompts that it is to be measured on.

    Returns:
        Their numbers among `pairs`, by their tokens; empty where the task has all inputs in each split, as programs do.

    Examples:
        >>> import numpy as np
        >>> ids = (np.array([1, 2]), np.array([1, 3]), np.array([1, 4]))
        >>> pairs = EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([1]),) * 3)
        >>> splits = {"train": pairs.subset([2, 0])}
        >>> own = TaskData(name="t", splits=splits, notes=(), provenance={}, data_hash="", objective="kl")
        >>> trained_on(own, pairs)
        [0, 2]
    """
    train = own.splits.get("train")
    if train is None or own.shares_prompts:
        return []
    known = set(train.prompt_keys)
    return [index for index, key in enumerate(pairs.prompt_keys) if key in known]
