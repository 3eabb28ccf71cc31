"""Learning which edges a task needs: prompts, gates, objectives, recipes, evaluation.

Prompt pairs → encoded batches → gates trained through the masked forward pass of `circuitgraph` →
a `Circuit` with its metrics. Importing this package loads no torch; names load their module when used.
"""

from __future__ import annotations

__all__: list[str] = []
