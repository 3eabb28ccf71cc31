"""`circuitgraph compare --on-task`: circuits against each other on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.core

from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.found_circuit import FoundCircuit
    from circuitgraph.cli.tables import ResultTable
    from pruning.evaluation.paired import FaithfulnessComparison
    from pruning.tasks import TaskData

OPTION, OWN = "--on-task", "own"
_MEASURES = ("kl", "mse", "exact_match", "accuracy", "logit_diff")


class OnTaskCommand(typer.core.TyperCommand):
    """A command whose `--on-task` needs no value: without one it is the circuits' own task."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the value where it was left out: before another option, a circuit's file, or the end."""
        filled = []
        for place, text in enumerate(args):
            filled.append(text)
            after = args[place + 1] if place + 1 < len(args) else "-"
            if text == OPTION and (after.startswith("-") or Path(after.partition("=")[2] or after).is_file()):
                filled.append(OWN)
        return super().parse_args(ctx, filled)


@dataclass(frozen=True, kw_only=True)
class OnTask:
    """What circuits are measured on, and how.

    Attributes:
        task: A task, or `own` for that of the first circuit that names its model.
        model: A model, or None for that of the circuits.
        split: Which prompts.
        ablation: What cut edges carry, or None for what the circuits were found with.
        batch_size: Prompts run at once.
        device: Where the model runs.
        dtype: Its number format, or None for that of the first circuit.
        verify: Whether to check that the compiled graph reproduces the model.
    """

    task: str
    model: str | None
    split: str
    ablation: str | None
    batch_size: int
    device: str
    dtype: str | None
    verify: bool

    def measure(self, circuits: Mapping[str, Circuit], files: Mapping[str, Path]) -> OnTaskResult:
        """Measure circuits on the prompts.

        Args:
            circuits: By name, of one universe.
            files: Their files.

        Returns:
            Tables, and what JSON says about them.

        Raises:
            ConfigurationError: Circuits of several models and none chosen, or of several ablations; no such prompts.
            GraphMismatchError: The model has another graph than the circuits.
        """
        from circuitgraph.cli.cache import told_as_notes
        from circuitgraph.cli.found_circuit import load_found_circuit, warn_of_trained
        from circuitgraph.cli.output import say
        from circuitgraph.cli.settings import ablation_of_circuit
        from circuitgraph.cli.split_prompts import prompts_to_measure
        from pruning.evaluation.paired import compare_faithfulness

        if self.model is None:
            _require_one_model(circuits)
        ablation = None if self.ablation is None else ablation_of_circuit(self.ablation, next(iter(circuits.values())))
        if ablation is None:
            ablation = _common_ablation(circuits)
        if ablation == "optimal":
            raise ConfigurationError(
                f"{OPTION} cuts edges of all circuits alike, and under optimal ablation each circuit has constants of "
                "its own: measure them one by one with `circuitgraph evaluate`, or choose another --ablation"
            )
        found = load_found_circuit(
            files[_lead(circuits)], model=self.model, device=self.device, dtype=self.dtype, verify=self.verify
        )
        data = found.task(None if self.task == OWN else self.task)
        pairs = prompts_to_measure(data, self.split)
        for note in data.notes:
            say(f"note: {note}")
        warn_of_trained(circuits, found.compiled.tokenizer, data, self.split)
        say(f"measuring {len(circuits)} circuits on {len(pairs):,} {self.split} prompts of {data.name}")
        with told_as_notes():
            compared = compare_faithfulness(
                found.compiled, circuits, pairs, ablation=ablation, ablation_data=data.splits.get("train"),
                batch_size=self.batch_size,
            )  # fmt: skip
        return OnTaskResult(compared=compared, found=found, data=data, split=self.split, ablation=ablation)


@dataclass(frozen=True, kw_only=True)
class OnTaskResult:
    """Circuits measured on the same prompts."""

    compared: FaithfulnessComparison
    found: FoundCircuit
    data: TaskData
    split: str
    ablation: str

    @property
    def about(self) -> dict[str, Any]:
        """What was measured on what, for JSON."""
        compiled = self.found.compiled
        return {
            **compiled.identity,
            "dtype": str(compiled.dtype).removeprefix("torch."),
            "task": self.data.name,
            "split": self.split,
            "data_hash": self.data.data_hash,
            "ablation": self.ablation,
            "metrics": self.compared.metrics,
        }

    @property
    def differences(self) -> pd.DataFrame:
        """One row per pair of circuits and measure."""
        return self.compared.differences

    @property
    def tables(self) -> list[ResultTable]:
        """How faithful each is, and how far they are apart."""
        from circuitgraph.cli.tables import ResultTable

        n = self.compared.metrics["full"]["n"]
        where = f"{n:,} {self.split} prompts of {self.data.name} ({self.ablation} ablation)"
        shown = {
            "a": "a", "b": "b", "measure": "measure", "n": "prompts", "mean_a": "of a", "mean_b": "of b",
            "difference": "a - b", "low": "low", "high": "high", "closer": "closer to the model",
        }  # fmt: skip
        frame = _faithfulness(self.compared.metrics)
        return [
            ResultTable(
                name="faithfulness",
                title=f"How faithful they are, on {where}",
                frame=frame,
                shown={name: name.replace("_", " ") for name in frame if not name.endswith(("_low", "_high"))},
            ),
            ResultTable(
                name="differences",
                title="How far they are apart, prompt by prompt (95 % interval)",
                frame=self.differences,
                shown=shown,
                for_people=self.differences.assign(closer=self.differences["closer"].replace("", "–")),
            ),
        ]


def _faithfulness(metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per circuit, and one of the full model, with its means and their bounds."""
    import pandas as pd

    from pruning.evaluation.tables import flat_row

    names = [name for name in _MEASURES if any(name in row for row in metrics.values())]
    columns = ["n", "n_undefined", "n_edges", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    order = [*(name for name in metrics if name != "full"), "full"]
    rows = [{"circuit": name, **flat_row(metrics[name], intervals=True)} for name in order]
    table = pd.DataFrame(rows).reindex(columns=["circuit", *columns])
    return table.astype(dict.fromkeys(columns[3:], "float64"))


def _require_one_model(circuits: Mapping[str, Circuit]) -> None:
    found = {str(circuit.provenance["model"]): name for name, circuit in circuits.items() if _names_model(circuit)}
    if len(found) > 1:
        told = ", ".join(f"{name} of {model}" for model, name in found.items())
        raise ConfigurationError(
            f"{OPTION} runs all circuits in one model, and they were found in several ({told}); choose it with --model"
        )


def _names_model(circuit: Circuit) -> bool:
    return isinstance(circuit.provenance.get("model"), str)


def _lead(circuits: Mapping[str, Circuit]) -> str:
    """The circuit that says which model and task: the first that names a model."""
    return next((name for name, circuit in circuits.items() if _names_model(circuit)), next(iter(circuits)))


def _common_ablation(circuits: Mapping[str, Circuit]) -> str:
    from circuitgraph.cli.settings import ablation_of_circuit

    found = {ablation_of_circuit(None, circuit): name for name, circuit in circuits.items()}
    if len(found) > 1:
        told = ", ".join(f"{name} {ablation}" for ablation, name in found.items())
        raise ConfigurationError(
            f"{OPTION} cuts edges of all circuits alike, and they were found under different ablations ({told}); "
            "choose one with --ablation"
        )
    return next(iter(found))


def refuse_without(asked: str | None, given: Sequence[tuple[str, object]]) -> None:
    """Refuse options that say how to run a model where none is run.

    Args:
        asked: The task, or None.
        given: Options with their values; None was not given.

    Raises:
        ConfigurationError: One was given, and no task.
    """
    named = [name for name, value in given if value is not None]
    if asked is None and named:
        raise ConfigurationError(f"{named[0]} says how circuits are measured, which {OPTION} asks for; add it")
