"""Regimes against each other in one call: align, train, measure, keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, OutputError, UnknownNameError
from circuitgraph.torch_state import with_gradients
from pruning.execution.objectives import check_objective, check_top_k
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.regimes.alignment import require_aligned
from pruning.regimes.faithfulness import evaluate_regimes
from pruning.regimes.folder import StudyFolder, require_file_names
from pruning.regimes.judged import study_verdicts
from pruning.regimes.planned import PlannedStudy, StudyProgress, StudyRequest, StudyTick, StudyWatch
from pruning.regimes.training import kept_circuits, require_universes, train_regimes
from pruning.runs.fields import kinds_of
from pruning.runs.progress import Progress, progress_for
from pruning.runs.provenance import hardware
from pruning.runs.run import Run, RunChoices, run_of
from pruning.runs.versions import library_versions
from pruning.tasks import TaskData, load_task, task_names

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
            "task with regimes", task, both, "These have both regimes; of others give each by itself."
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


class StudyChoices(RunChoices, total=False):
    """What may be given to `run_regimes` by keyword beside its own."""

    seeds: Any
    split: str
    threshold: float
    sizes: Mapping[str, int] | None
    data_seed: int
    watch: StudyWatch | None
    tick: StudyTick | None
    say: Callable[[str], None] | None


@with_gradients
def run_regimes(
    compiled: CompiledModel,
    regimes: Mapping[str, Regime] | str,
    *,
    recipe: Recipe | str | None = None,
    circuits: GivenCircuits | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **choices: Unpack[StudyChoices],
) -> Study:
    """Find circuits for the same items asked in several ways, and measure each on all of them.

    Seeds are those of training; the prompts are the same for all of them, so that circuits of one regime differ by
    the randomness of training alone.

    Args:
        compiled: The model.
        regimes: A task that comes in two regimes, or by name: a task, a JSONL file or prompts.
        recipe: The settings of training, or the name of a recipe; by default as of `pruning.discover`.
        circuits: Circuits already found, or their files, by regime; as many for each regime as there are seeds.
            Regimes without any are trained.
        out: A folder to keep everything in, see `pruning.regimes.folder`. Circuits that are there already, found
            with the same settings, are not trained again; a study that was stopped goes on where it was.
        overwrite: Remove the study that is in the folder first.
        progress: Whether progress is shown, see `pruning.discover`.
        choices: What is asked for beside the trainings (`pruning.regimes.planned.StudyRequest`: `seeds`, `split`,
            `n_random`, `n_random_prompts`, `threshold`); the prompts, by split, as `sizes` (by default the tasks' own)
            and which of them are drawn, as `data_seed`; and settings of each training by name, as of
            `pruning.discover`. `watch` is called after every step with the regime, the seed and the step, `tick` while
            measuring with the regime, the number of runs done and of all, `say` with a line at the start of each stage.

    Returns:
        The circuits, the table of circuit × regime, and what the study is.

    Raises:
        ConfigurationError: Settings that cannot work together, or circuits that do not fit the seeds.
        UnknownNameError: No such setting; the nearest are named.
        PromptFormatError: Regimes that do not ask for the same items.
        OutputError: The folder holds something else, or circuits found with other settings.
        GraphMismatchError: A circuit of another universe than the model's.
        TrainingError: A training could not go on; what was found before it is kept.

    Examples:
        `docs/tutorials/regimes.md` runs a whole study. What cannot be a study is refused at once:

        >>> from circuitgraph import compile_model, load_model
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> run_regimes(compiled, "tracr-reverse")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.UnknownNameError: unknown task with regimes 'tracr-reverse'; valid: antonyms,
        boolean-expressions, capital-country, capitals, languages. These have both regimes; of others give each
        by itself.
    """
    given: dict[str, Any] = dict(choices)
    calls = {name: given.pop(name, None) for name in ("watch", "tick", "say")}
    asked = StudyRequest(**_own(given))
    making = {"sizes": given.pop("sizes", None), "seed": given.pop("data_seed", 0)}
    regimes = regimes_of(regimes) if isinstance(regimes, str) else regimes
    tasks = load_regimes(regimes, compiled.tokenizer, **making)
    if "seed" in given:
        raise ConfigurationError("a study has seeds=(0, 1, 2), of its trainings, and data_seed, of its prompts")
    runs = {name: run_of(compiled, task, recipe, given) for name, task in tasks.items()}
    study = planned_study(compiled, runs, circuits or {}, asked)
    quiet = calls["watch"] is None and calls["tick"] is None
    shown = progress_for(False if progress is None and not quiet else progress, say=calls["say"])
    return run_study(
        study, StudyProgress(shown=shown, watch=calls["watch"], tick=calls["tick"]), out, overwrite=overwrite
    )


def _own(given: dict[str, Any]) -> dict[str, Any]:
    """Take out what is asked for beside the trainings."""
    found = {name: given.pop(name) for name in kinds_of(StudyRequest) if name in given}
    return {name: kinds_of(StudyRequest)[name].checked(name, value) for name, value in found.items()}


def planned_study(
    compiled: CompiledModel, runs: Mapping[str, Run], circuits: GivenCircuits, asked: StudyRequest
) -> PlannedStudy:
    """A study whose circuits, where some are given, are loaded and fit its seeds.

    Args:
        compiled: The model.
        runs: The training of every regime.
        circuits: Circuits or their files by regime.
        asked: What is asked for beside the trainings.

    Raises:
        UnknownNameError: Circuits of a regime that there is not.
        ConfigurationError: Not as many for one regime as for another, or as there are seeds.
    """
    given = given_circuits(circuits, {name: run.task for name, run in runs.items()}, asked.seeds)
    if given and len(given) == len(runs):
        asked = replace(asked, seeds=tuple(next(iter(given.values()))))
    return PlannedStudy(compiled=compiled, runs=runs, given=given, asked=asked)


@with_gradients
def run_study(
    study: PlannedStudy, progress: StudyProgress, out: str | Path | None = None, *, overwrite: bool = False
) -> Study:
    """Train what is not there, and measure; see `run_regimes`.

    Args:
        study: The study.
        progress: Told how far it is.
        out: A folder to keep everything in, or None.
        overwrite: Remove the study that is in the folder first.

    Raises:
        ConfigurationError: Settings that cannot work together.
        OutputError: The folder holds something else, or circuits found with other settings.
        GraphMismatchError: A circuit of another universe than the model's.
        TrainingError: A training could not go on; what was found before it is kept.
    """
    _check(study)
    tasks, given, asked = study.tasks, study.given, study.asked
    with contextlib.ExitStack() as held:
        folder = None if out is None else held.enter_context(StudyFolder.opened(out, overwrite=overwrite))
        if folder is not None and folder.note:
            progress.say(f"note: {folder.note}")
        notes = require_aligned(tasks)
        about = {**_about(study), "notes": notes}
        for note in notes:
            progress.say(f"note: {note}")
        kept = {}
        if folder is not None:
            kept = kept_circuits(study, folder)
            _keep_given(folder, given)
            folder.write_mark({**about, "finished": False})
        trained = train_regimes(study, kept, folder, progress)
        found = {name: dict(given[name]) if name in given else trained[name] for name in tasks}
        with progress.measuring() as tick:
            table = evaluate_regimes(
                study.compiled, tasks, found, split=asked.split, n_random=asked.n_random,
                n_random_prompts=asked.n_random_prompts, threshold=asked.threshold, tick=tick, say=progress.say,
            )  # fmt: skip
        about["circuits"] = _listed(found, given)
        about["verdicts"] = study_verdicts(table)
        if folder is not None:
            folder.write_faithfulness(table)
            folder.write_mark({**about, "finished": True})
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


def _check(study: PlannedStudy) -> None:
    """Refuse, before any work, what could not be trained or measured."""
    compiled = study.compiled
    compiled.gate_map.check_target(study.recipe.target_sparsity)
    for name, run in study.runs.items():
        task, request = run.task, run.request
        check_top_k(request.teacher_top_k, run.objective, compiled.shape.d_vocab)
        if name in study.given:
            continue
        if not len(task.splits.get("train", ())):
            raise ConfigurationError(f"regime {name!r} (task {task.name}): no training prompts to learn from")
        check_objective(run.objective, task.splits["train"], f"regime {name!r} (task {task.name}, train)")
    require_universes(compiled, study.given)


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


def _about(study: PlannedStudy) -> dict[str, Any]:
    """What the study is, as JSON values."""
    compiled, asked = study.compiled, study.asked
    first = next(iter(study.runs.values()))
    return {
        **compiled.identity,
        "universe": compiled.universe.to_dict(),
        "dtype": str(compiled.dtype).removeprefix("torch."),
        "regimes": {
            name: {
                "task": run.task.name,
                "task_options": dict(run.task.provenance),
                "data_hash": run.task.data_hash,
                "objective": run.request.objective,
                "trained": name not in study.given,
                "notes": list(run.task.notes),
            }
            for name, run in study.runs.items()
        },
        "recipe": study.recipe.to_dict(),
        "ablation": study.ablation,
        "teacher_top_k": first.request.teacher_top_k,
        "seeds": list(asked.seeds),
        "versions": library_versions(),
        "hardware": hardware(compiled.device),
        "split": asked.split,
        "n_random": asked.n_random,
        "n_random_prompts": asked.n_random_prompts,
        "threshold": asked.threshold,
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
