"""The memory estimate against the measured peak of a training step, one process for each case.

    python tests/benchmarks/memory_plan.py [--case NAME]

A case is a randomly initialised model and a batch; its run is what `discover` does: frozen runs, then steps
with every gate undecided. The peak is the process's own, program included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "gpt2-small, 4 x 32": {"family": "gpt2", "batch": 4, "seq": 32},
    "gpt2-small, 16 x 32": {"family": "gpt2", "batch": 16, "seq": 32},
    "gpt2-small, 16 x 32, recompute": {"family": "gpt2", "batch": 16, "seq": 32, "recompute": True},
    "gpt2-small, 8 x 64, bfloat16": {"family": "gpt2", "batch": 8, "seq": 64, "dtype": "bfloat16"},
    "llama 135M, 4 x 16": {"family": "llama", "batch": 4, "seq": 16},
    "llama 135M, 16 x 16": {"family": "llama", "batch": 16, "seq": 16},
    "llama 135M, 8 x 64": {"family": "llama", "batch": 8, "seq": 64},
    "llama 135M, 8 x 64, bfloat16": {"family": "llama", "batch": 8, "seq": 64, "dtype": "bfloat16"},
    "llama 135M, 8 x 64, zero ablation": {"family": "llama", "batch": 8, "seq": 64, "ablation": "zero"},
}


def config_of(family: str):
    """A model's config."""
    from transformers import GPT2Config, LlamaConfig

    if family == "gpt2":
        return GPT2Config()
    return LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip


def measure(
    family: str, batch: int, seq: int, dtype: str = "float32", recompute: bool = False, ablation: str = "counterfactual"
) -> dict[str, int]:
    """Run a case in this process; its estimate and its peak."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from circuitgraph.architectures import family_of
    from circuitgraph.compile import compile_model, universe_of
    from circuitgraph.memory import count_parameters, estimate_memory
    from pruning.discovery import peak_rss_bytes
    from pruning.encoding import EncodedPairs
    from pruning.frozen_runs import FrozenRuns
    from pruning.recipes import recipe_named
    from pruning.train import Trainer

    torch.set_num_threads(1)
    config = config_of(family)
    n_prompts = 2 * batch
    shape = family_of(config.model_type).shape(config)
    estimate = estimate_memory(
        shape, universe_of(family_of(config.model_type), shape), n_parameters=count_parameters(config),
        batch_size=batch, seq=seq, dtype=dtype, n_prompts=n_prompts, ablation=ablation, recompute=recompute,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    compiled = compile_model(model, verify=False)
    drawn = np.random.default_rng(0)
    clean, corrupted = (tuple(drawn.integers(0, 1000, (n_prompts, seq))) for _ in range(2))
    pairs = EncodedPairs(
        clean_ids=clean, corrupted_ids=corrupted, predict_positions=(np.array([seq - 1]),) * n_prompts,
        answer_ids=(np.array([1]),) * n_prompts,
    )  # fmt: skip
    frozen = FrozenRuns(compiled, pairs, ablation=ablation)
    recipe = recipe_named("quick").changed(batch_size=batch, warm_start="none", init_mean=0.0, init_std=0.1)
    trainer = Trainer(compiled, frozen, recipe, objective="kl", seed=0, recompute=recompute)
    for step in range(2):
        trainer.step(step)
    return {**estimate.to_dict(), "peak": peak_rss_bytes()}


def main() -> None:
    """Measure every case, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--here", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(**CASES[options.case])))
        return
    for name in [options.case] if options.case else CASES:
        ran = subprocess.run([sys.executable, __file__, "--here", "--case", name], capture_output=True, text=True)
        if ran.returncode:
            print(f"{name}: failed\n{ran.stderr}")
            continue
        found = json.loads(ran.stdout)
        off = found["total"] - found["peak"]
        print(
            f"{name:36} estimated {found['total'] / 2**20:7.0f} MiB, peak {found['peak'] / 2**20:7.0f} MiB, "
            f"{off / 2**20:+6.0f} MiB ({100 * off / found['peak']:+.0f} %)"
        )


if __name__ == "__main__":
    main()
