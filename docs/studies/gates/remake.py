"""Make the results that the page on gates shows: `python docs/studies/gates/remake.py [toys] [model] [seeds]`.

`toys.csv`: labels and trained circuits of the toys, five seeds. `ioi.csv`: KL of circuits and of their complements,
SmolLM2-135M on indirect objects, edges ranked by noising, by denoising and by both; `ioi.json`: how.
`seeds.csv`: how far trained circuits of several seeds are apart, in one direction and in both; `kl.csv`: their KL.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import logic_gates
from circuitgraph import Circuit, EdgeScores, compile_model, load_model
from circuitgraph.circuits.combined_scores import both_directions
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models.gate_toys import GATE_TOYS, gate_toy
from pruning import evaluate_masks, load_task, rank_edges, top_edges
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks.gate_toys import gate_prompts

HERE = Path(__file__).parent
WAYS = ("noising", "denoising")
SEEDS = range(5)
SEEDS_OF_MODEL = range(3)
STEPS, N_TRAINED = 300, 1000
SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000)
# How many of the toy's 13 edges are asked for: one head into the MLP where one is enough, both elsewhere.
TRAINED = {("or", "noising"): 3, ("or", "denoising"): 5, ("and", "noising"): 5, ("and", "denoising"): 3,
           ("adder", "noising"): 5, ("adder", "denoising"): 5}  # fmt: skip


def toys() -> None:
    """Label the toys' edges and train gates on them."""
    rows = []
    for kind, truth in GATE_TOYS.items():
        toy = gate_toy(kind)
        compiled = compile_model(toy, embeddings="joint")
        for seed in SEEDS:
            pairs = gate_prompts(toy, 16, seed=seed)
            effects = {way: _ranked(compiled, pairs, "exact", way, {}, seed) for way in WAYS}
            found = logic_gates(effects["noising"], effects["denoising"]).table.set_index("edge")
            kept = {
                way: top_edges(_trained(compiled, pairs, way, n, seed), n)
                for way in WAYS
                if (n := TRAINED.get((kind, way)))
            }
            for edge, gate in truth.items():
                row = found.loc[edge]
                rows.append(
                    {
                        "toy": kind, "seed": seed, "edge": edge, "truth": gate, "label": row["gate"],
                        "noising": row["noising"], "denoising": row["denoising"],
                        **{f"kept by {way}": edge in circuit for way, circuit in kept.items()},
                    }
                )  # fmt: skip
    pd.DataFrame(rows).to_csv(HERE / "toys.csv", index=False)


def _ranked(
    compiled: CompiledModel, pairs: EncodedPairs, method: str, way: str, settings: dict[str, object], seed: int
) -> EdgeScores:
    return rank_edges(
        compiled, pairs, method, settings, direction=way, objective="mse", ablation="counterfactual", seed=seed
    )


def _trained(compiled: CompiledModel, pairs: EncodedPairs, way: str, n: int, seed: int) -> EdgeScores:
    settings = {"steps": 120, "sparsity": 1 - n / compiled.universe.n_edges}
    return _ranked(compiled, pairs, "edge-pruning", way, settings, seed)


def model() -> None:
    """Rank SmolLM2's edges in either direction, and measure circuits of equal size by noising."""
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    task = load_task("ioi", loaded.tokenizer, sizes={"train": 60, "validation": 0, "test": 48})
    began = time.process_time()
    one, other = (rank_edges(compiled, task, "gate-importance", direction=way, objective="kl") for way in WAYS)
    ranking = time.process_time() - began
    scores = {"noising": one, "denoising": other, "both": both_directions(one, other)}
    circuits = {(way, n): top_edges(found, n) for way, found in scores.items() for n in SIZES}
    masks: dict[str, Circuit | np.ndarray] = {f"{way} {n}": circuit for (way, n), circuit in circuits.items()}
    masks |= {f"{way} {n}, without": ~circuit.mask for (way, n), circuit in circuits.items()}
    masks["none"] = np.zeros(compiled.universe.n_edges, dtype=bool)
    measured = evaluate_masks(compiled, masks, task.split("test"), ablation="counterfactual")
    rows = []
    for (way, n), circuit in circuits.items():
        row = {"found by": way, "asked for": n, "edges": len(circuit)}
        for name, figures in (("faithfulness", f"{way} {n}"), ("completeness", f"{way} {n}, without")):
            low, high = measured[figures]["intervals"]["kl"]
            row |= {name: measured[figures]["kl"], f"{name} low": low, f"{name} high": high}
        rows.append(row)
    pd.DataFrame(rows).to_csv(HERE / "ioi.csv", index=False)
    kept = {way: circuits[way, 1000] for way in scores}
    about = {
        "prompts": {split: len(part) for split, part in task.splits.items()}, "data_hash": task.data_hash,
        "n_edges": compiled.universe.n_edges, "settings": one.provenance["settings"],
        "shared_of_1000": {way: len(set(kept["noising"]) & set(kept[way])) for way in kept},
        "kl_of_no_edge": measured["none"]["kl"], "cpu_seconds_ranking": round(ranking),
        "cpu_seconds": round(time.process_time() - began),
    }  # fmt: skip
    (HERE / "ioi.json").write_text(json.dumps(about, indent=2) + "\n")


def seeds() -> None:
    """Train SmolLM2's gates with three seeds, and count edges that two circuits do not share.

    In either direction, with the masks of both averaged, and with those of two trainings by noising averaged.
    """
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    task = load_task("ioi", loaded.tokenizer, sizes={"train": 60, "validation": 0, "test": 48})
    settings = {"steps": STEPS, "sparsity": 1 - N_TRAINED / compiled.universe.n_edges}
    circuits: dict[tuple[str, int], Circuit] = {}
    for seed in SEEDS_OF_MODEL:
        noising, denoising, again = (
            rank_edges(compiled, task, "edge-pruning", settings, direction=way, objective="kl", seed=of)
            for way, of in (("noising", seed), ("denoising", seed), ("noising", seed + 100))
        )
        scores = {
            "noising": noising, "denoising": denoising, "both": both_directions(noising, denoising),
            "noising twice": both_directions(noising, again),
        }  # fmt: skip
        circuits |= {(way, seed): top_edges(of_way, N_TRAINED) for way, of_way in scores.items()}
        print(f"seed {seed}: {time.process_time():.0f} s of processor time", flush=True)
    rows = [
        {
            "found by": way, "seed": a, "other seed": b,
            "distance": int((circuits[way, a].mask ^ circuits[way, b].mask).sum()),
        }
        for way in (*WAYS, "both", "noising twice") for a, b in combinations(SEEDS_OF_MODEL, 2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(HERE / "seeds.csv", index=False)
    masks: dict[str, Circuit | np.ndarray] = {f"{way} {seed}": circuit for (way, seed), circuit in circuits.items()}
    measured = evaluate_masks(compiled, masks, task.split("test"), ablation="counterfactual")
    pd.DataFrame(
        {"found by": way, "seed": seed, "edges": len(circuit), "kl": measured[f"{way} {seed}"]["kl"]}
        for (way, seed), circuit in circuits.items()
    ).to_csv(HERE / "kl.csv", index=False)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["toys", "model", "seeds"]
    for part, make in (("toys", toys), ("model", model), ("seeds", seeds)):
        if part in asked:
            make()
