"""Every method on every task: ranked, cut at many sizes, measured on prompts that no method saw, and timed.

A cell is one method, task and seed. All methods of a task rank by the same training prompts and are measured on the
same test prompts, by the same measures. What a cell costs is its time, and that time in units of a plain forward and
backward pass of the model over the same training prompts, taken just before, so that slow machines and busy hours
count out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.sizes import MIB_SIZES
from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CircuitGraphError, ConfigurationError, why
from circuitgraph.memory.peak import peak_rss_bytes
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.rankings import measure_ranking
from pruning.leaderboard.folder import BoardFolder, cell_name
from pruning.methods.method import Method
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.fields import plain
from pruning.runs.provenance import model_provenance
from pruning.runs.rank import rank_edges
from pruning.tasks import TaskData

SIZES = tuple(sorted({*MIB_SIZES, 0.003, 0.03}))
"""Those of the Mechanistic Interpretability Benchmark, and two between."""
_TIMED_PROMPTS = 32


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a leaderboard found.

    Attributes:
        table: A row per cell, order and size: `method`, `task`, `seed`, `order` and the columns of
            `pruning.measure_ranking`. Scores are cut in two orders, signed and by size, but for log α of gates, whose
            size means nothing.
        costs: A row per cell: `method`, `task`, `seed`, `seconds`, `forward_passes` (that time in plain forward passes
            over the same prompts), `peak_rss_bytes` (of the process until then).
        failed: Why a cell has no row, by its name.
    """

    table: pd.DataFrame
    costs: pd.DataFrame
    failed: Mapping[str, str] = field(default_factory=dict)


@with_gradients
def run_leaderboard(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    methods: Mapping[str, Method],
    *,
    out: str | Path,
    seeds: Sequence[int] = (0,),
    objective: str | None = None,
    sizes: Sequence[float] = SIZES,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Board:
    """Run the cells that are missing, and give back all.

    Args:
        compiled: The model.
        tasks: The prompts, by the task's name.
        methods: By the name that they have in the table.
        out: The folder that cells are kept in; one that is there is gone on with.
        seeds: Of each method's own randomness.
        objective: What all methods minimise; by default what suits each.
        sizes: Shares of all edges at which rankings are cut.
        overwrite: Whether an older leaderboard there is removed.
        say: Called with a line as cells begin and end.

    Returns:
        Measures and costs of all cells that are there. A cell that fails is left out, with its reason, and is tried
        again the next time; the others go on.

    Raises:
        ConfigurationError: Nothing to run, or the folder is of other settings, or holds one of these cells for other
            prompts or other settings of its method.
        OutputError: The folder cannot be used.

    Examples:
        >>> import tempfile
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> from pruning.methods.registry import method_named
        >>> loaded = load_model("tracr:reverse")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = run_leaderboard(
        ...         compile_model(loaded, embeddings="split"), {"tracr-reverse": task}, {"eap": method_named("eap")},
        ...         out=folder + "/board", sizes=(0.2, 0.5),
        ...     )
        >>> sorted(set(found.table["order"])), len(found.costs), found.failed
        (['signed', 'size'], 1, {})
    """
    if not (tasks and methods and seeds):
        raise ConfigurationError("a leaderboard needs a method, a task and a seed at least")
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"each seed once; got {', '.join(map(str, seeds))}")
    request = {
        "model": model_provenance(compiled), "universe": compiled.universe.to_dict(), "objective": objective,
        "sizes": sorted(map(float, sizes)),
    }  # fmt: skip
    failed: dict[str, str] = {}
    cells = [(method, task, seed) for task in tasks for seed in seeds for method in methods]
    _require_names(cells)
    with BoardFolder.opened(out, overwrite=overwrite) as folder:
        folder.begin(request)
        same = {
            (method, task): {"settings": plain(methods[method]), "data_hash": tasks[task].data_hash}
            for task in tasks for method in methods
        }  # fmt: skip
        folder.require_same({cell_name(*cell): same[cell[:2]] for cell in cells})
        for place, (method, task, seed) in enumerate(cells, 1):
            name = cell_name(method, task, seed)
            if folder.cell(name) is not None:
                continue
            say(f"cell {place} of {len(cells)}: {method} on {task}, seed {seed}")
            try:
                scores, found = _run_cell(
                    compiled, tasks[task], methods[method], objective=objective, seed=seed, sizes=sizes, say=say
                )
            except CircuitGraphError as error:
                failed[name] = why(error)
                say(f"{method} on {task} failed: {failed[name]}")
                continue
            told = {"method": method, "task": task, "seed": seed, **same[method, task]}
            folder.keep(name, scores, {**told, **found})
        kept = [folder.cell(cell_name(*cell)) for cell in cells]
    return Board(**_tables([cell for cell in kept if cell is not None]), failed=failed)


