"""Steering vectors as a baseline of the scalings: `python docs/studies/steering/vectors.py [fast] [slow]`.

One vector of 576 numbers for the embedding, each layer's attention and each MLP, learnt on the prompts, for the steps
and with the weak pull of `remake.sh`, at two rates, judged at the same strengths; writes `fast-vectors.csv`,
`slow-vectors.csv` and `vectors.json` beside this file.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from circuitgraph import compile_model, load_model
from pruning import load_task
from pruning.steering.scaling import ScalingSettings
from pruning.steering.vectors import judge_vectors, learn_vectors

HERE = Path(__file__).parent
STRENGTHS = (-1.5, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 1.5)
RATES = {"fast": 0.005, "slow": 0.001}
RUNS = {
    name: ScalingSettings(steps=80, batch_size=4, sparsity=0.02, learning_rate=rate) for name, rate in RATES.items()
}


def main() -> None:
    """Learn and judge both."""
    loaded = load_model("smollm2-135m")
    compiled = compile_model(loaded, verify=False)
    task = load_task("ioi", loaded.tokenizer, sizes={"train": 128, "validation": 8, "test": 100})
    kept = HERE / "vectors.json"
    about: dict[str, object] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in sys.argv[1:] or RUNS:
        settings = RUNS[name]
        began = time.process_time()
        # What heads of one layer say is added up at once, so that one of them stands for all.
        sites = [one for one in compiled.universe.writers if not re.fullmatch(r"a\d+\.h[1-9]\d*", one)]
        vectors = learn_vectors(compiled, task.split("train"), settings, writers=sites, tick=told)
        learning = time.process_time() - began
        judged = judge_vectors(compiled, vectors, task.split("test"), strengths=STRENGTHS)
        judged.to_csv(HERE / f"{name}-vectors.csv", index=False, float_format="%.6g")
        lengths = {writer: round(float(vector.norm()), 4) for writer, vector in vectors.items()}
        about[name] = {
            "settings": asdict(settings), "vectors": len(vectors), "cpu_seconds_learning": round(learning),
            "longest": dict(sorted(lengths.items(), key=lambda one: -one[1])[:10]),
        }  # fmt: skip
        print(name, judged.round(3).to_string(), sep="\n", flush=True)
        kept.write_text(json.dumps(about, indent=2) + "\n")


def told(done: int, total: int) -> None:
    """Say how far it is."""
    if done % 10 == 0:
        print(time.strftime("%H:%M:%S"), done, "of", total, flush=True)


if __name__ == "__main__":
    main()
