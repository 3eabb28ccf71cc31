"""Train the gates of a compiled program and say as JSON what came of it.

Run as `python -m tests.pruning.methods.edge_pruning.recover_tracr PROGRAM SEED`. A process of its own has none of the
tests' type checks at every call, which make 2,000 steps take four times as long.
"""

from __future__ import annotations

import json
import sys

from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from pruning.runs.discover import discover
from pruning.tasks import load_task


def recover(program: str, seed: int) -> dict[str, object]:
    """Edges by score, the best first; the circuit's edges; the size of the universe; exact match on test prompts."""
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task(f"tracr-{program}", loaded.tokenizer)
    found = discover(compiled, task, "tracr", seed=seed, n_random=0, splits=("test",))
    names = [compiled.universe.edge_name(edge) for edge in range(compiled.universe.n_edges)]
    ranked = sorted(zip(found.run.gates.scores().tolist(), names, strict=True), reverse=True)
    return {
        "ranked": [name for _, name in ranked],
        "kept": list(found.circuit),
        "n_edges": compiled.universe.n_edges,
        "exact_match": found.metrics["splits"]["test"]["circuit"]["exact_match"],
    }


if __name__ == "__main__":
    print(json.dumps(recover(sys.argv[1], int(sys.argv[2]))))
