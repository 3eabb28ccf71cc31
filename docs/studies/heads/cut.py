"""Cut the mover, both heads that pass its rule, and pairs of random heads; write cut.csv beside this file.

python docs/studies/heads/cut.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from circuitgraph import compile_model, load_model
from pruning import load_task
from pruning.evaluation.measured import measure_prompts

MOVERS = ["a23.h4", "a16.h4"]
N_PROMPTS, N_RANDOM, TOP = 24, 4, 10


def main() -> None:
    """Measure every cut under counterfactual ablation, on prompts with three examples."""
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    universe = compiled.universe
    pairs = load_task("capitals:in-context", loaded.tokenizer).split("test").subset(range(N_PROMPTS))
    writers, _ = universe.endpoints(np.arange(universe.n_edges))
    named = zip(universe.writers, universe.writer_kinds, strict=True)
    others = [name for name, kind in named if kind == "head" and name not in MOVERS]
    rng = np.random.default_rng(0)
    sets = {"a23.h4": MOVERS[:1], "both": MOVERS}
    sets |= {f"random pair {draw}": rng.choice(others, 2, replace=False).tolist() for draw in range(N_RANDOM)}
    masks = {name: ~np.isin(writers, [universe.writers.index(head) for head in cut]) for name, cut in sets.items()}
    found = measure_prompts(compiled, masks, pairs, ablation="counterfactual", batch_size=12, hit_at=TOP)
    columns = ["kl", "accuracy", "logit_diff", f"hit_at_{TOP}"]
    rows = [
        {"cut": name, **{column: round(float(np.nanmean(scores[column])), 4) for column in columns}}
        for name, scores in found.columns.items()
    ]
    pd.DataFrame(rows).replace({"full": "nothing"}).to_csv(Path(__file__).with_name("cut.csv"), index=False)


if __name__ == "__main__":
    main()
