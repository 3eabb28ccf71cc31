"""Circuits by regime and seed, and what is made of them: consensus, shared and private circuits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.algebra import difference, intersection, union
from analysis.comparable import named_circuits, require_comparable
from analysis.seeds import consensus
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.graph.universe import Universe

Given = Mapping[str, Circuit | Sequence[Circuit] | Mapping[int, Circuit] | Mapping[str, Circuit]]


@dataclass(frozen=True, kw_only=True)
class RegimeCircuits:
    """Circuits of one model by regime and seed. Make one with `regime_circuits`.

    Attributes:
        by_seed: Circuits by regime, then by seed as text.
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least.
        across_checkpoints: Whether the circuits may be of different weights.
    """

    by_seed: dict[str, dict[str, Circuit]]
    threshold: float = 0.5
    across_checkpoints: bool = False

    @property
    def regimes(self) -> list[str]:
        """The regimes' names."""
        return list(self.by_seed)

    @property
    def universe(self) -> Universe:
        """The universe of all circuits."""
        return next(iter(next(iter(self.by_seed.values())).values())).universe

    @property
    def seeds(self) -> list[str] | None:
        """The seeds, if they are the same for every regime; else None."""
        first, *others = (list(circuits) for circuits in self.by_seed.values())
        return first if all(other == first for other in others) else None

    def __iter__(self) -> Iterator[tuple[str, str, Circuit]]:
        """Regime, seed and circuit, regime by regime."""
        for regime, circuits in self.by_seed.items():
            for seed, circuit in circuits.items():
                yield regime, seed, circuit

    @cached_property
    def consensus(self) -> dict[str, Circuit]:
        """A circuit per regime: of the edges that enough of its seeds keep; with one seed its circuit."""
        options = {"threshold": self.threshold, "across_checkpoints": self.across_checkpoints}
        return {
            regime: next(iter(circuits.values())) if len(circuits) == 1 else consensus(circuits, **options)
            for regime, circuits in self.by_seed.items()
        }

    @cached_property
    def shared(self) -> Circuit:
        """What the consensus circuits of all regimes share, less what dangles."""
        return intersection(*self.consensus.values(), across_checkpoints=self.across_checkpoints)

    @cached_property
    def private(self) -> dict[str, Circuit]:
        """For each regime the edges of its consensus circuit that no other has, less what dangles."""
        return {
            regime: difference(
                circuit,
                union(
                    *(other for name, other in self.consensus.items() if name != regime),
                    across_checkpoints=self.across_checkpoints,
                ),
                across_checkpoints=self.across_checkpoints,
            )
            for regime, circuit in self.consensus.items()
        }


def regime_circuits(given: Given, *, threshold: float = 0.5, across_checkpoints: bool = False) -> RegimeCircuits:
    """Name circuits by regime and seed.

    Args:
        given: By regime: a circuit, several, or circuits by seed. Without seeds, those that the circuits say they
            were found with, if these differ; else 0, 1, 2 ….
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuits.

    Raises:
        ConfigurationError: Fewer than two regimes, or one without circuits.
        GraphMismatchError: The circuits are of different universes or models.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits"])
        >>> circuits = regime_circuits({"asked": [a, a], "shown": [b, a]})
        >>> circuits.seeds, len(circuits.shared), {name: len(one) for name, one in circuits.private.items()}
        (['0', '1'], 3, {'asked': 0, 'shown': 0})
    """
    if len(given) < 2:
        raise ConfigurationError(f"regimes are compared with each other: expected at least two; got {len(given)}")
    by_seed = {regime: _by_seed(regime, circuits) for regime, circuits in given.items()}
    everyone = {f"{name}, seed {seed}": one for name, circuits in by_seed.items() for seed, one in circuits.items()}
    require_comparable(named_circuits(everyone), across_checkpoints=across_checkpoints)
    return RegimeCircuits(by_seed=by_seed, threshold=threshold, across_checkpoints=across_checkpoints)


def _by_seed(regime: str, given: object) -> dict[str, Circuit]:
    if isinstance(given, Mapping):
        circuits = {str(seed): circuit for seed, circuit in given.items()}
    else:
        several = [given] if isinstance(given, Circuit) else list(given)  # pyright: ignore[reportArgumentType]
        told = [one.provenance.get("seed") if isinstance(one, Circuit) else None for one in several]
        seeds = told if len(set(told)) == len(told) and None not in told else range(len(several))
        circuits = {str(seed): circuit for seed, circuit in zip(seeds, several, strict=True)}
    if not circuits:
        raise ConfigurationError(f"regime {regime!r} has no circuit")
    for seed, circuit in circuits.items():
        if not isinstance(circuit, Circuit):
            raise ConfigurationError(f"{regime}, seed {seed}: expected a Circuit; got {type(circuit).__name__}")
    return circuits


def read_study(folder: str | Path) -> tuple[RegimeCircuits, pd.DataFrame | None]:
    """Read what `circuitgraph study` or `pruning.run_regimes` has left in a folder.

    Args:
        folder: The study's folder.

    Returns:
        The circuits by regime and seed, and the table of circuit × regime; None for that of a study that was stopped
        before it was measured.

    Raises:
        CircuitFormatError: The folder has no `study.json`, or circuits that it names are missing or damaged.

    Examples:
        `analysis.compare_regimes(folder)` reads a study and compares its circuits. A folder without one:

        >>> read_study("runs/none")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.CircuitFormatError: runs/none/study.json: cannot be read: No such file or directory;
        expected the folder of a study
    """
    folder = Path(folder)
    about = _about(folder / "study.json")
    given = {}
    for regime in about["regimes"]:
        files = {seed: folder / "circuits" / regime / f"seed-{seed}" / "circuit.json" for seed in about["seeds"]}
        found = {seed: Circuit.load(path) for seed, path in files.items() if about["finished"] or path.exists()}
        if not found:
            raise CircuitFormatError(f"{folder}: regime {regime!r} has no circuit yet; let the study go on")
        given[regime] = found
    table = folder / "faithfulness.csv"
    metrics = read_faithfulness(table) if about["finished"] else None
    return regime_circuits(given, threshold=about.get("threshold", 0.5)), metrics


def study_verdicts_in(folder: str | Path) -> list[dict]:
    """What a study's figures say against its circuits, as `study.json` has it; none if it was made before there were.

    Raises:
        CircuitFormatError: The folder has no `study.json`.
    """
    return _about(Path(folder) / "study.json").get("verdicts", [])


def read_faithfulness(path: str | Path) -> pd.DataFrame:
    """Read the table of circuit × regime of a study's folder.

    Raises:
        CircuitFormatError: The file is missing or no such table.
    """
    try:
        text = {"role": str, "of": str, "seed": str, "regime": str, "split": str, "digest": str}
        return pd.read_csv(path, dtype={**text, "draw": "Int64"}, keep_default_na=False, na_values={"draw": [""]})
    except (OSError, ValueError) as error:
        raise CircuitFormatError(f"{path}: cannot be read as a table of circuit × regime: {error}") from error


def _about(path: Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read: {error.strerror}; expected the folder of a study") from error
    except ValueError as error:
        raise CircuitFormatError(f"{path}: no complete JSON ({error}); is the study still being written?") from error
    for name in ("regimes", "seeds", "finished"):
        if not isinstance(about, dict) or name not in about:
            raise CircuitFormatError(f"{path}: {name}: the field is missing; expected what a study writes")
    return about
