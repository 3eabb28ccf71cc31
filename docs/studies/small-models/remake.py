"""Makes the results of `docs/studies/small-models.md`: `python docs/studies/small-models/remake.py [TASK …] [random]`.

`TASK.json` is the report of a small model, greater-than or ioi-t1; `random.csv` compares its heads and MLPs with random
ones, as many of each, on the same test prompts. The small models themselves are not kept.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from circuitgraph import CompiledModel, compile_model, load_model
from pruning import TaskData, load_task, shrink
from pruning.evaluation.measured import measure_prompts

HERE = Path(__file__).parent
N_RANDOM = 10


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a small model is made."""

    train: int
    test: int
    threshold: float

    def task(self, name: str, compiled: CompiledModel) -> TaskData:
        """The prompts."""
        return load_task(name, compiled.tokenizer, sizes={"train": self.train, "validation": 0, "test": self.test})


TASKS = {
    "greater-than": Asked(train=48, test=200, threshold=0.085),
    "ioi-t1": Asked(train=16, test=100, threshold=0.02),
}


def small_model(compiled: CompiledModel, name: str) -> None:
    """Search, extract, measure, and keep the report."""
    asked = TASKS[name]
    small = shrink(
        compiled, asked.task(name, compiled), threshold=asked.threshold, batch_size=16, repeats=7, say=print
    )  # fmt: skip
    live = {"live_heads": small.extracted.live_heads, "live_mlps": small.extracted.live_mlps}
    text = json.dumps({**live, **small.to_dict()}, indent=2)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def random_nodes(compiled: CompiledModel) -> None:
    """Measure each small model's heads and MLPs, and random ones, as masked runs."""
    rows = []
    universe = compiled.universe
    for name, asked in TASKS.items():
        if not (report := HERE / f"{name}.json").exists():
            continue
        found, task = json.loads(report.read_text()), asked.task(name, compiled)
        rng = np.random.default_rng(0)
        sets = {"found": [*found["live_heads"], *found["live_mlps"]]}
        for draw in range(N_RANDOM):
            sets[f"random {draw}"] = [
                str(node)
                for kind, live in (("head", found["live_heads"]), ("mlp", found["live_mlps"]))
                for node in rng.choice([*writers_of(compiled, kind)], len(live), replace=False)
            ]
        kept = {label: np.isin(universe.writers, ["input", *nodes]) for label, nodes in sets.items()}
        masks = {label: writers[universe.writer_of_edge] for label, writers in kept.items()}
        measured = measure_prompts(
            compiled, masks, task.split("test"), ablation="mean-positional", ablation_data=task.split("train")
        )
        for label, scores in measured.columns.items():
            means = {measure: float(np.nanmean(scores[measure])) for measure in ("kl", "accuracy", "exact_match")}
            rows.append({"task": name, "nodes": label, **means, "which": " ".join(sets.get(label, []))})
            print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "random.csv", index=False, float_format="%.5g")


def writers_of(compiled: CompiledModel, kind: str) -> list[str]:
    """The names of all heads, or of all MLPs."""
    universe = compiled.universe
    return [name for name, one in zip(universe.writers, universe.writer_kinds, strict=True) if one == kind]


if __name__ == "__main__":
    wanted = sys.argv[1:] or [*TASKS, "random"]
    model = compile_model(load_model("smollm2-135m"))
    for part in wanted:
        random_nodes(model) if part == "random" else small_model(model, part)
