"""Learning which edges a task needs: prompts, gates, objectives, recipes, evaluation.

Prompt pairs → encoded batches → gates trained through the masked forward pass of `circuitgraph` →
a `Circuit` with its metrics. Importing this package loads no torch; names load their module when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from pruning.baselines import random_circuit
    from pruning.checking.preflight import preflight
    from pruning.discovery import discover
    from pruning.effects import Effects, measure_effects
    from pruning.encoding import EncodedPairs
    from pruning.evaluation import evaluate, evaluate_masks, metrics_table
    from pruning.frozen_cache.disk import DiskCache
    from pruning.paired import FaithfulnessComparison, compare_faithfulness
    from pruning.pairs import PromptPair, PromptPairs
    from pruning.recipes import Recipe, recipe_named
    from pruning.regimes.faithfulness import evaluate_regimes
    from pruning.regimes.study import run_regimes
    from pruning.tasks import TaskData, load_task, register_task, task_from_pairs

__all__ = [
    "DiskCache",
    "Effects",
    "EncodedPairs",
    "FaithfulnessComparison",
    "PromptPair",
    "PromptPairs",
    "Recipe",
    "TaskData",
    "compare_faithfulness",
    "discover",
    "evaluate",
    "evaluate_masks",
    "evaluate_regimes",
    "load_task",
    "measure_effects",
    "metrics_table",
    "preflight",
    "random_circuit",
    "recipe_named",
    "register_task",
    "run_regimes",
    "task_from_pairs",
]

_HOME = {
    "DiskCache": "pruning.frozen_cache.disk",
    "Effects": "pruning.effects",
    "EncodedPairs": "pruning.encoding",
    "FaithfulnessComparison": "pruning.paired",
    "PromptPair": "pruning.pairs",
    "PromptPairs": "pruning.pairs",
    "Recipe": "pruning.recipes",
    "TaskData": "pruning.tasks",
    "compare_faithfulness": "pruning.paired",
    "discover": "pruning.discovery",
    "evaluate": "pruning.evaluation",
    "evaluate_masks": "pruning.evaluation",
    "evaluate_regimes": "pruning.regimes.faithfulness",
    "load_task": "pruning.tasks",
    "measure_effects": "pruning.effects",
    "metrics_table": "pruning.evaluation",
    "preflight": "pruning.checking.preflight",
    "random_circuit": "pruning.baselines",
    "recipe_named": "pruning.recipes",
    "register_task": "pruning.tasks",
    "run_regimes": "pruning.regimes.study",
    "task_from_pairs": "pruning.tasks",
}

__getattr__ = load_on_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
