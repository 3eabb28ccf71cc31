"""Go on with a run by the name of its folder alone."""

from __future__ import annotations

from pathlib import Path

from circuitgraph.errors import CheckpointError
from pruning.runs.choice_files import RUN_FILE
from pruning.runs.discover import run_discovery
from pruning.runs.discovery import Discovery
from pruning.runs.load import PlannedRun, read_run
from pruning.runs.progress import Progress, progress_for
from pruning.runs.result_files import CHECKPOINT, CIRCUIT
from pruning.runs.result_folder import report_command


def resume(path: str | Path, *, progress: Progress | bool | None = None) -> Discovery:
    """Go on with a run that was ended, from its last checkpoint: model, task and settings are read from its folder.

    A run whose graph was edited, or whose model or prompts are known to its script alone, goes on with
    `discover(…, out=path, resume=True)` instead.

    Args:
        path: The result's folder, which `discover` was given as `out`.
        progress: As of `discover`.

    Returns:
        The circuit, as a run that was never ended gives it.

    Raises:
        CheckpointError: There is nothing to go on with, or what is there is damaged or of another model.
        OutputError: Another run is at work there.

    Examples:
        >>> try:
        ...     resume("runs/not-there")
        ... except CheckpointError as error:
        ...     print(str(error).partition(":")[0])
        runs/not-there has no run to go on with
    """
    return run_discovery(run_to_go_on(Path(path)).load(), progress_for(progress), out=path, resume=True)


def run_to_go_on(path: Path) -> PlannedRun:
    """The run that was ended in a folder.

    Args:
        path: The result's folder.

    Raises:
        CheckpointError: There is none.
    """
    return read_run(checkpoint_folder(path))


def checkpoint_folder(path: Path) -> Path:
    """Where the checkpoints of a run are that was ended.

    Args:
        path: The result's folder.

    Raises:
        CheckpointError: There are none.
    """
    if not (path / CHECKPOINT / RUN_FILE).is_file():
        there = f". Its circuit is there: `{report_command(path)}` makes what is missing" * (path / CIRCUIT).is_file()
        raise CheckpointError(
            f"{path} has no run to go on with: expected the folder that `circuitgraph discover --out` (out=) was "
            f"given, with {CHECKPOINT}/{RUN_FILE} in it, which a run that is finished has no more, "
            f"and one by a method without a recipe never had{there}"
        )
    return path / CHECKPOINT
