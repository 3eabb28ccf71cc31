"""Figures of an evaluation in one line, and as a card for a notebook: what one looks at first."""

from __future__ import annotations

from collections.abc import Mapping

from circuitgraph.html import card, html_table

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


def evaluation_card(metrics: Metrics) -> str:
    """An evaluation's figures, a row per role.

    Args:
        metrics: By role, then by metric.
    """
    return card(f"Evaluation on {metrics['circuit']['n']:,} prompts", [], metrics_html(metrics))


def _called(metrics: Metrics, role: str) -> str:
    n_circuits = metrics[role].get("n_circuits")
    n, every = metrics[role].get("n"), metrics.get("circuit", {}).get("n")
    fewer = f", {n:,} of the prompts" if n and every and n < every else ""
    return (f"random, mean of {n_circuits}" if n_circuits else role) + fewer


def _written(row: Mapping[str, float | int | None], name: str) -> str:
    value = row.get(name)
    _, factor, form = _COLUMNS[name]
    return "" if value is None else form.format(factor * value)
