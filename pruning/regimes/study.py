"""Regimes against each other in one call: align, train, measure, keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, OutputError, UnknownNameError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.sampled import N_RANDOM_PROMPTS
from pruning.execution.objectives import check_objective, objective_named
from pruning.frozen.disk import DiskCache
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.regimes.alignment import require_aligned
from pruning.regimes.faithfulness import Tick, evaluate_regimes
from pruning.regimes.folder import StudyFolder, require_file_names
from pruning.regimes.judged import study_verdicts
from pruning.regimes.training import Training, Watch, kept_circuits, require_universes, train_regimes
from pruning.runs.stages import check_top_k, hardware
from pruning.runs.versions import library_versions
from pruning.tasks import TaskData, load_task, task_names
from pruning.whole_numbers import whole_number

Regime = str | Path | TaskData
GivenCircuits = Mapping[str, Sequence[Circuit | str | Path]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `run_regimes` gives back.

    Attributes:
        circuits: Circuits by regime and seed.
        faithfulness: A row per circuit and regime, see `pruning.regimes.faithfulness.evaluate_regimes`.
        tasks: The prompts by regime.
        about: What the study is: model, regimes, recipe, seeds, versions and so on, as in `study.json`.
        notes: What is worth knowing about the regimes' alignment.
    """

    circuits: dict[str, dict[int, Circuit]]
    faithfulness: pd.DataFrame
    tasks: dict[str, TaskData]
    about: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """What the figures say against the circuits, see `pruning.regimes.judged.study_verdicts`."""
        return self.about["verdicts"]


def regimes_of(task: str) -> dict[str, str]:
    """The regimes that a task comes in.

    Args:
        task: A task that has both `:instruction` and `:in-context`.

    Returns:
        The full names by regime.

    Raises:
        UnknownNameError: No such task, or one without regimes.

    Examples:
        >>> regimes_of("antonyms")
        {'instruction': 'antonyms:instruction', 'in-context': 'antonyms:in-context'}
    """
    known = set(task_names())
    kinds = ("instruction", "in-context")
    both = sorted(name for name in known if all(f"{name}:{kind}" in known for kind in kinds))
    if task not in both:
        raise UnknownNameError.of(
            "task with regimes", task, both, f"Tasks with both: {', '.join(both)}. Others: give each regime by itself."
        )
    return {kind: f"{task}:{kind}" for kind in kinds}


def load_regimes(regimes: Mapping[str, Regime], tokenizer: object, **options: Any) -> dict[str, TaskData]:
    """Make every regime's prompts, and refuse regimes that do not ask for the same items.

    Args:
        regimes: By name: a task, a JSONL file, or prompts made already.
        tokenizer: The model's.
        options: As of `pruning.load_task`: sizes, seed, chat_template, bos.

    Returns:
        The prompts by regime.

    Raises:
        ConfigurationError: Fewer than two regimes, or a name that cannot be a folder's.
        PromptFormatError: Regimes that are not aligned.
    """
    require_file_names(dict(regimes))
    tasks = {
        name: regime if isinstance(regime, TaskData) else load_task(_task_name(regime), tokenizer, **options)
        for name, regime in regimes.items()
    }
    require_aligned(tasks)
    return tasks


def _task_name(regime: str | Path) -> str:
    """A task's name; a file's gets its prefix."""
    if isinstance(regime, Path) or (regime.endswith(".jsonl") and not regime.startswith("jsonl:")):
        return f"jsonl:{regime}"
    return regime


