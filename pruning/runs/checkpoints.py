"""The checkpoints of a run: where they are, what has to be the same for its steps to go on, and what may differ.

In the folder `checkpoint` of a result lie the run as TOML (`run.toml`, as it was fitted into memory), the command that
began it (`command.txt`), and the states of the training (`pruning.methods.edge_pruning.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circuitgraph.files.atomic_file import write_atomically
from pruning.methods.edge_pruning.checkpoint import Checkpoints
from pruning.methods.edge_pruning.state import TrainingState
from pruning.runs.choice_files import RUN_FILE
from pruning.runs.decide import run_text
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.runs.versions import library_versions

COMMAND = "command.txt"


class RunCheckpoints(Checkpoints):
    """The checkpoints of a run.

    Args:
        run: The run, as it is done.
        folder: Where its result is kept.
        say: Called with a line when something is wrong with them.
        trained: The run as it is trained, on survivors alone; by default the run itself.
    """

    def __init__(
        self, run: Run, folder: ResultFolder, say: Callable[[str], None], *, trained: Run | None = None
    ) -> None:
        settings = run.settings
        super().__init__(
            folder.checkpoints,
            run_identity(trained or run),
            conditions=run_conditions(run),
            every_seconds=settings.checkpoint_every_seconds or None,
            every_steps=settings.checkpoint_every_steps or None,
            say=say,
        )
        self._run, self._folder = run, folder

    def begin(self) -> TrainingState | None:
        """What to go on from; else make the folder, so that a run that is killed can be begun again by its name alone.

        Returns:
            The newest state of a run that goes on; None where there is none, or the run begins: then what is there is
            removed.

        Raises:
            CheckpointError: There are checkpoints, and none that is whole, or they are of another run.
            OutputError: Nothing can be written there.
        """
        if not self._folder.resumes:
            self.clear()
        self.tidy()
        state = self.newest()
        if state is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = replace(self._run.settings, time_limit_seconds=None)
            write_atomically(self.folder / RUN_FILE, run_text(self._run.request, settings))
            if self._folder.command is not None:
                write_atomically(self.folder / COMMAND, self._folder.command + "\n")
        return state


def first_command(folder: Path) -> str | None:
    """The command that began a run, which its checkpoints keep; None where there is none.

    Args:
        folder: The result's.
    """
    try:
        return (folder / COMMAND).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def run_identity(run: Run) -> dict[str, Any]:
    """What a run is, as far as its training goes: with anything else here it is another run.

    Args:
        run: The run.
    """
    compiled, request, recipe = run.compiled, run.request, run.recipe.to_dict()
    model = compiled.identity
    return {
        "model": {name: model[name] for name in ("config_hash", "weights")},
        "dtype": str(compiled.dtype).removeprefix("torch."),
        "device": compiled.device.type,
        "universe": compiled.universe.to_dict(),
        **compiled.told_vectors,
        "edits": compiled.gate_map.edits,
        "task": run.task.name,
        "data_hash": run.task.data_hash,
        "objective": request.objective,
        "ablation": request.ablation,
        "teacher_top_k": request.teacher_top_k,
        "seed": request.seed,
        "recipe": {name: value for name, value in recipe.items() if name != "summary"},
    }


def run_conditions(run: Run) -> dict[str, Any]:
    """What changes a run by rounding alone: with something else here it goes on, to other last bits.

    Args:
        run: The run, as it is done.
    """
    settings = run.settings
    return {
        "cpu_kernels": run.compiled.uses_cpu_kernels,
        "threads": torch.get_num_threads(),
        "cache_bytes": settings.cache_bytes,
        "replay": settings.replay,
        "versions": library_versions(),
    }
