"""Make the result of the page on circuits of facts: `python docs/studies/facts/remake.py`.

`hits.csv`: how often the right capital is among the ten most probable tokens, for the model, for circuits of 1, 2 and
5 % of its edges, and for ten random circuits as large as the last, on facts that the circuits were made of and on
others; `hits.json`: how.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from circuitgraph import Circuit, CompiledModel, compile_model, load_model
from pruning import EncodedPairs, load_task, rank_edges, top_edges
from pruning.evaluation.measured import measure_prompts
from pruning.evaluation.random_circuits import random_circuit

HERE = Path(__file__).parent
TASK, TOP = "capitals:in-context", 10
SHARES = (0.01, 0.02, 0.05)
ABLATIONS = ("counterfactual", "zero")
N_NEW, N_RANDOM, N_RANDOM_ON = 40, 10, 20


def main() -> None:
    """Rank edges on known facts, cut, and measure."""
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    task = load_task(TASK, loaded.tokenizer)
    train, new = task.split("train"), task.split("test").subset(range(N_NEW))
    made_of = train.subset(np.flatnonzero(known_facts(compiled, train)))
    known_new = known_facts(compiled, new)
    about: dict[str, object] = {
        "task": TASK, "data_hash": task.data_hash, "n_edges": compiled.universe.n_edges,
        "training_facts": len(train), "known_of_them": len(made_of), "new_facts": len(new),
        "known_of_new": int(known_new.sum()), "random_on": N_RANDOM_ON,
    }  # fmt: skip
    rows = []
    for ablation in ABLATIONS:
        began = time.process_time()
        scores = rank_edges(compiled, made_of, "gate-importance", ablation=ablation)
        circuits = {f"{100 * share:g} %": top_edges(scores, int(share * compiled.universe.n_edges)) for share in SHARES}
        largest = circuits[f"{100 * SHARES[-1]:g} %"]
        told(f"{ablation}: ranked, {len(largest)} edges")
        circuits |= {f"random {seed}": random_circuit(largest, seed=seed) for seed in range(N_RANDOM)}
        for facts, pairs, known in (("made of", made_of, np.ones(len(made_of), dtype=bool)), ("new", new, known_new)):
            rows += measured(compiled, circuits, pairs, known, {"ablation": ablation, "facts": facts})
            told(f"{ablation}, {facts}\n{pd.DataFrame(rows).round(3).to_string()}")
        about[f"cpu_seconds, {ablation}"] = round(time.process_time() - began)
        pd.DataFrame(rows).to_csv(HERE / "hits.csv", index=False, float_format="%.5g")
    (HERE / "hits.json").write_text(json.dumps(about, indent=2) + "\n")


def known_facts(compiled: CompiledModel, pairs: EncodedPairs) -> np.ndarray:
    """Of each prompt, whether the right capital is the model's most probable token."""
    found = measure_prompts(compiled, {}, pairs, ablation="zero", hit_at=1)
    return found.columns["full"]["hit_at_1"] > 0


def measured(
    compiled: CompiledModel,
    circuits: Mapping[str, Circuit],
    pairs: EncodedPairs,
    known: np.ndarray,
    about: Mapping[str, object],
) -> list[dict[str, object]]:
    """A row per circuit, and one of the model: Hit@10 of all prompts, and of the known ones."""
    masks = {name: circuit.mask for name, circuit in circuits.items()}
    some = np.arange(min(N_RANDOM_ON, len(pairs)))
    only_on = {name: some for name in masks if name.startswith("random")}
    found = measure_prompts(compiled, masks, pairs, ablation=str(about["ablation"]), only_on=only_on, hit_at=TOP)
    rows: list[dict[str, object]] = []
    for name, scores in found.columns.items():
        hit, those = scores[f"hit_at_{TOP}"], known[found.only_on.get(name, slice(None))]
        n_edges = len(circuits[name]) if name in circuits else compiled.universe.n_edges
        rows.append(
            {
                **about, "circuit": name, "edges": n_edges, "prompts": len(hit), "hits": float(hit.mean()),
                "known": int(those.sum()), "hits of known": float(hit[those].mean()),
                "accuracy": float(scores["accuracy"].mean()), "kl": float(scores["kl"].mean()),
            }
        )  # fmt: skip
    return rows


def told(line: str) -> None:
    """Say it at once."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    main()