@with_gradients
def run_regimes(
    compiled: CompiledModel,
    regimes: Mapping[str, Regime] | str,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | str = "quick",
    circuits: GivenCircuits | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    objective: str | None = None,
    ablation: str | None = None,
    sizes: Mapping[str, int] | None = None,
    data_seed: int = 0,
    split: str = "test",
    n_random: int = 5,
    n_random_prompts: int | None = N_RANDOM_PROMPTS,
    threshold: float = 0.5,
    cache_bytes: int = 2 << 30,
    disk_cache: DiskCache | None = None,
    teacher_top_k: int | None = None,
    micro_batch: int | None = None,
    recompute: bool = False,
    watch: Watch | None = None,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> Study:
    """Find circuits for the same items asked in several ways, and measure each on all of them.

    Seeds are those of training; the prompts are the same for all of them, so that circuits of one regime differ by
    the randomness of training alone.

    Args:
        compiled: The model.
        regimes: A task that comes in two regimes, or by name: a task, a JSONL file or prompts.
        seeds: Seeds of the trainings, each for every regime.
        recipe: The settings of training, or the name of a recipe.
        circuits: Circuits already found, or their files, by regime; as many for each regime as there are seeds.
            Regimes without any are trained.
        out: A folder to keep everything in, see `pruning.regimes.folder`. Circuits that are there already, found
            with the same settings, are not trained again; a study that was stopped goes on where it was.
        overwrite: Remove the study that is in the folder first.
        objective: What is compared; by default the recipe's, else each task's own.
        ablation: What cut edges carry; by default the recipe's, else counterfactuals.
        sizes: Prompts by split; by default the tasks' own.
        data_seed: Which prompts are drawn.
        split: The prompts that circuits are measured on.
        n_random: How many random circuits for each circuit and each intersection.
        n_random_prompts: On how many of a regime's prompts random circuits run, drawn once; None for all.
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for them; with it the seeds of a regime share them.
        teacher_top_k: See `pruning.discover`.
        micro_batch: See `pruning.discover`.
        recompute: See `pruning.discover`.
        watch: Called after every step with the regime, the seed and the step.
        tick: Called while measuring, with the regime, the number of runs done and of all.
        say: Called with a line at the start of each stage.

    Returns:
        The circuits, the table of circuit × regime, and what the study is.

    Raises:
        ConfigurationError: Settings that cannot work together, or circuits that do not fit the seeds.
        PromptFormatError: Regimes that do not ask for the same items.
        OutputError: The folder holds something else, or circuits found with other settings.
        GraphMismatchError: A circuit of another universe than the model's.
        TrainingError: A training could not go on; what was found before it is kept.
    """
    say = say or (lambda line: None)
    n_random = whole_number("n_random", n_random)
    if n_random_prompts is not None:
        n_random_prompts = whole_number("n_random_prompts", n_random_prompts, least=1)
    regimes = regimes_of(regimes) if isinstance(regimes, str) else regimes
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    tasks = load_regimes(regimes, compiled.tokenizer, sizes=sizes, seed=data_seed)
    training = Training(
        recipe=recipe,
        objective=objective,
        ablation=ablation,
        cache_bytes=cache_bytes,
        disk_cache=disk_cache,
        teacher_top_k=teacher_top_k,
        micro_batch=micro_batch,
        recompute=recompute,
    )
    given = given_circuits(circuits or {}, tasks, seeds)
    if given and len(given) == len(tasks):
        seeds = list(next(iter(given.values())))
    _check(compiled, tasks, training, seeds, given)
    with contextlib.ExitStack() as held:
        folder = None if out is None else held.enter_context(StudyFolder.opened(out, overwrite=overwrite))
        if folder is not None and folder.note:
            say(f"note: {folder.note}")
        notes = require_aligned(tasks)
        about = _about(compiled, tasks, training, seeds, given)
        about |= {"split": split, "n_random": n_random, "n_random_prompts": n_random_prompts}
        about |= {"threshold": threshold, "notes": notes}
        for note in notes:
            say(f"note: {note}")
        wanted = {name: task for name, task in tasks.items() if name not in given}
        kept = {}
        if folder is not None:
            kept = kept_circuits(compiled, wanted, seeds, training, folder)
            _keep_given(folder, given)
            folder.write_study({**about, "finished": False})
        trained = train_regimes(compiled, wanted, seeds, training, kept=kept, folder=folder, watch=watch, say=say)
        found = {name: given[name] if name in given else trained[name] for name in tasks}
        table = evaluate_regimes(
            compiled, tasks, found, split=split, n_random=n_random, n_random_prompts=n_random_prompts,
            threshold=threshold, tick=tick, say=say,
        )  # fmt: skip
        about["circuits"] = _listed(found, given)
        about["verdicts"] = study_verdicts(table)
        if folder is not None:
            folder.write_faithfulness(table)
            folder.write_study({**about, "finished": True})
        return Study(circuits=found, faithfulness=table, tasks=tasks, about=about, notes=tuple(notes))


def given_circuits(
    circuits: GivenCircuits, tasks: Mapping[str, TaskData], seeds: Sequence[int]
) -> dict[str, dict[int, Circuit]]:
    """Circuits that need no training, by regime and seed.

    Args:
        circuits: Circuits or their files by regime.
        tasks: The regimes.
        seeds: The study's seeds; where every regime has its circuits, theirs or, where those differ, 0, 1, 2 ….

    Raises:
        UnknownNameError: Circuits of a regime that there is not.
        ConfigurationError: Not as many for one regime as for another, or as there are seeds.
    """
    loaded = {
        name: [one if isinstance(one, Circuit) else Circuit.load(one) for one in several]
        for name, several in circuits.items()
        if several
    }
    for name in circuits:
        if name not in tasks:
            raise UnknownNameError.of("regime", name, tasks)
    if not loaded:
        return {}
    sizes = {name: len(several) for name, several in loaded.items()}
    if len(loaded) < len(tasks):
        sizes["the study's seeds"] = len(seeds)
        labels = list(seeds)
    else:
        labels = _own_seeds(list(loaded.values()))
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ConfigurationError(f"every regime needs as many circuits as there are seeds; got {told}")
    return {name: dict(zip(labels, several, strict=True)) for name, several in loaded.items()}


def _own_seeds(several: Sequence[Sequence[Circuit]]) -> list[int]:
    """The seeds that circuits say they were found with, if all regimes say the same; else their numbers."""
    told = [[circuit.provenance.get("seed") for circuit in circuits] for circuits in several]
    seeds = [seed for seed in told[0] if isinstance(seed, int)]
    if len(set(seeds)) == len(told[0]) and all(other == told[0] for other in told):
        return seeds
    return list(range(len(told[0])))


def _check(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    training: Training,
    seeds: Sequence[int],
    given: Mapping[str, Mapping[int, Circuit]],
) -> None:
    """Refuse, before any work, what could not be trained or measured."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"seeds: expected at least one, each once; got {list(seeds)}")
    compiled.gate_map.check_target(training.recipe.target_sparsity)
    for name, task in tasks.items():
        objective = training.objective_for(task)
        check_top_k(training.teacher_top_k, objective, compiled.shape.d_vocab)
        if name in given:
            objective_named(objective)
            continue
        if not len(task.splits.get("train", ())):
            raise ConfigurationError(f"regime {name!r} (task {task.name}): no training prompts to learn from")
        check_objective(objective, task.splits["train"], f"regime {name!r} (task {task.name}, train)")
    require_universes(compiled, given)


def _keep_given(folder: StudyFolder, given: Mapping[str, Mapping[int, Circuit]]) -> None:
    """Put circuits that were found elsewhere beside those that were trained."""
    for regime, by_seed in given.items():
        for seed, circuit in by_seed.items():
            path = folder.circuit_file(regime, seed)
            if path.exists() and Circuit.load(path) != circuit:
                raise OutputError(
                    f"{path} is another circuit than the one given for regime {regime!r}, seed {seed}; choose another "
                    "folder, or replace the whole study with --overwrite (overwrite=True)"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            circuit.save(path)


def _about(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    training: Training,
    seeds: Sequence[int],
    given: Mapping[str, Mapping[int, Circuit]],
) -> dict[str, Any]:
    """What the study is, as JSON values."""
    return {
        **compiled.identity,
        "universe": compiled.universe.to_dict(),
        "dtype": str(compiled.dtype).removeprefix("torch."),
        "regimes": {
            name: {
                "task": task.name,
                "task_options": dict(task.provenance),
                "data_hash": task.data_hash,
                "objective": training.objective_for(task),
                "trained": name not in given,
                "notes": list(task.notes),
            }
            for name, task in tasks.items()
        },
        "recipe": training.recipe.to_dict(),
        "ablation": training.ablation_used,
        "teacher_top_k": training.teacher_top_k,
        "seeds": list(seeds),
        "versions": library_versions(),
        "hardware": hardware(compiled.device),
    }


def _listed(found: Mapping[str, Mapping[int, Circuit]], given: Mapping[str, object]) -> dict[str, Any]:
    """Every circuit with its file, size and digest."""
    return {
        regime: {
            str(seed): {
                "file": f"circuits/{regime}/seed-{seed}/circuit.json",
                "n_edges": len(circuit),
                "digest": circuit.digest,
                "given": regime in given,
            }
            for seed, circuit in by_seed.items()
        }
        for regime, by_seed in found.items()
    }
