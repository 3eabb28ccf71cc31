"""The main job in one call: train gates, keep edges, measure the circuit, and say where it came from."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from circuitgraph.circuit import Circuit
from circuitgraph.compile import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.memory.peak import peak_rss_bytes
from pruning.cards import discovery_card, metrics_line
from pruning.diagnose import diagnose
from pruning.discretize import discretize, edges_to_keep
from pruning.evaluation import evaluate, metrics_table
from pruning.faithful_keep import keep_faithful
from pruning.frozen_cache.disk import DiskCache
from pruning.frozen_runs import FrozenRuns
from pruning.objectives import TAKES_TOP_K, objective_named
from pruning.recipes import Recipe, recipe_named
from pruning.tasks import TaskData
from pruning.train import StepRecord, Trainer, TrainingRun, train
from pruning.verdicts import verdicts
from pruning.versions import installed_version

_LIBRARIES = ("transformer-circuitgraph", "torch", "transformers", "networkx", "numpy", "numba")


@dataclass(frozen=True, kw_only=True, repr=False)
class Discovery:
    """What `discover` gives back.

    Attributes:
        circuit: The circuit, with its provenance.
        metrics: `sparsity`, `splits` (by split, role and metric), `seconds`, `peak_rss_bytes`, `frozen_runs`
            (prompts by where their runs came from), `verdicts` (what the figures say against the run, see
            `pruning.verdicts`).
        examples: A row a test prompt.
        curve: A row a training step.
        diagnoses: What may be wrong, in words.
        run: The training run with its gates.
    """

    circuit: Circuit
    metrics: dict[str, Any]
    examples: pd.DataFrame
    curve: pd.DataFrame
    diagnoses: tuple[str, ...]
    run: TrainingRun

    def table(self, split: str = "test") -> pd.DataFrame:
        """The metrics of a split as a table, see `pruning.metrics_table`.

        Raises:
            UnknownNameError: That split was not evaluated.
        """
        by_split = self.metrics["splits"]
        if split not in by_split:
            raise UnknownNameError.of("evaluated split", split, by_split)
        return metrics_table(by_split[split])

    def __repr__(self) -> str:
        by_split = self.metrics["splits"]
        told = "".join(f"; {split}: {metrics_line(by_role)}" for split, by_role in by_split.items())
        return f"<Discovery of {self.circuit!r}{told}>"

    def _repr_html_(self) -> str:
        return discovery_card(self)


def discover(
    compiled: CompiledModel,
    task: TaskData,
    recipe: Recipe | str = "quick",
    *,
    objective: str | None = None,
    ablation: str | None = None,
    seed: int = 0,
    splits: Sequence[str] = ("validation", "test"),
    n_random: int = 10,
    cache_bytes: int = 2 << 30,
    disk_cache: DiskCache | None = None,
    teacher_top_k: int | None = None,
    micro_batch: int | None = None,
    recompute: bool = False,
    lanes: int | None = None,
    replay: bool | None = None,
    watch: Callable[[StepRecord], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Discovery:
    """Find the circuit that a model uses for a task.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: The settings, or the name of a recipe.
        objective: What is compared; by default the recipe's, else the task's own.
        ablation: What cut edges carry; by default the recipe's, else counterfactual.
        seed: Of everything random.
        splits: Splits to evaluate on.
        n_random: Random circuits to compare with.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for those that memory cannot hold, and for the next run; None keeps nothing on disk.
        teacher_top_k: Train towards the full model's likeliest tokens and the mass of all others, instead of its
            whole vocabulary; the evaluation takes the whole vocabulary in any case.
        micro_batch: Prompts run at once in training; by default all of a batch.
        recompute: Run MLPs once more in the backward pass instead of keeping what is inside them.
        lanes: Parts of a batch that run side by side in training; by default as many as pay (see `pruning.lanes`).
        replay: Whether training steps are recorded and replayed where that pays; by default on CUDA (see
            `pruning.replay`).
        watch: Called after every step.
        say: Called with a line at the start of each stage.

    Returns:
        The circuit, its measures and its provenance.

    Raises:
        ConfigurationError: Settings that cannot work together.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    objective = objective or recipe.objective or task.objective
    ablation = ablation or recipe.ablation or "counterfactual"
    say = say or (lambda line: None)
    objective_named(objective)
    check_top_k(teacher_top_k, objective, compiled.shape.d_vocab)
    compiled.gate_map.check_target(recipe.target_sparsity)
    if not len(task.splits["train"]):
        raise ConfigurationError(f"task {task.name}: the train split is empty; there is nothing to learn from")
    began = time.perf_counter()
    say(f"keeping what never changes of {len(task.splits['train']):,} training prompts")
    frozen = FrozenRuns(
        compiled,
        task.splits["train"],
        ablation=ablation,
        budget_bytes=cache_bytes,
        disk=disk_cache,
        teacher_top_k=teacher_top_k,
    )
    say(f"frozen runs: {frozen.describe()}")
    trainer = Trainer(
        compiled, frozen, recipe, objective=objective, seed=seed,
        micro_batch=micro_batch, recompute=recompute, lanes=lanes, replay=replay, say=say,
    )  # fmt: skip
    runner = trainer.runner
    lanes, replay, at_once = runner.lanes, runner.replays, runner.micro_batch
    beside = f", {lanes} parts of a batch side by side" if lanes > 1 else ""
    say(f"training {compiled.gate_map.n_parameters:,} gates for {recipe.steps:,} steps ({recipe.name}){beside}")
    run = train(trainer, watch)
    trained = time.perf_counter() - began
    drawn = frozen.counts()
    held = {
        "micro_batch": at_once, "micro_batch_at_the_end": runner.micro_batch, "recompute": runner.recompute,
        "cache_bytes": cache_bytes, "short_runs": frozen.short,
    }  # fmt: skip
    say(f"prompts drawn in training: {frozen.drawn}")
    del trainer, runner, frozen  # the evaluation needs the memory
    if recipe.keep in ("faithful", "minimal"):
        say("looking for the fewest edges that are enough")
        edges, scores = keep_faithful(
            compiled, run.gates, task.splits["train"],
            ablation=ablation, tolerance=recipe.tolerance, minimal=recipe.keep == "minimal",
        )  # fmt: skip
    else:
        keep = edges_to_keep(run.gates, rule=recipe.keep, target_sparsity=_final_target(run, recipe))
        edges, scores = discretize(run.gates, keep=keep)
    circuit = Circuit.from_edges(compiled.universe, edges, scores=scores, ablation=ablation)
    by_split, examples = {}, pd.DataFrame()
    for split in splits:
        say(f"evaluating on {len(task.splits[split])} {split} prompts")
        found = evaluate(
            compiled,
            circuit,
            task.splits[split],
            ablation_data=task.splits["train"],
            n_random=n_random,
            seed=seed,
            raw_edges=edges,
        )
        by_split[split], examples = found.metrics, found.examples
    metrics = {
        "sparsity": {**circuit.sparsity, **_change_by_dropping(by_split)},
        "splits": by_split,
        "seconds": time.perf_counter() - began,
        "training_seconds": trained,
        "peak_rss_bytes": peak_rss_bytes(),
        "frozen_runs": drawn,
    }
    provenance = {
        **compiled.identity,
        "tokenizer": type(compiled.tokenizer).__name__,
        "dtype": str(compiled.dtype).removeprefix("torch."),
        "kernels": compiled.kernels,
        "cpu_kernels": compiled.uses_cpu_kernels,
        "lanes": lanes,
        "replay": replay,
        "memory": held,
        "task": task.name,
        "task_options": dict(task.provenance),
        "data_hash": task.data_hash,
        "objective": objective,
        "teacher_top_k": teacher_top_k,
        "recipe": recipe.to_dict(),
        "method": "edge-pruning",
        "score_meaning": "log-alpha",
        "seed": seed,
        "steps_taken": len(run.records),
        "edits": compiled.gate_map.edits,
        "metrics": by_split,
        "seconds": metrics["seconds"],
        "versions": library_versions(),
        "hardware": hardware(compiled.device),
    }
    first = by_split.get("validation") or next(iter(by_split.values()), None)
    judged = verdicts(metrics)
    against = {one["name"] for one in judged if one["severity"] == "wrong"}
    diagnoses = diagnose(run, circuit, recipe, first, objective=objective, verdicts=against)
    return Discovery(
        circuit=circuit.with_provenance(provenance),
        metrics={**metrics, "diagnoses": diagnoses, "verdicts": judged},
        examples=examples,
        curve=pd.DataFrame([asdict(record) for record in run.records]),
        diagnoses=tuple(diagnoses),
        run=run,
    )


