"""What a run leaves that has a score per edge and no single training: what all such have in common."""

from __future__ import annotations

from typing import ClassVar

from circuitgraph.circuits.edge_scores import ABOUT, NUMBERS, EdgeScores
from pruning.runs.result_folder import ResultFolder


class LeftScores:
    """Scores as the product of a run; see `pruning.runs.stages` for what is asked of one."""

    part: ClassVar[str] = "scores"

    @property
    def training(self) -> None:
        """None: there is no one training, step by step."""

    @property
    def is_worthless(self) -> bool:
        """Never: one that is ended leaves nothing at all."""
        return False

    @property
    def ended_early(self) -> bool:
        """Never."""
        return False

    def keep_scores(self, folder: ResultFolder, scores: EdgeScores) -> None:
        """Write scores.

        Args:
            folder: The result's folder.
            scores: The scores.
        """
        files = scores.files()
        for name in (NUMBERS, ABOUT):
            folder.write(name, files[name])
