"""Several seeds and sparsities in one call: train what is not there yet, make circuits of all seeds, measure.

1. what cannot work is refused before any work, for every training;
2. what never changes of the training prompts is computed once, for all trainings;
3. each training gives a whole result in a folder of its own (`pruning.runs.discover`), so that what was ended goes on
   to the same bits, and what is finished is not done again;
4. when all are done: circuits of all seeds (`pruning.runs.across_seeds`), measured beside those of each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text
from circuitgraph.stopping import Stop, Stopped, stopping
from circuitgraph.torch_state import with_gradients
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.runs.across_seeds import AVERAGED, CONSENSUS, SEED, averaged_circuit, averaged_scores, consensus_circuit
from pruning.runs.checking.preflight import Preflight, look_before
from pruning.runs.discover import DiscoverChoices, run_discovery
from pruning.runs.discovery import Discovery
from pruning.runs.fields import kinds_of
from pruning.runs.front import front_table, measured_rows
from pruning.runs.planned_sweep import SEEDS, PlannedSweep, Training, checked_seeds
from pruning.runs.progress import Progress, progress_for
from pruning.runs.provenance import model_provenance
from pruning.runs.request import RunRequest
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import run_of
from pruning.runs.stages import check_run
from pruning.runs.sweep_folder import SweepFolder, TrainedCircuits, files_of, known_rows, verdicts_in
from pruning.runs.trained_run import frozen_runs
from pruning.runs.versions import library_versions
from pruning.tasks import TaskData

BySparsity = Mapping[float, Circuit]


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep:
    """What `discover_seeds` gives back.

    Attributes:
        circuits: The circuits of each seed, by seed and sparsity.
        consensus: Those of the edges that most seeds keep, by sparsity; none where there is one seed.
        averaged: Those of the seeds' averaged scores, by sparsity; none where there is one seed.
        front: A row per circuit: `which` (`seed`, `consensus` or `averaged`), `seed`, `sparsity` (asked for),
            `n_edges`, `n_heads`, `n_mlps`, and the measures with their intervals over prompts.
        about: What was asked for and what there is, as in `sweep.json`.
    """

    circuits: Mapping[int, BySparsity]
    consensus: BySparsity
    averaged: BySparsity
    front: pd.DataFrame
    about: dict[str, Any]

    def __repr__(self) -> str:
        sparsities = ", ".join(f"{sparsity:g}" for sparsity in next(iter(self.circuits.values())))
        return f"<Sweep over seeds {', '.join(map(str, self.circuits))} at sparsities {sparsities}>"


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is made of each training beside what `discover` makes, while its folder is open.

    Attributes:
        make: Called with the folder and what was found.
        later: The parts that it makes.
        command: The command line, for the results' `state.json`.
    """

    make: Callable[[ResultFolder, Discovery], None]
    later: tuple[str, ...] = ()
    command: str | None = None


@with_gradients
def discover_seeds(
    compiled: CompiledModel,
    task: TaskData,
    recipe: Recipe | str | None = None,
    *,
    seeds: Any = SEEDS,
    sparsities: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **choices: Unpack[DiscoverChoices],
) -> Sweep:
    """Find circuits with several seeds, and for several sparsities.

    The prompts are the same for all seeds, so that circuits differ by the randomness of training alone. A recipe that
    ranks for all sparsities (`nested`, the default where several are asked for) is trained once for each seed; with
    any other, each sparsity takes a training of its own.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: The settings, or the name of a recipe; by default as of `pruning.discover`, and `nested` for several
            sparsities.
        seeds: Seeds of training, each once.
        sparsities: Shares of edges to cut; by default the recipe's target, or a usual few where it ranks for all.
        out: A folder to keep everything in, see `pruning.runs.sweep_folder`. What is there is not done again: a call
            that was stopped goes on where it was, to the same bits. `analysis.write_sweep` adds tables over seeds,
            a figure and a report.
        overwrite: Remove what is in the folder first.
        progress: As of `pruning.discover`.
        choices: Settings of each training by name, as of `pruning.discover`.

    Returns:
        The circuits and their measures.

    Raises:
        ConfigurationError: Settings that cannot work together, or seeds that are none.
        UnknownNameError: No such setting; the nearest are named.
        OutputError: The folder holds something else, or trainings of other settings.
        TrainingError: A training could not go on; those before it are kept.
        KeyboardInterrupt: It was stopped; what there is is kept.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> found = discover_seeds(
        ...     compile_model(loaded, embeddings="split"), task, seeds=(0, 1), sparsities=(0.5, 0.8), steps=3,
        ...     start_sparsity=0.3, end_sparsity=0.9, n_random=0, n_effects=0, progress=False,
        ... )
        >>> found, found.front["which"].value_counts().to_dict()
        (<Sweep over seeds 0, 1 at sparsities 0.5, 0.8>, {'seed': 4, 'consensus': 2, 'averaged': 2})
    """
    given: dict[str, Any] = dict(choices)
    for name, own in (("seed", "seeds"), ("front", "sparsities"), ("resume", "the same folder as out")):
        if name in given:
            raise ConfigurationError(f"discover_seeds has no {name}; give {own} instead")
    checked = given.pop("preflight", None)
    shown = progress_for(progress, given.pop("watch", None), given.pop("say", None))
    if sparsities is not None:
        given["front"] = several = kinds_of(RunRequest)["front"].checked("sparsities", sparsities)
        if len(several) > 1:
            recipe = recipe or "nested"
        if several:
            given.setdefault("target_sparsity", several[0])
    planned = PlannedSweep(run=run_of(compiled, task, recipe, given), seeds=checked_seeds(seeds))
    return run_sweep(planned, shown, out, overwrite=overwrite, checked=checked)