def check_top_k(teacher_top_k: int | None, objective: str, d_vocab: int) -> None:
    """Refuse a cut vocabulary where the objective needs all of it.

    Args:
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps all.
        objective: What is compared.
        d_vocab: Size of the vocabulary.

    Raises:
        ConfigurationError: The objective needs the whole vocabulary.

    Examples:
        >>> check_top_k(64, "kl", 50257)
        >>> check_top_k(64, "mse", 1)
    """
    if teacher_top_k is not None and teacher_top_k < d_vocab and objective not in TAKES_TOP_K:
        raise ConfigurationError(
            f"objective {objective!r} needs the full model's whole vocabulary, and teacher_top_k={teacher_top_k} "
            f"keeps its likeliest tokens alone; leave it out, or use {' or '.join(TAKES_TOP_K)}"
        )


def _change_by_dropping(by_split: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How much dropping dangling edges changed the KL: nothing but rounding, or something is wrong."""
    for found in by_split.values():
        if found["circuit"].get("kl") is not None and found["raw"].get("kl") is not None:
            return {"kl_effective_minus_raw": found["circuit"]["kl"] - found["raw"]["kl"]}
    return {}


def _final_target(run: TrainingRun, recipe: Recipe) -> float:
    """The target that the gates were trained towards when training ended."""
    return run.records[-1].target if run.records else recipe.target_sparsity


def library_versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    libraries = {name: installed_version(name) or "not installed" for name in _LIBRARIES}
    return {"python": platform.python_version(), **libraries}


def hardware(device: torch.device) -> dict[str, str | int]:
    """What it ran on."""
    found: dict[str, str | int] = {"device": str(device), "threads": torch.get_num_threads()}
    found["cpu"] = platform.processor() or platform.machine()
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
