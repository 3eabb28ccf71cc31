"""Make the results that the page on transfer shows: `python docs/studies/transfer/remake.py [tasks] [halves]`.

`tasks`: a circuit of SmolLM2-135M for each of ten tasks, five of form and five of function, on all ten.
`halves`: two of the tasks, each as two tasks of half its prompts. Both leave `*-measured.csv` (each circuit on each
task), `*-tried.csv` (sizes), `*-shared.csv` (overlaps against chance), `*-weighted.csv` (weighted recall) and
`*.json` (how).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analysis import overlap_matrix
from analysis.transfer.writing import Transfer
from circuitgraph import compile_model, load_model
from pruning import circuits_of_tasks, load_task, measure_transfer
from pruning.tasks import TaskData

HERE = Path(__file__).parent
KINDS = {
    "formal": ("subject-verb-agreement", "gendered-pronoun", "negative-polarity", "hypernymy", "nonce-plurals"),
    "functional": ("ioi", "greater-than", "docstring", "capitals", "capital-country"),
}
HALVED = ("subject-verb-agreement", "ioi")
SIZES = {"train": 60, "validation": 24, "test": 40}
OF_BOTH_HALVES = {"train": 60, "validation": 30, "test": 60}


def halves(task: TaskData) -> dict[str, TaskData]:
    """Two tasks of one: the even prompts of each split, and the odd ones."""
    found = {}
    for first, letter in enumerate("ab"):
        splits = {name: pairs.subset(range(first, len(pairs), 2)) for name, pairs in task.splits.items()}
        found[f"{task.name}, {letter}"] = replace(task, splits=splits)
    return found


def make(name: str, asked: tuple[str, ...]) -> None:
    """Find circuits, measure them, and write what the page needs."""
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    sizes = OF_BOTH_HALVES if name == "halves" else SIZES
    tasks: dict[str, TaskData] = {one: load_task(one, loaded.tokenizer, sizes=sizes) for one in asked}
    if name == "halves":
        tasks = {half: part for task in tasks.values() for half, part in halves(task).items()}
    began = time.process_time()
    found = circuits_of_tasks(compiled, tasks, "gate-importance", say=told)
    finding = time.process_time() - began
    table = measure_transfer(compiled, found.circuits, tasks, tick=lambda task, n, of: told(f"{task}: {n} of {of}"))
    made = Transfer(table=table, circuits=found.circuits, tried=found.tried)
    table.to_csv(HERE / f"{name}-measured.csv", index=False, float_format="%.6g")
    found.tried.to_csv(HERE / f"{name}-tried.csv", index=False, float_format="%.6g")
    assert made.tests is not None
    made.tests.to_csv(HERE / f"{name}-shared.csv", index=False, float_format="%.6g")
    weighted = overlap_matrix(found.circuits, measure="weighted_recall")
    weighted.rename_axis("circuit").to_csv(HERE / f"{name}-weighted.csv", float_format="%.4f")
    about = {
        "prompts": numbers(tasks), "n_edges": compiled.universe.n_edges,
        "cpu_seconds_finding": round(finding), "cpu_seconds": round(time.process_time() - began),
    }  # fmt: skip
    (HERE / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


def numbers(tasks: Mapping[str, TaskData]) -> dict[str, dict[str, int]]:
    """How many prompts each split of each task has."""
    return {name: {split: len(pairs) for split, pairs in task.splits.items()} for name, task in tasks.items()}


def told(line: str) -> None:
    """Say it at once."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["tasks", "halves"]
    if "tasks" in wanted:
        make("tasks", (*KINDS["formal"], *KINDS["functional"]))
    if "halves" in wanted:
        make("halves", HALVED)
