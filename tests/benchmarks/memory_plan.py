"""The memory estimate against the measured peak of a training step, one process for each case.

    python tests/benchmarks/memory_plan.py [--case NAME] [--device cuda]

A case is a randomly initialised model and a batch; its run is what `discover` does: frozen runs, then steps
with every gate undecided. On a CPU the peak is the process's own, program included; on CUDA it is that of what torch's
allocator has handed out. One thread, where a case does not say else.
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
    "gpt2-small, 16 x 32, two threads": {"family": "gpt2", "batch": 16, "seq": 32, "threads": 2},
    "gpt2-small, 8 x 64, three differ": {"family": "gpt2", "batch": 8, "seq": 64, "differ": "three"},
    "gpt2-small, 8 x 64, bfloat16": {"family": "gpt2", "batch": 8, "seq": 64, "dtype": "bfloat16"},
    "gpt2-small, 32 x 64": {"family": "gpt2", "batch": 32, "seq": 64},
    "gpt2-small, 1 x 64, 32 prompts": {"family": "gpt2", "batch": 1, "seq": 64, "n_prompts": 32},
    "llama 135M, 4 x 16": {"family": "llama", "batch": 4, "seq": 16},
    "llama 135M, 16 x 16": {"family": "llama", "batch": 16, "seq": 16},
    "llama 135M, 8 x 64": {"family": "llama", "batch": 8, "seq": 64},
    "llama 135M, 8 x 64, bfloat16": {"family": "llama", "batch": 8, "seq": 64, "dtype": "bfloat16"},
    "llama 135M, 8 x 64, zero ablation": {"family": "llama", "batch": 8, "seq": 64, "ablation": "zero"},
    "llama 13B / 16 wide, 4 x 64": {"family": "codellama", "narrow": 16, "batch": 4, "seq": 64},
    "llama 13B, 16 x 64, bfloat16": {
        "family": "codellama", "batch": 16, "seq": 64, "dtype": "bfloat16", "differ": "three",
    },
}  # fmt: skip
ON_A_DEVICE = {"llama 13B, 16 x 64, bfloat16"}
"""Cases for which a CPU would take hours."""


def config_of(family: str, narrow: int = 1):
    """A model's config; CodeLlama-13B's with widths divided by `narrow`."""
    from transformers import GPT2Config, LlamaConfig

    if family == "gpt2":
        return GPT2Config()
    if family == "codellama":
        return LlamaConfig(
            vocab_size=32016 // narrow, hidden_size=5120 // narrow, intermediate_size=13824 // narrow,
            num_hidden_layers=40, num_attention_heads=40, head_dim=128 // narrow, max_position_embeddings=16384,
            tie_word_embeddings=False,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip


def measure(
    family: str,
    batch: int,
    seq: int,
    *,
    device: str,
    narrow: int = 1,
    dtype: str = "float32",
    recompute: bool = False,
    ablation: str = "counterfactual",
    differ: str = "all",
    n_prompts: int | None = None,
    threads: int = 1,
) -> dict[str, int]:
    """Run a case in this process; its estimate and its peak."""
    import torch
    from transformers import GPT2LMHeadModel, LlamaForCausalLM

    from circuitgraph.compiled.compile import compile_model
    from circuitgraph.memory.peak import peak_rss_bytes
    from circuitgraph.memory.sizes import model_sizes
    from pruning.bench.models import random_model
    from pruning.bench.prompts import random_prompts
    from pruning.execution.step_settings import StepSettings
    from pruning.frozen.runs import FrozenRuns
    from pruning.methods.edge_pruning.recipes import recipe_named
    from pruning.methods.edge_pruning.train import Trainer
    from pruning.prompts.reached import share_reached

    torch.set_num_threads(threads)
    config = config_of(family, narrow)
    n_prompts = n_prompts or 2 * batch
    pairs = random_prompts(n_prompts, seq, d_vocab=1000, seed=0, differ=differ).pairs
    estimate = model_sizes(config).estimate(
        batch, seq=seq, dtype=dtype, device=device, share_reached=share_reached(pairs), n_prompts=n_prompts,
        ablation=ablation, recompute=recompute,
    )  # fmt: skip
    model_class = GPT2LMHeadModel if family == "gpt2" else LlamaForCausalLM
    model = random_model(model_class, config, seed=0, dtype=getattr(torch, dtype), device=device)
    compiled = compile_model(model, verify=False)
    frozen = FrozenRuns(compiled, pairs, ablation=ablation)
    recipe = recipe_named("quick").changed(batch_size=batch, warm_start="none", init_mean=0.0, init_std=0.1)
    trainer = Trainer(compiled, frozen, recipe, objective="kl", seed=0, how=StepSettings(recompute=recompute))
    for step in range(2):
        trainer.step(step)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_rss_bytes()
    return {**estimate.to_dict(), "peak": peak}


def main() -> None:
    """Measure every case, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--here", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(**CASES[options.case], device=options.device)))
        return
    fit = [name for name in CASES if options.device == "cuda" or name not in ON_A_DEVICE]
    for name in [options.case] if options.case else fit:
        command = [sys.executable, __file__, "--here", "--case", name, "--device", options.device]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            print(f"{name}: failed\n{ran.stderr}")
            continue
        found = json.loads(ran.stdout)
        off = found["total"] - found["peak"]
        print(
            f"{name:36} estimated {found['total'] / 2**20:7.0f} MiB, peak {found['peak'] / 2**20:7.0f} MiB, "
            f"{off / 2**20:+6.0f} MiB ({100 * off / found['peak']:+.0f} %)",
            flush=True,
        )


if __name__ == "__main__":
    main()
