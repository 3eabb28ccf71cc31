"""Any circuits on the prompts of any tasks: a row per circuit and task.

A task's own measure is the one that its prompts can be judged by, see `usual_measure`. `analysis.transfer` makes
matrices of the table: how faithful each circuit is to the model on each task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.masks import evaluate_masks
from pruning.evaluation.matching import require_edits, require_universe
from pruning.evaluation.tables import flat_row
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import TaskData

FULL, EMPTY = "full", "empty"
"""What the rows of the whole model and of no edge are called."""
_FIRST = ("circuit", "task", "measure", "split", "n_edges", "n", "n_undefined")


def usual_measure(pairs: EncodedPairs) -> str:
    """What says how well a prompt was answered, of the means that `pruning.evaluation.scores` has.

    Args:
        pairs: The prompts.

    Returns:
        `mse` of numbers; `prob_diff` where a prompt lists several right or several wrong answers, whose probabilities
        are added up; `logit_diff` where each has one of either; `kl` where some have no wrong answer.

    Examples:
        >>> from circuitgraph import load_model
        >>> from pruning import load_task
        >>> task = load_task("tracr-xproportion", load_model("tracr:xproportion").tokenizer)
        >>> usual_measure(task.split("test"))
        'mse'
    """
    if pairs.answer_values is not None:
        return "mse"
    if pairs.wrong_ids is None or not all(map(len, pairs.wrong_ids)):
        return "kl"
    listed = [*pairs.wrong_ids, *(pairs.correct_ids or ())]
    return "prob_diff" if any(len(ids) > 1 for ids in listed) else "logit_diff"


@with_gradients
def measure_transfer(
    compiled: CompiledModel,
    circuits: Mapping[str, Circuit],
    tasks: Mapping[str, TaskData],
    *,
    split: str = "test",
    ablation: str | None = None,
    batch_size: int = 16,
    tick: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure every circuit on every task's prompts, next to the full model and to no edge at all.

    Args:
        compiled: The model.
        circuits: By name; one of a task's name is that task's own.
        tasks: The prompts by name. Means of mean ablation are taken over a task's own training prompts.
        split: Which prompts.
        ablation: What cut edges carry; by default what the circuits were found with.
        batch_size: Prompts run at once; halved when memory runs out.
        tick: Called with the task, the number of runs done and of all, after every batch.

    Returns:
        One row per circuit and task, tasks in their order, in each `full` (all edges), `empty` (none), then the
        circuits: `circuit`, `task` (str), `measure` (str: the task's own, see `usual_measure`), `split`, `n_edges`
        (kept, dangling ones not counted), `n` (prompts), `n_undefined`, and the means of `pruning.evaluation.scores`
        with their bounds (95 %, over prompts), NaN where a task has none.

    Raises:
        ConfigurationError: No circuit or task, a circuit named `full` or `empty`, circuits of several ablations,
            optimal ablation, whose constants are each circuit's own, or a task without such prompts.
        GraphMismatchError: A circuit is of another universe than the model's.
        UnknownNameError: A task lacks the split.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> task = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})
        >>> truth = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> table = measure_transfer(compiled, {"truth": truth}, {"reverse": task})
        >>> table[["circuit", "task", "measure", "accuracy"]].round(2).values.tolist()[:2]
        [['full', 'reverse', 'kl', 1.0], ['empty', 'reverse', 'kl', 0.08]]
    """
    ablation = _require_comparable(compiled, circuits, tasks, split, ablation)
    masks: dict[str, Circuit | np.ndarray] = {EMPTY: np.zeros(compiled.universe.n_edges, dtype=bool), **circuits}
    rows = []
    for name, task in tasks.items():
        pairs = task.split(split)
        found = evaluate_masks(
            compiled,
            masks,
            pairs,
            ablation=ablation,
            ablation_data=task.splits.get("train"),
            batch_size=batch_size,
            tick=None if tick is None else lambda done, total, name=name: tick(name, done, total),
        )
        about = {"task": name, "measure": usual_measure(pairs), "split": split}
        rows += [{"circuit": role, **about, **flat_row(found[role], intervals=True)} for role in (FULL, *masks)]
    means = list(dict.fromkeys(name for row in rows for name in row if name not in _FIRST))
    return pd.DataFrame(rows, columns=[*_FIRST, *means]).astype(dict.fromkeys(means, "float64"))


def _require_comparable(
    compiled: CompiledModel,
    circuits: Mapping[str, Circuit],
    tasks: Mapping[str, TaskData],
    split: str,
    ablation: str | None,
) -> str:
    """The common ablation of circuits that can be measured together, before anything is run."""
    if not circuits or not tasks:
        missing = "circuit" if not circuits else "task"
        raise ConfigurationError(f"expected at least one circuit and one task; got no {missing}")
    if taken := [name for name in (FULL, EMPTY) if name in circuits]:
        raise ConfigurationError(f"a circuit cannot be called {taken[0]!r}, which is what a row of the table is called")
    for name, circuit in circuits.items():
        require_universe(compiled, circuit, f"the universe of {name!r}")
        require_edits(compiled, circuit, repr(name))
    for name, task in tasks.items():
        if not len(task.split(split)):
            raise ConfigurationError(f"task {name!r} has no {split} prompts to measure on")
    found = {circuit.ablation: name for name, circuit in circuits.items()} if ablation is None else {ablation: ""}
    if len(found) > 1:
        told = ", ".join(f"{name} under {one}" for one, name in found.items())
        raise ConfigurationError(f"circuits of different ablations ({told}); say what cut edges carry, with ablation=")
    (ablation,) = found
    if ablation == "optimal":
        raise ConfigurationError(
            "under optimal ablation each circuit has constants of its own, learnt on one task; choose another "
            "ablation, with ablation="
        )
    return ablation
