"""What cut edges may carry, by name."""

from __future__ import annotations

ABLATIONS = ("counterfactual", "zero", "mean", "mean-positional", "optimal")