def _require_names(cells: Sequence[tuple[str, str, int]]) -> None:
    """Refuse cells whose files would have one name, so that one would stand for both.

    Raises:
        ConfigurationError: Two have.
    """
    taken: dict[str, tuple[str, str, int]] = {}
    for cell in cells:
        other = taken.setdefault(cell_name(*cell), cell)
        if other != cell:
            raise ConfigurationError(
                f"{' on '.join(other[:2])} and {' on '.join(cell[:2])} would both be kept as {cell_name(*cell)}, since "
                "names of files hold letters of a to z, digits, points and hyphens alone; rename one of the files"
            )


def _run_cell(
    compiled: CompiledModel,
    task: TaskData,
    method: Method,
    *,
    objective: str | None,
    seed: int,
    sizes: Sequence[float],
    say: Callable[[str], None],
) -> tuple[EdgeScores, dict[str, Any]]:
    """Rank, measure, and say what it cost.

    Raises:
        ConfigurationError: No prompts to rank by or to measure on, or what the method refuses.
    """
    for split in ("train", "test"):
        if not len(task.split(split)):
            raise ConfigurationError(f"task {task.name} has no {split} prompts; ask for some (--{split}-size)")
    forward = forward_seconds(compiled, task.split("train"))
    began = time.perf_counter()
    scores = rank_edges(compiled, task, method, objective=objective, seed=seed, say=say)
    seconds = time.perf_counter() - began
    table = measure_ranking(
        compiled, scores, task.split("test"), sizes=sizes, ablation_data=task.splits.get("train"),
        orders=("signed",) if scores.estimates == LOG_ALPHA else ("signed", "size"),
    )  # fmt: skip
    cost = {"seconds": seconds, "forward_passes": seconds / forward, "peak_rss_bytes": peak_rss_bytes()}
    rows = [{str(key): value for key, value in row.items()} for row in table.drop(columns="method").to_dict("records")]
    return scores, {"objective": scores.provenance["objective"], "cost": cost, "rows": rows}


def forward_seconds(compiled: CompiledModel, pairs: EncodedPairs) -> float:
    """Seconds of a plain forward pass of the model over prompts, from a few of the commonest length.

    Args:
        compiled: The model.
        pairs: The prompts.
    """
    lengths = pairs.lengths
    commonest = np.flatnonzero(lengths == np.bincount(lengths).argmax())[:_TIMED_PROMPTS]
    batch = pairs.batch(commonest, device=compiled.device).clean
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            compiled.logits(batch).sum().item()
            seconds.append(time.perf_counter() - began)
    return sorted(seconds)[1] * len(pairs) / len(commonest)


def _tables(cells: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    keys = ("method", "task", "seed")
    rows = [{**{key: cell[key] for key in keys}, **row} for cell in cells for row in cell["rows"]]
    costs = [{**{key: cell[key] for key in keys}, "objective": cell["objective"], **cell["cost"]} for cell in cells]
    return {"table": pd.DataFrame(rows), "costs": pd.DataFrame(costs)}
