"""What cut edges may carry, by name."""

from __future__ import annotations

ABLATIONS = ("counterfactual", "zero", "mean", "mean-positional", "optimal")


def default_ablation(family: str) -> str:
    """What cut edges carry where nothing was chosen: zero in programs compiled by Tracr, else counterfactual.

    Args:
        family: The model's family.

    Examples:
        >>> default_ablation("tracr"), default_ablation("gpt2")
        ('zero', 'counterfactual')
    """
    return "zero" if family == "tracr" else "counterfactual"
