"""A study with everything decided: which regimes are trained and how, which have circuits, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.evaluation.sampled import N_RANDOM_PROMPTS
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.fields import check_fields, number
from pruning.runs.progress import Calls, Progress, Tick
from pruning.runs.request import RunRequest
from pruning.runs.run import Run, evaluated_splits
from pruning.tasks import TaskData

StudyWatch = Callable[[str, int, StepRecord], None]
"""Called after every step with the regime, the seed and the step."""
StudyTick = Callable[[str, int, int], None]
"""Called while measuring with the regime, the number of runs done and of all."""


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What a study is asked for, beside its trainings.

    Attributes:
        seeds: Seeds of the trainings, each for every regime.
        split: The prompts that circuits are measured on.
        n_random: How many random circuits for each circuit and each intersection.
        n_random_prompts: On how many of a regime's prompts they run, drawn once; None for all.
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least.

    Raises:
        ConfigurationError: A value of another type or that makes no sense; no seed, or one twice.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    split: str = "test"
    n_random: int = number(5)
    n_random_prompts: int | None = number(N_RANDOM_PROMPTS, least=1, none="all")
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(f"seeds: expected at least one, each once; got {list(self.seeds)}")


def require_recipe(request: RunRequest) -> None:
    """Refuse a method that trains by no recipe, and circuits that cannot be measured together.

    Args:
        request: What a regime's training is asked for.

    Raises:
        ConfigurationError: It is one, or cut edges carry learnt constants.
    """
    if request.ablation == "optimal":
        raise ConfigurationError(
            "the circuits of a study are measured together, and under optimal ablation each has constants of its own; "
            "choose another ablation"
        )
    if request.direction != "noising":
        raise ConfigurationError(
            f"a study looks at its regimes by noising; got direction {request.direction!r}. Find circuits by it with "
            "`circuitgraph discover`, and give them to the study (circuits=, --circuit)"
        )
    if request.method is not None:
        raise ConfigurationError(
            f"a study trains gates by a recipe, and method {request.method.name!r} trains by none; give circuits that "
            "were found with it instead (circuits=, --circuit)"
        )


@dataclass(frozen=True, kw_only=True)
class PlannedStudy:
    """A study, ready to start.

    Attributes:
        compiled: The model.
        runs: The training of every regime, with its prompts; those of regimes with circuits are not started.
        given: Circuits that need no training, by regime and seed.
        asked: What is asked for beside the trainings.

    Raises:
        ConfigurationError: A regime's run has a method that trains by no recipe, or optimal ablation.
    """

    compiled: CompiledModel
    runs: Mapping[str, Run]
    given: Mapping[str, Mapping[int, Circuit]]
    asked: StudyRequest

    def __post_init__(self) -> None:
        """Refuse methods that train by no recipe."""
        for run in self.runs.values():
            require_recipe(run.request)

    @property
    def tasks(self) -> dict[str, TaskData]:
        """The prompts by regime."""
        return {name: run.task for name, run in self.runs.items()}

    @property
    def trainings(self) -> dict[str, Run]:
        """The training of each regime that has no circuits yet."""
        return {name: run for name, run in self.runs.items() if name not in self.given}

    @property
    def recipe(self) -> Recipe:
        """The recipe of all trainings."""
        return next(iter(self.runs.values())).recipe

    @property
    def ablation(self) -> str:
        """What cut edges carry in all trainings."""
        return next(iter(self.runs.values())).request.ablation

    def run(self, regime: str, seed: int) -> Run:
        """The training of a regime with a seed; what single parts are worth is measured on all regimes afterwards.

        Args:
            regime: The regime.
            seed: The seed of training.
        """
        run = self.runs[regime]
        splits = evaluated_splits(run.task)
        return replace(run, request=replace(run.request, seed=seed, splits=splits, n_random=0, n_effects=0))


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """Tells how far a study is.

    Attributes:
        shown: What is shown of each training, and of each regime that is measured.
        watch: Called after every step, or None.
        tick: Called while measuring, or None.
    """

    shown: Progress
    watch: StudyWatch | None = None
    tick: StudyTick | None = None

    def say(self, line: str) -> None:
        """Tell what begins."""
        self.shown.say(line)

    def training(self, regime: str, seed: int) -> Progress:
        """The progress of one training.

        Args:
            regime: The regime.
            seed: The seed.
        """
        watch = self.watch
        if watch is None:
            return self.shown
        return Calls(self.shown, lambda record: watch(regime, seed, record))

    @contextmanager
    def measuring(self) -> Iterator[StudyTick]:
        """Show how far each regime is measured, one after the other.

        Yields:
            What to call with the regime, the number of runs done and of all.
        """
        with ExitStack() as shown:
            current: list[tuple[str, Tick | None]] = []

            def tell(regime: str, done: int, total: int) -> None:
                if not current or current[0][0] != regime:
                    shown.close()
                    current[:] = [(regime, shown.enter_context(self.shown.counting(regime)))]
                tick = current[0][1]
                if tick is not None:
                    tick(done, total)
                if self.tick is not None:
                    self.tick(regime, done, total)

            yield tell
