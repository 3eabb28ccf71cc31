"""Learning which edges a task needs: prompts, gates, objectives, recipes, evaluation.

Prompt pairs → encoded batches → gates trained through the masked forward pass of `circuitgraph` →
a `Circuit` with its metrics. Importing this package loads no torch; names load their module when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from pruning.components.lens import constant_lens
    from pruning.components.table import Components, component_summary, component_table
    from pruning.evaluation.effects import Effects, measure_effects
    from pruning.evaluation.evaluate import evaluate
    from pruning.evaluation.masks import evaluate_masks
    from pruning.evaluation.minimality import measure_minimality
    from pruning.evaluation.paired import FaithfulnessComparison, compare_faithfulness
    from pruning.evaluation.random_circuits import random_circuit
    from pruning.evaluation.rankings import measure_ranking
    from pruning.evaluation.tables import metrics_table
    from pruning.evaluation.trace import Trace, trace
    from pruning.execution.learning import learn_constants
    from pruning.frozen.disk import DiskCache
    from pruning.heads.appearing import appearing_heads
    from pruning.heads.capture import Capture, capture
    from pruning.heads.roles import HeadRoles, head_roles
    from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
    from pruning.prompts.encoding import EncodedPairs
    from pruning.prompts.pairs import PromptPair, PromptPairs
    from pruning.regimes.faithfulness import evaluate_regimes
    from pruning.regimes.study import run_regimes
    from pruning.runs.checking.preflight import preflight
    from pruning.runs.discover import discover
    from pruning.runs.rank import rank_edges
    from pruning.runs.resume import resume
    from pruning.runs.shrink import Shrunk, shrink
    from pruning.runs.sweep import Sweep, discover_seeds
    from pruning.selection.top import top_edges
    from pruning.steering.judged import judge_intervention
    from pruning.steering.random_heads import judge_random_heads
    from pruning.steering.scaling import ScalingSettings, learn_scalings
    from pruning.steering.suppression import Suppression, SuppressionSettings, find_suppression
    from pruning.tasks import TaskData, load_task, register_task, task_from_pairs
    from pruning.tracing.causal_trace import CausalTrace, CausalTraceSettings, causal_trace
    from pruning.transfer.found import circuits_of_tasks
    from pruning.transfer.measure import measure_transfer
    from pruning.transfer.smallest import smallest_circuit

__all__ = [
    "Capture",
    "CausalTrace",
    "CausalTraceSettings",
    "Components",
    "DiskCache",
    "Effects",
    "EncodedPairs",
    "FaithfulnessComparison",
    "HeadRoles",
    "PromptPair",
    "PromptPairs",
    "Recipe",
    "ScalingSettings",
    "Shrunk",
    "Suppression",
    "SuppressionSettings",
    "Sweep",
    "TaskData",
    "Trace",
    "appearing_heads",
    "capture",
    "causal_trace",
    "circuits_of_tasks",
    "compare_faithfulness",
    "component_summary",
    "component_table",
    "constant_lens",
    "discover",
    "discover_seeds",
    "evaluate",
    "evaluate_masks",
    "evaluate_regimes",
    "find_suppression",
    "head_roles",
    "judge_intervention",
    "judge_random_heads",
    "learn_constants",
    "learn_scalings",
    "load_task",
    "measure_effects",
    "measure_minimality",
    "measure_ranking",
    "measure_transfer",
    "metrics_table",
    "preflight",
    "random_circuit",
    "rank_edges",
    "recipe_named",
    "register_task",
    "resume",
    "run_regimes",
    "shrink",
    "smallest_circuit",
    "task_from_pairs",
    "top_edges",
    "trace",
]

_HOME = {
    "Capture": "pruning.heads.capture",
    "CausalTrace": "pruning.tracing.causal_trace",
    "CausalTraceSettings": "pruning.tracing.causal_trace",
    "Components": "pruning.components.table",
    "DiskCache": "pruning.frozen.disk",
    "Effects": "pruning.evaluation.effects",
    "EncodedPairs": "pruning.prompts.encoding",
    "FaithfulnessComparison": "pruning.evaluation.paired",
    "HeadRoles": "pruning.heads.roles",
    "PromptPair": "pruning.prompts.pairs",
    "PromptPairs": "pruning.prompts.pairs",
    "Recipe": "pruning.methods.edge_pruning.recipes",
    "ScalingSettings": "pruning.steering.scaling",
    "Shrunk": "pruning.runs.shrink",
    "Suppression": "pruning.steering.suppression",
    "SuppressionSettings": "pruning.steering.suppression",
    "Sweep": "pruning.runs.sweep",
    "TaskData": "pruning.tasks",
    "Trace": "pruning.evaluation.trace",
    "appearing_heads": "pruning.heads.appearing",
    "capture": "pruning.heads.capture",
    "causal_trace": "pruning.tracing.causal_trace",
    "circuits_of_tasks": "pruning.transfer.found",
    "compare_faithfulness": "pruning.evaluation.paired",
    "component_summary": "pruning.components.table",
    "component_table": "pruning.components.table",
    "constant_lens": "pruning.components.lens",
    "discover": "pruning.runs.discover",
    "discover_seeds": "pruning.runs.sweep",
    "evaluate": "pruning.evaluation.evaluate",
    "evaluate_masks": "pruning.evaluation.masks",
    "evaluate_regimes": "pruning.regimes.faithfulness",
    "find_suppression": "pruning.steering.suppression",
    "head_roles": "pruning.heads.roles",
    "judge_intervention": "pruning.steering.judged",
    "judge_random_heads": "pruning.steering.random_heads",
    "learn_constants": "pruning.execution.learning",
    "learn_scalings": "pruning.steering.scaling",
    "load_task": "pruning.tasks",
    "measure_effects": "pruning.evaluation.effects",
    "measure_minimality": "pruning.evaluation.minimality",
    "measure_ranking": "pruning.evaluation.rankings",
    "measure_transfer": "pruning.transfer.measure",
    "metrics_table": "pruning.evaluation.tables",
    "preflight": "pruning.runs.checking.preflight",
    "random_circuit": "pruning.evaluation.random_circuits",
    "rank_edges": "pruning.runs.rank",
    "recipe_named": "pruning.methods.edge_pruning.recipes",
    "register_task": "pruning.tasks",
    "resume": "pruning.runs.resume",
    "run_regimes": "pruning.regimes.study",
    "shrink": "pruning.runs.shrink",
    "smallest_circuit": "pruning.transfer.smallest",
    "task_from_pairs": "pruning.tasks",
    "top_edges": "pruning.selection.top",
    "trace": "pruning.evaluation.trace",
}

__getattr__ = load_on_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
