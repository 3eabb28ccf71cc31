"""How long a whole training step takes, as a ratio to the plain model's forward plus backward.

    python tests/benchmarks/masked_step.py [--model smollm2-135m] [--batch 8] [--gates runs/demo/gates.safetensors]

Stages are run in turn within each round, and the medians over the rounds are compared, so that a noisy
machine disturbs all of them alike. `plain` is the Hugging Face model's forward to the logits at the answer
positions and its backward to the embeddings, on the same tokens. A step is everything that training does:
drawing gates, masked forward, backward, optimiser.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from circuitgraph import compile_model, load_model
from pruning import load_task, recipe_named
from pruning.frozen_runs import FrozenRuns
from pruning.train import Trainer


def stages(trainer: Trainer, gates_file: str | None) -> dict[str, torch.Tensor]:
    """The α of every stage."""
    n = trainer.gates.log_alpha.numel()
    generator = torch.Generator().manual_seed(0)
    found = {
        "start, α = 10": torch.full((n,), 10.0),
        "warm start": trainer.gates.log_alpha.detach().clone(),
        "middle, α ~ N(0, 2)": torch.randn(n, generator=generator) * 2,
    }
    if gates_file is not None:
        found["trained"] = load_file(gates_file)["log_alpha"]
    return found


def plain_step(model: torch.nn.Module, batch) -> None:
    """The Hugging Face model's forward, and its backward to the embeddings."""
    embedded = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    hidden = model.model(inputs_embeds=embedded).last_hidden_state.flatten(0, 1)[batch.predict_index]
    model.lm_head(hidden).log_softmax(-1)[:, 0].sum().backward()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a Llama model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gates", help="gates.safetensors of a run, for the trained stage")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    loaded = load_model(options.model)
    compiled = compile_model(loaded, verify=False)
    task = load_task("ioi", loaded.tokenizer, sizes={"train": 200, "validation": 8, "test": 8})
    frozen = FrozenRuns(compiled, task.splits["train"], ablation="counterfactual")
    length, members = max(frozen.by_length.items(), key=lambda item: len(item[1]))
    frozen.by_length = {length: members[: options.batch]}
    batch = frozen.batch(members[: options.batch]).pairs.clean
    recipe = recipe_named("quick").changed(batch_size=options.batch)
    trainer = Trainer(compiled, frozen, recipe, objective="kl", seed=0)
    trainer._hold_budget = lambda target: None  # type: ignore[method-assign]  # the stage says which gates there are
    loaded.model.requires_grad_(False)
    undecided: dict[str, int] = {}
    runs: dict[str, Callable[[], None]] = {"plain": lambda: plain_step(loaded.model, batch)}
    for name, log_alpha in stages(trainer, options.gates).items():

        def run(name: str = name, log_alpha: torch.Tensor = log_alpha) -> None:
            trainer.gates.log_alpha.data.copy_(log_alpha)
            undecided[name] = trainer.step(0).undecided

        runs[name] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, call in runs.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = {
        name: {"seconds": value, "ratio": value / medians["plain"], "undecided": undecided.get(name, 0)}
        for name, value in medians.items()
    }
    if options.json:
        print(json.dumps({"batch": options.batch, "seq": int(length), "threads": torch.get_num_threads(), **rows}))
        return
    print(f"{options.batch} x {length} tokens, {torch.get_num_threads()} threads, median of {options.rounds}")
    for name, row in rows.items():
        print(f"{name:22}{row['seconds']:8.3f} s   ratio {row['ratio']:5.2f}   {row['undecided']:6,} undecided")


if __name__ == "__main__":
    main()
