"""A task as a card for a notebook."""

from __future__ import annotations

from collections.abc import Mapping

from circuitgraph.html import card, html_table
from pruning.prompts.encoding import EncodedPairs


def task_card(name: str, objective: str, splits: Mapping[str, EncodedPairs]) -> str:
    """A task's sizes by split, and a prompt with its counterfactual.

    Args:
        name: What the task is called.
        objective: What is compared.
        splits: Its prompts by split.
    """
    rows = [
        (split, f"{len(pairs):,}", f"{pairs.lengths.min()} to {pairs.lengths.max()}" if len(pairs) else "")
        for split, pairs in splits.items()
    ]
    shown = next((pairs for pairs in splits.values() if len(pairs) and pairs.texts), None)
    example = [] if shown is None else [f"prompt: {shown.texts[0]}"]
    if shown is not None and shown.corrupted_texts:
        example.append(f"counterfactual: {shown.corrupted_texts[0]}")
    title = f"Task {name}, compared by {objective}"
    return card(title, example, html_table(["split", "prompts", "tokens"], rows))