@with_gradients
def run_sweep(
    planned: PlannedSweep,
    progress: Progress,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    checked: Preflight | None = None,
    finish: Finish | None = None,
) -> Sweep:
    """Train what is not there, make circuits of all seeds, and measure; see `discover_seeds`.

    Args:
        planned: What is asked for.
        progress: Told how far it is.
        out: A folder to keep everything in, or None.
        overwrite: Remove what is in the folder first.
        checked: What was found before the first training, where it was looked for.
        finish: What else is made of each training.

    Raises:
        ConfigurationError: Settings that cannot work together.
        OutputError: The folder holds something else, or trainings of other settings.
        TrainingError: A training could not go on; those before it are kept.
        KeyboardInterrupt: It was stopped; what there is is kept.
    """
    for training in planned.trainings:
        check_run(planned.run_of(training))
    checked = checked or look_before(planned.run_of(planned.trainings[0]), progress)
    checked.require()
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(SweepFolder.opened(out, overwrite=overwrite))
        stop = held.enter_context(stopping())
        held.enter_context(stop.limited(planned.run.settings.working_seconds))
        held.enter_context(stop.held())
        return _Sweeping(planned, checked, folder, progress, stop, finish).whole()


@dataclass(frozen=True)
class _Sweeping:
    """A sweep that is being done."""

    planned: PlannedSweep
    checked: Preflight
    folder: SweepFolder | None
    progress: Progress
    stop: Stop
    finish: Finish | None
    shared: list[FrozenRuns] = field(default_factory=list)

    def whole(self) -> Sweep:
        """Everything, in order."""
        planned, folder = self.planned, self.folder
        about = {"seeds": list(planned.seeds), "identity": planned.identity(), **_made_with(planned)}
        there: dict[Training, TrainedCircuits] = {}
        if folder is not None:
            if folder.note:
                self.progress.say(f"note: {folder.note}")
            folder.require_same(planned)
            folder.write_mark({**about, "finished": False})
            folder.write_run(planned.run)
            found = {training: folder.trained(planned, training) for training in planned.trainings}
            there = {training: one for training, one in found.items() if one is not None}
        trained = self._trained(there)
        self.shared.clear()
        with self.stop.open():
            derived = self._of_all_seeds(trained)
            front = self._measured(trained, derived)
        about["trainings"] = [_told(planned, one) for one in trained]
        if folder is not None:
            write_atomically(folder.path / "front.csv", csv_text(front))
            folder.write_mark({**about, "finished": True})
        by_seed: dict[int, dict[float, Circuit]] = {seed: {} for seed in planned.seeds}
        for one in trained:
            by_seed[one.training.seed] |= one.circuits
        return Sweep(
            circuits=by_seed, consensus=derived[CONSENSUS], averaged=derived[AVERAGED], front=front, about=about
        )

    # ------------------------------------------------------------ training

    def _trained(self, there: Mapping[Training, TrainedCircuits]) -> list[TrainedCircuits]:
        """What every training gives; those that are there are not done again."""
        plan, found = self.planned.trainings, []
        if there:
            self.progress.say(f"{len(there)} of {len(plan)} trainings are there already, of the same settings")
        for number, training in enumerate(plan, 1):
            if training in there:
                found.append(there[training])
                continue
            self.progress.say(f"training {number} of {len(plan)}: {training}")
            found.append(self._train(training))
        return found

    def _train(self, training: Training) -> TrainedCircuits:
        run = self.planned.run_of(training)
        with self._result(training) as folder:
            if not self.shared:
                with self.stop.open():
                    self.shared.append(frozen_runs(run.fitted(self.checked.memory), self.progress))
            found = run_discovery(run, self.progress, out=folder, checked=self.checked, frozen=self.shared[0])
            if found.n_steps and folder is not None and self.finish is not None:
                self.finish.make(folder, found)
            self._require_whole(training, found)
        assert found.run is not None
        for line in (*found.diagnoses, *(f"{part} is missing: {reason}" for part, reason in found.missing.items())):
            self.progress.say(f"{training}: {line}")
        return TrainedCircuits(
            training=training,
            circuits=dict(found.circuits) if training.sparsity is None else {training.sparsity: found.circuit},
            scores=found.run.gates.scores().double().cpu().numpy(),
            rows=known_rows(found.metrics, training, self.planned.split),
            steps=found.n_steps,
            verdicts=verdicts_in(found.metrics),
        )

    @contextmanager
    def _result(self, training: Training) -> Iterator[ResultFolder | None]:
        """The folder of one training, begun or gone on in; None where nothing is kept."""
        opened = nullcontext(None)
        if self.folder is not None:
            opened = ResultFolder.opened(self.folder.path / training.place, resume=True)
        with opened as folder:
            if folder is not None and self.finish is not None:
                folder.command, folder.later = self.finish.command, self.finish.later
            yield folder

    def _require_whole(self, training: Training, found: Discovery) -> None:
        """End it all where a training ended early; what there is of it is in its folder by now.

        Raises:
            Stopped: The user or a signal stopped it.
            TrainingError: It could not go on.
        """
        if found.interrupted or self.stop.asked:
            raise Stopped(self.stop.name or "SIGINT")
        if found.stopped_by:
            raise TrainingError(f"{training}: training stopped: {found.stopped_by}")

    # ------------------------------------------------------------ all seeds together

    def _of_all_seeds(self, trained: list[TrainedCircuits]) -> dict[str, dict[float, Circuit]]:
        """Consensus and averaged circuits, by sparsity."""
        made: dict[str, dict[float, Circuit]] = {CONSENSUS: {}, AVERAGED: {}}
        if self.folder is not None:
            self.folder.remove_derived()  # those of an earlier call, of other seeds
        if len(self.planned.seeds) < 2:
            return made
        gate_map = self.planned.run.compiled.gate_map
        for sparsity in self.planned.sparsities:
            seeds = [one for one in trained if sparsity in one.circuits]
            members, scores = [one.circuits[sparsity] for one in seeds], averaged_scores([one.scores for one in seeds])
            made[CONSENSUS][sparsity] = consensus_circuit(scores, gate_map, members)
            made[AVERAGED][sparsity] = averaged_circuit(scores, gate_map, members)
        if self.folder is not None:
            for which, circuits in made.items():
                for sparsity, circuit in circuits.items():
                    circuit.save(self.folder.circuit_file(which, sparsity))
        return made

    def _measured(self, trained: list[TrainedCircuits], derived: Mapping[str, BySparsity]) -> pd.DataFrame:
        """How faithful every circuit is, on the same prompts; what is known already is not measured again."""
        planned = self.planned
        rows: list[dict[str, Any]] = []
        left: list[tuple[dict[str, Any], Circuit]] = []
        for one in trained:
            for sparsity, circuit in one.circuits.items():
                about = {"which": SEED, "seed": one.training.seed, "sparsity": sparsity}
                if sparsity in one.rows:
                    rows.append({**one.rows[sparsity], **about})
                else:
                    left.append((about, circuit))
        for which, circuits in derived.items():
            left += [({"which": which, "seed": None, "sparsity": at}, circuit) for at, circuit in circuits.items()]
        if left:
            pairs = planned.run.task.split(planned.split)
            self.progress.say(f"measuring {len(left)} circuits on {len(pairs):,} {planned.split} prompts")
            with self.progress.counting("circuits of all seeds") as tick:
                rows += measured_rows(
                    planned.run.compiled, left, pairs, split=planned.split,
                    ablation_data=planned.run.task.splits.get("train"), tick=tick,
                )  # fmt: skip
        kinds, seeds = (SEED, CONSENSUS, AVERAGED), (*planned.seeds, None)
        rows.sort(key=lambda row: (kinds.index(row["which"]), seeds.index(row["seed"]), row["sparsity"]))
        return front_table(rows).astype({"seed": "Int64"})


def _made_with(planned: PlannedSweep) -> dict[str, Any]:
    run = planned.run
    return {
        **model_provenance(run.compiled),
        "universe": run.compiled.universe.to_dict(),
        "task": run.task.name,
        "recipe": run.recipe.to_dict(),
        "sparsities": list(planned.sparsities),
        "ranks_for_all": planned.ranks_for_all,
        "split": planned.split,
        "versions": library_versions(),
    }


def _told(planned: PlannedSweep, one: TrainedCircuits) -> dict[str, Any]:
    """A training, for `sweep.json`."""
    training = one.training
    about = {"seed": training.seed, "folder": training.place, "files": files_of(planned, training)}
    return {**about, "steps_taken": one.steps, "verdicts": list(one.verdicts)}
