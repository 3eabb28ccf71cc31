"""Results of training and evaluation as text for a prompt and as cards for a notebook.

A result holds tables, gates and hundreds of rows; what is shown by itself is what one looks at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuitgraph.html_card import card, circuit_card, escaped, html_table

if TYPE_CHECKING:
    from pruning.discovery import Discovery
    from pruning.evaluation import Evaluation
    from pruning.tasks import TaskData

Metrics = Mapping[str, Mapping[str, float | int | None]]

# Metrics in the order in which they are looked at, their headings, a factor, and how a value is written.
_COLUMNS = {
    "kl": ("KL (nats)", 1, "{:.3f}"),
    "mse": ("mean squared error", 1, "{:.3g}"),
    "accuracy": ("accuracy", 100, "{:.1f} %"),
    "exact_match": ("exact match", 100, "{:.1f} %"),
    "logit_diff": ("logit difference", 1, "{:.2f}"),
}
_ROLES = ("circuit", "full", "empty", "complement", "random")


def metrics_line(metrics: Metrics, role: str = "circuit") -> str:
    """A role's figures in one line.

    Args:
        metrics: By role, then by metric.
        role: One of them.

    Examples:
        >>> metrics_line({"circuit": {"n": 200, "kl": 0.25, "exact_match": 0.875, "accuracy": None}})
        'KL (nats) 0.250, exact match 87.5 % on 200 prompts'
    """
    row = metrics[role]
    told = [f"{heading} {_written(row, name)}" for name, (heading, *_) in _COLUMNS.items() if row.get(name) is not None]
    return f"{', '.join(told)} on {row['n']:,} prompts"


def metrics_html(metrics: Metrics) -> str:
    """Figures by role as a table.

    Args:
        metrics: By role, then by metric.
    """
    names = [name for name in _COLUMNS if any(metrics[role].get(name) is not None for role in metrics)]
    roles = [role for role in _ROLES if role in metrics]
    rows = [(_called(metrics, role), *(_written(metrics[role], name) for name in names)) for role in roles]
    return html_table(["", *(_COLUMNS[name][0] for name in names)], rows)


def evaluation_card(found: Evaluation) -> str:
    """An evaluation's figures, a row a role.

    Args:
        found: The evaluation.
    """
    return card(f"Evaluation on {found.metrics['circuit']['n']:,} prompts", [], metrics_html(found.metrics))


def discovery_card(found: Discovery) -> str:
    """A discovery's figures by split, what may be wrong, and its circuit.

    Args:
        found: The discovery.
    """
    metrics = found.metrics
    tables = [
        part
        for split, by_role in metrics["splits"].items()
        for part in (f'<div style="margin-top:0.5em">{escaped(split)}</div>', metrics_html(by_role))
    ]
    lines = [f"{len(found.run.records):,} steps; {metrics['seconds']:,.0f} s", *found.verdicts, *found.diagnoses]
    shown = (card("Discovery", lines, *tables), circuit_card(found.circuit))
    return "".join(f'<div style="margin-bottom:0.5em">{part}</div>' for part in shown)


def task_card(task: TaskData) -> str:
    """A task's sizes by split, and a prompt with its counterfactual.

    Args:
        task: The task.
    """
    rows = [
        (name, f"{len(pairs):,}", f"{pairs.lengths.min()} to {pairs.lengths.max()}" if len(pairs) else "")
        for name, pairs in task.splits.items()
    ]
    shown = next((pairs for pairs in task.splits.values() if len(pairs) and pairs.texts), None)
    example = [] if shown is None else [f"prompt: {shown.texts[0]}"]
    if shown is not None and shown.corrupted_texts:
        example.append(f"counterfactual: {shown.corrupted_texts[0]}")
    title = f"Task {task.name}, compared by {task.objective}"
    return card(title, example, html_table(["split", "prompts", "tokens"], rows))


def _called(metrics: Metrics, role: str) -> str:
    n_circuits = metrics[role].get("n_circuits")
    n, every = metrics[role].get("n"), metrics.get("circuit", {}).get("n")
    fewer = f", {n:,} of the prompts" if n and every and n < every else ""
    return (f"random, mean of {n_circuits}" if n_circuits else role) + fewer


def _written(row: Mapping[str, float | int | None], name: str) -> str:
    value = row.get(name)
    _, factor, form = _COLUMNS[name]
    return "" if value is None else form.format(factor * value)
