"""The GPU's share of the measurements, in one call from the repository's root:

    python -m tests.benchmarks.gpu [--parts card exact bench train large] [--micro-batch N] [--recompute]

Each part prints a line of JSON as it ends, so that a run that is cut off still tells; a part that fails prints its
error and the next one begins. The exit code is 1 if anything failed or was inexact.

- `card`: what it runs on.
- `exact`: the executor in float32 and bfloat16 against its float64 run on the CPU, and replayed steps against plain
  ones (`exactness.py`).
- `bench`: `circuitgraph bench` on GPT-2 small's shape in bfloat16, 32 prompts of 64 tokens.
- `train`: a short training of gates on that shape, replayed and launched step by step: seconds per step, how far the
  objective fell, and how many kept edges the two have in common (bfloat16 rounds differently in each).
- `large`: CodeLlama-13B's shape (40 layers, 40 heads, d_model 5120), random bfloat16 weights made on the device, 32
  prompts of 64 tokens: the plain model, then a training step at the start, in the middle, and at 99.9 %, where
  the circuit is made up (`made_gates.py`): `concentrated` has as many edges a node as a trained one, `spread` lets
  every head take part; then the evaluation of both. Stages run one after another, since no two fit beside each
  other; memory is the allocator's peak, with and without the weights.

Without a GPU every part runs at small sizes, which proves the code and no speed:

    python -m tests.benchmarks.gpu --device cpu --dtype float32 --narrow 16 --batch 2 --seq 8 --rounds 1

`--narrow 16` divides the widths of the large model by 16 and leaves its graph of 3,877,661 edges as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models import check_device
from pruning.bench.memory import Meter, meter_for, settle
from pruning.bench.models import random_model
from pruning.bench.prompts import random_prompts
from pruning.bench.report import card, versions
from pruning.bench.running import run_bench
from pruning.bench.settings import GPT2_RANDOM, BenchSettings
from pruning.bench.stages import EvaluateStage, PlainStage, Stage, StepStage, Workbench, middle_alpha, start_alpha
from pruning.bench.timing import interleaved
from pruning.execution.step_settings import StepSettings
from pruning.execution.threads import threads
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.selection.best import discretize, edges_to_keep
from tests.benchmarks.exactness import compare, compare_replayed
from tests.benchmarks.made_gates import EDGES_A_NODE, made_alpha, made_circuit

Row = dict[str, Any]
SPARSITY = 0.999
SEED = 0


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- small parts


def card_part(asked: argparse.Namespace) -> Iterator[Row]:
    """What it runs on."""
    device = torch.device(asked.device)
    row: Row = {"device": asked.device, "card": card(device), "versions": versions()}
    if device.type == "cuda":
        row["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    yield row


def exact_part(asked: argparse.Namespace) -> Iterator[Row]:
    """Errors of the executor."""
    yield from compare(torch.device(asked.device), width=asked.exact_width)
    yield from compare_replayed(torch.device(asked.device), width=asked.exact_width)


def bench_part(asked: argparse.Namespace) -> Iterator[Row]:
    """The benchmark that anyone can run, at the size of the GPU's targets."""
    settings = BenchSettings(
        model=asked.bench_model, batch=asked.batch, seq=asked.seq, device=asked.device, dtype=asked.dtype,
        rounds=asked.rounds, threads=asked.threads,
    )  # fmt: skip
    yield run_bench(settings, watch=say)


