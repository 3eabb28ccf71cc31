"""A circuit for each of several tasks: edges ranked by one method, cut where the circuit is faithful enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.methods.method import Method
from pruning.runs.rank import SPLIT, rank_edges
from pruning.tasks import TaskData
from pruning.transfer.smallest import SIZES, numbers_of_edges, require_faithfulness, smallest_circuit


@dataclass(frozen=True, kw_only=True)
class TaskCircuits:
    """Circuits of several tasks, made alike.

    Attributes:
        circuits: By task.
        tried: A row per task and size that was tried: `task`, `measure`, and the columns of `Smallest.tried`.
    """

    circuits: dict[str, Circuit]
    tried: pd.DataFrame


def circuits_of_tasks(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    method: Method | str = "gate-importance",
    *,
    faithfulness: float = 0.85,
    sizes: Sequence[float] = SIZES,
    zoom: int = 2,
    ablation: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> TaskCircuits:
    """Rank edges on each task's training prompts, and keep the fewest that are faithful enough on validation prompts.

    Args:
        compiled: The model.
        tasks: The prompts by name. A task without validation prompts is judged on its training prompts.
        method: What ranks edges, by name or with its settings.
        faithfulness: How faithful a circuit has to be, see `smallest_circuit`.
        sizes: Shares of all edges to try.
        zoom: How many sizes are tried between the last that is not enough and the first that is.
        ablation: What cut edges carry; by default what suits the method and the model.
        batch_size: Prompts run at once.
        seed: Of everything random.
        say: Called with a line before each task is ranked and cut.

    Returns:
        The circuits, and what was tried.

    Raises:
        ConfigurationError: No task, no size that is enough for one, or what the method refuses.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> task = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})
        >>> found = circuits_of_tasks(compiled, {"reverse": task}, "eap", zoom=0)
        >>> found.tried["enough"].tolist()[-1], found.circuits["reverse"].provenance["task"]
        (True, 'tracr-reverse')
    """
    if not tasks:
        raise ConfigurationError("expected at least one task; got none")
    numbers_of_edges(sizes, compiled.universe.n_edges)
    require_faithfulness(faithfulness)
    circuits, tables = {}, []
    for name, task in tasks.items():
        say(f"{name}: ranking {compiled.universe.n_edges:,} edges on {len(task.split(SPLIT)):,} training prompts")
        scores = rank_edges(compiled, task, method, ablation=ablation, batch_size=batch_size, seed=seed, say=say)
        judged = next(one for one in ("validation", SPLIT) if len(task.splits.get(one, ())))
        pairs = task.split(judged)
        say(f"{name}: the smallest circuit that is {faithfulness:g} faithful on {len(pairs):,} {judged} prompts")
        found = smallest_circuit(
            compiled, scores, pairs, faithfulness=faithfulness, sizes=sizes, zoom=zoom,
            ablation_data=task.split(SPLIT), batch_size=batch_size,
        )  # fmt: skip
        say(f"{name}: {len(found.circuit):,} edges, {found.faithfulness:.3f} by {found.measure}")
        circuits[name] = found.circuit
        table = found.tried.copy()
        table.insert(0, "task", name)
        table.insert(1, "measure", found.measure)
        tables.append(table)
    return TaskCircuits(circuits=circuits, tried=pd.concat(tables, ignore_index=True))
