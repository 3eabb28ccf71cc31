"""Several seeds and sparsities with everything decided: which trainings that takes, and what each of them is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from circuitgraph.errors import ConfigurationError
from pruning.runs.checking.duration import Duration
from pruning.runs.checkpoints import run_identity
from pruning.runs.result_files import sparsity_text
from pruning.runs.run import Run
from pruning.whole_numbers import whole_number

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of several.

    Attributes:
        seed: Its seed.
        sparsity: What it is trained for; None where one training ranks for all sparsities.
        place: Its folder within that of all.
    """

    seed: int
    sparsity: float | None
    place: str

    def __str__(self) -> str:
        return f"seed {self.seed}" + ("" if "/" not in self.place else f", sparsity {self.sparsity:g}")


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """Several seeds and sparsities, ready to start.

    A recipe that ranks for all sparsities (control `nested`) is trained once for each seed, and its ranking is cut at
    each sparsity. With any other recipe each sparsity takes a training of its own.

    Attributes:
        run: What all trainings have in common: its seed is that of the first, its prompts are those of all.
        seeds: The seeds of training.

    Raises:
        ConfigurationError: No seed, one twice, or what is no seed; a method that trains by no recipe; optimal ablation.
    """

    run: Run
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the seeds, and that there is something to train."""
        method = self.run.request.method
        if method is not None:
            raise ConfigurationError(
                f"several seeds are trained by a recipe, which method {method.name!r} is not; the leaderboard "
                "(circuitgraph leaderboard, pruning.leaderboard.board.run_leaderboard) runs any method with several"
            )
        if self.run.request.survivors is not None:
            raise ConfigurationError(
                "survivors are others for every seed, so their gates cannot be averaged: leave out survivors, or train "
                "one seed after the other (--seed)"
            )
        if self.run.request.direction == "both":
            raise ConfigurationError(
                "direction 'both' trains twice for every seed, so there are no gates of one training to average: take "
                "'noising' or 'denoising', or train one seed after the other (--seed)"
            )
        object.__setattr__(self, "seeds", checked_seeds(self.seeds))
        if self.run.request.ablation == "optimal":
            raise ConfigurationError(
                "several seeds are measured together, and under optimal ablation each circuit has its own constants: "
                "train one seed at a time, or choose another ablation"
            )

    @property
    def ranks_for_all(self) -> bool:
        """Whether one training gives the circuits of all sparsities."""
        return self.run.recipe.control == "nested"

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities asked for, rising."""
        return self.run.request.sparsities or (self.run.recipe.target_sparsity,)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """Every training, in the order in which they are done: a seed is done before the next begins."""
        if self.ranks_for_all:
            return tuple(Training(seed=seed, sparsity=None, place=f"seed-{seed}") for seed in self.seeds)
        alone = len(self.sparsities) == 1
        return tuple(
            Training(
                seed=seed,
                sparsity=sparsity,
                place=f"seed-{seed}" + ("" if alone else f"/sparsity-{sparsity_text(sparsity)}"),
            )
            for seed in self.seeds
            for sparsity in self.sparsities
        )

    def run_of(self, training: Training) -> Run:
        """A training as a run of its own; the time limit is that of all together.

        Args:
            training: The training.
        """
        request = replace(self.run.request, seed=training.seed)
        if training.sparsity is None:
            request = replace(request, front=self.sparsities)
        else:
            recipe = replace(self.run.recipe, target_sparsity=training.sparsity)
            request = replace(request, recipe=recipe, front=())
        return replace(self.run, request=request, settings=replace(self.run.settings, time_limit_seconds=None))

    @property
    def split(self) -> str:
        """The prompts that circuits are measured on beside each other: test, or else validation, or else train."""
        splits = self.run.task.splits
        return next(name for name in ("test", "validation", "train") if len(splits.get(name, ())))

    def duration(self, one: Duration) -> Duration:
        """What all trainings take.

        Args:
            one: What the first one takes; what never changes is computed in it alone.
        """
        return replace(one.times(len(self.trainings)), filling=one.filling)

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a folder's trainings to be gone on with; seeds may be added."""
        request, common = self.run.request, run_identity(self.run)
        del common["seed"]
        if not self.ranks_for_all:
            del common["recipe"]["target_sparsity"]
        return {
            "sparsities": list(self.sparsities),
            "task.seed": request.task.seed,
            **common,
            "splits": list(self.run.splits),
            "n_random": request.n_random,
            "n_random_prompts": request.n_random_prompts,
            "n_effects": request.n_effects,
        }


def checked_seeds(seeds: object, name: str = "seeds") -> tuple[int, ...]:
    """Seeds of several trainings: at least one, each once, none below 0.

    Args:
        seeds: The seeds.
        name: What the message calls them.

    Raises:
        ConfigurationError: It is otherwise.

    Examples:
        >>> checked_seeds([3, 1])
        (3, 1)
        >>> checked_seeds([1, 1])
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: seeds: expected at least one, each once; got [1, 1]
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ConfigurationError(f"{name}: expected several whole numbers, such as [0, 1, 2]; got {seeds!r}")
    found = tuple(whole_number(f"{name}: each", seed) for seed in seeds)
    if not found or len(set(found)) < len(found):
        raise ConfigurationError(f"{name}: expected at least one, each once; got {list(found)}")
    return found