def train_part(asked: argparse.Namespace) -> Iterator[Row]:
    """A short training, replayed and not."""
    settings = BenchSettings(
        model=asked.bench_model, batch=2 * asked.batch, seq=asked.seq, device=asked.device, dtype=asked.dtype
    )
    bench = Workbench.of(settings)
    recipe = recipe_named("quick").changed(
        steps=asked.train_steps, ramp_steps=asked.train_steps // 2, batch_size=asked.batch
    )
    kept: list[np.ndarray] = []
    for replay in (False, True):
        began = time.perf_counter()
        how = StepSettings(replay=replay)
        trainer = Trainer(bench.compiled, bench.frozen, recipe, objective="kl", seed=SEED, how=how, say=say)
        started = time.perf_counter()
        run = train(trainer)
        edges, _ = discretize(run.gates, keep=edges_to_keep(run.gates, rule="target", target_sparsity=0.97))
        kept.append(edges)
        seconds = np.diff([record.seconds for record in run.records])
        yield {
            "replay": replay, "steps": len(run.records), "warm_start_seconds": started - began,
            "train_seconds": time.perf_counter() - started, "seconds_a_step": float(np.median(seconds)),
            "slowest_step": float(seconds.max()), "objective": [run.records[0].objective, run.records[-1].objective],
            "sparsity": run.records[-1].sparsity, "stopped_by": run.stopped_by, "recordings": recordings(trainer),
            "in_common": len(np.intersect1d(kept[0], edges)) / max(1, len(edges)),
        }  # fmt: skip


def recordings(trainer: Trainer) -> int:
    """How often steps were recorded."""
    return trainer.runner.recorded


# ---------------------------------------------------------------- the large model


def large_config(narrow: int, layers: int, heads: int) -> LlamaConfig:
    """CodeLlama-13B's sizes, widths divided by `narrow`."""
    d_head = 128 // narrow
    return LlamaConfig(
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=d_head,
        hidden_size=heads * d_head, intermediate_size=13824 // narrow, vocab_size=32016 // narrow,
        max_position_embeddings=16384, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, initializer_range=(heads * d_head) ** -0.5,
    )  # fmt: skip


class Large:
    """The large model, with what its stages share.

    Args:
        asked: The command line's options.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.device = asked, torch.device(asked.device)
        found = meter_for(self.device)
        assert found is not None, "memory can be measured on cpu and cuda"
        self.meter: Meter = found
        settle()
        before = self.meter.now()
        config = large_config(asked.narrow, asked.layers, asked.heads)
        dtype = getattr(torch, asked.dtype)
        self.model = random_model(LlamaForCausalLM, config, seed=SEED, dtype=dtype, device=self.device)
        settle()
        self.base = self.meter.now()
        self.weights = self.base - before
        self.universe = self.compile().universe
        self.prompts = random_prompts(asked.batch, asked.seq, d_vocab=config.vocab_size, seed=SEED)
        self.frozen: FrozenRuns | None = None

    def compile(self) -> CompiledModel:
        """The model compiled, with buffers of its own."""
        return compile_model(self.model, verify=False)

    def fill(self) -> FrozenRuns:
        """The prompts' frozen runs, made once."""
        if self.frozen is None:
            self.frozen = FrozenRuns(
                self.compile(), self.prompts.pairs, ablation="counterfactual", budget_bytes=1 << 62,
                batch_size=self.asked.fill_batch,
            )  # fmt: skip
        return self.frozen

    def step(self, alpha_of: Callable[[torch.Tensor], torch.Tensor]) -> StepStage:
        """A training step."""
        return StepStage(
            self.compile(), self.fill(), alpha_of, micro_batch=self.asked.micro_batch, recompute=self.asked.recompute
        )

    def stages(self) -> Iterator[tuple[str, Callable[[], Stage], Row]]:
        """Every stage: its name, how to make it, and what to say about it."""
        universe = self.universe
        middle = middle_alpha(universe, SEED)
        yield "plain", lambda: PlainStage(self.model, self.prompts, self.device), {}
        yield "start", lambda: self.step(lambda noise: start_alpha(universe, noise)), {}
        for name, edges_a_node in (("concentrated", EDGES_A_NODE), ("spread", 2.0)):
            kept = made_circuit(
                universe, round((1 - self.asked.sparsity) * universe.n_edges), edges_a_node=edges_a_node, seed=SEED
            )
            log_alpha = made_alpha(kept, seed=SEED)
            about = {"kept_edges": int(kept.sum()), "live_nodes": live_nodes(self.compile(), kept)}
            yield f"sparse {name}", lambda log_alpha=log_alpha: self.step(lambda noise: log_alpha), about
            yield f"evaluate {name}", lambda kept=kept: self.evaluation(kept), about
        yield "middle", lambda: self.step(lambda noise: middle), {}

    def evaluation(self, kept: np.ndarray) -> EvaluateStage:
        """A circuit's evaluation."""
        compiled = self.compile()
        return EvaluateStage(compiled, self.fill(), Circuit.from_edges(compiled.universe, kept))

    def measure(self, make: Callable[[], Stage]) -> Row:
        """Make a stage, time it, and read its peak memory."""
        stage = make()
        self.meter.forget()
        timings = interleaved({"it": stage}, rounds=self.asked.rounds, device=self.device, warm_up=1)["it"]
        peak = self.meter.peak()
        row: Row = {
            "seconds": statistics.median(timings.seconds),
            "peak_bytes": peak,
            "peak_above_weights": max(0, peak - self.base),
            "undecided": round(statistics.median(timings.undecided)),
        }
        if isinstance(stage, StepStage):
            row["micro_batch"] = stage.trainer.runner.micro_batch
        return row


