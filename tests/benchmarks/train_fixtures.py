"""Train the gates that `circuitgraph bench --model gpt2-random` starts its trained stages from.

    python -m tests.benchmarks.train_fixtures [--steps 400] [--sparsity 98 995] [--out pruning/bench/data]

Run it from the repository's root. The model is `gpt2-random` itself: GPT-2 small's shape with seeded random
weights. The task is random tokens, 64 prompts of 32, whose counterfactuals differ in three tokens; what is kept
is whatever carries the full model's output on them. Recipe `quick` (warm start, budget control) with the steps
and the target given; a run for each sparsity. Written are float16 α, with how they were made as the file's
metadata. Each run ends with one line of JSON: sparsity, undecided gates, KL in the last steps, heads and MLPs
that were live.

Random weights have no circuit to find, so the KL says little. What the benchmark needs is the pattern: which
gates a training run at that sparsity has left open, and how many it has left undecided.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models import LoadedModel
from pruning.bench.models import gpt2_random
from pruning.bench.prompts import BenchPrompts, random_prompts
from pruning.bench.report import versions
from pruning.bench.settings import GPT2_RANDOM, SPARSITIES
from pruning.bench.trained import DATA_FOLDER, SHIPPED, TrainedGates, save_trained
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.state import StepRecord
from pruning.methods.edge_pruning.train import Trainer

_LAST = 20


def train_gates(
    compiled: CompiledModel, prompts: BenchPrompts, *, tag: str, steps: int, batch: int, seed: int, out: Path
) -> dict[str, Any]:
    """Train gates to a sparsity and write them.

    Args:
        compiled: The model.
        prompts: The training data.
        tag: A key of `SPARSITIES`.
        steps: Steps of the run.
        batch: Prompts per step.
        seed: Of the run.
        out: The folder that the file goes to.

    Returns:
        What the run came to.
    """
    recipe = recipe_named("quick").changed(steps=steps, target_sparsity=SPARSITIES[tag], batch_size=batch)
    frozen = FrozenRuns(compiled, prompts.pairs, ablation="counterfactual")
    trainer = Trainer(compiled, frozen, recipe, objective="kl", seed=seed)

    def watch(record: StepRecord) -> None:
        if record.step % max(1, steps // 20) == 0:
            print(f"step {record.step} of {steps}: sparsity {record.sparsity:.4f}, {record.undecided} undecided")

    run = train(trainer, watch)
    if run.stopped_by:
        raise SystemExit(f"{tag}: {run.stopped_by}; nothing was written")
    last = run.records[-_LAST:]
    path = out / f"{SHIPPED[GPT2_RANDOM]}-{tag}.safetensors"
    log_alpha = run.gates.log_alpha.detach().half().float()
    told = {
        "file": path.name,
        "model": compiled.name,
        "prompts": f"{len(prompts.pairs)} x {prompts.seq}: {prompts.told}",
        "recipe": f"quick, {steps} steps, {batch} prompts per step, seed {seed}",
        "expected_sparsity": TrainedGates(
            log_alpha=log_alpha, file=path, comes_along=True, sha256="", tag=tag
        ).expected_sparsity,
        "undecided": round(statistics.median(record.undecided for record in last)),
        "kl": statistics.mean(record.objective for record in last),
        "live_heads": round(statistics.median(record.live_heads for record in last)),
        "live_mlps": round(statistics.median(record.live_mlps for record in last)),
        "seconds": last[-1].seconds,
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_trained(path, log_alpha, {name: json.dumps(value) for name, value in told.items()})
    return told


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", nargs="+", choices=sorted(SPARSITIES), default=sorted(SPARSITIES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompts and gates; the benchmark's is 0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=DATA_FOLDER)
    asked = parser.parse_args()
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    model = gpt2_random(asked.seed).to(asked.device)
    loaded = LoadedModel(model=model, tokenizer=None, name=GPT2_RANDOM, revision=f"seed {asked.seed}")
    compiled = compile_model(loaded, verify=False)
    prompts = random_prompts(asked.prompts, asked.seq, d_vocab=compiled.shape.d_vocab, seed=asked.seed)
    for tag in asked.sparsity:
        told = train_gates(
            compiled, prompts, tag=tag, steps=asked.steps, batch=asked.batch, seed=asked.seed, out=asked.out
        )
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