def live_nodes(compiled: CompiledModel, kept: np.ndarray) -> int:
    """How many heads and MLPs write into a circuit."""
    writers, _ = compiled.universe.endpoints(np.flatnonzero(kept))
    return len(set(writers.tolist()) - set(range(compiled.universe.n_embeddings)))


def large_part(asked: argparse.Namespace) -> Iterator[Row]:
    """Time and memory of the large model's steps."""
    large = Large(asked)
    parameters = sum(weights.numel() for weights in large.model.parameters())
    yield {
        "stage": "model", "parameters": parameters, "weights_bytes": large.weights, "edges": large.universe.n_edges,
        "layers": asked.layers, "heads": asked.heads, "d_model": large.model.config.hidden_size, "dtype": asked.dtype,
        "batch": asked.batch, "seq": asked.seq, "prompts": large.prompts.told, "memory": large.meter.method,
        "rounds": asked.rounds,
    }  # fmt: skip
    plain: float | None = None
    for name, make, about in large.stages():
        row: Row = {"stage": name, **about}
        try:
            row |= large.measure(make)
            plain = row["seconds"] if name == "plain" else plain
            row["ratio"] = row["seconds"] / plain if plain else None
        except Exception as error:  # noqa: BLE001 - the stages after it are to be measured all the same
            row |= failure(error)
        # Outside of the handler, whose traceback would keep the stage's memory.
        settle()
        yield row


# ---------------------------------------------------------------- running


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "card": card_part,
    "exact": exact_part,
    "bench": bench_part,
    "train": train_part,
    "large": large_part,
}


def failure(error: Exception) -> Row:
    """An error as part of a row."""
    say("".join(traceback.format_exception(error)))
    first = (str(error).strip().splitlines() or [""])[0]
    return {"ok": False, "error": f"{type(error).__name__}: {first}"}


def rows(asked: argparse.Namespace) -> Iterator[Row]:
    """Run the parts asked for, one after the other, whatever happens in them."""
    for name in asked.parts:
        began = time.perf_counter()
        try:
            for row in PARTS[name](asked):
                yield {"part": name, **row, "after_seconds": round(time.perf_counter() - began, 1)}
        except Exception as error:  # noqa: BLE001 - the parts after it are to run all the same
            yield {"part": name, **failure(error)}
        settle()


def options() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", help="of bench and large; exact has its own")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bench-model", default=GPT2_RANDOM)
    parser.add_argument("--train-steps", type=int, default=100, help="of train")
    parser.add_argument("--exact-width", type=int, default=32, help="of a head, in exact")
    parser.add_argument("--narrow", type=int, default=1, help="divides the large model's widths; 1, 2, 4, … 16")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--sparsity", type=float, default=SPARSITY, help="of the large model's made circuits")
    parser.add_argument("--micro-batch", type=int, default=16, help="prompts run at once in the large model's steps")
    parser.add_argument("--recompute", action="store_true", help="run MLPs again on the way back")
    parser.add_argument("--fill-batch", type=int, default=8, help="prompts run at once while the cache is filled")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and say whether all went well."""
    asked = options().parse_args(arguments)
    check_device(asked.device)
    well = True
    with threads(asked.threads):
        for row in rows(asked):
            print(json.dumps(row), flush=True)
            well = well and row.get("ok", True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
