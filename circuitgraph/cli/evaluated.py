"""What `circuitgraph evaluate` found: as JSON, or in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitgraph.cli.found_circuit import FoundCircuit
    from pruning.evaluation.effects import Effects
    from pruning.evaluation.evaluate import Evaluation
    from pruning.tasks import TaskData


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A circuit, what it was measured on, and what came out.

    Attributes:
        found: The circuit and its model.
        data: The prompts.
        split: Which of them.
        ablation: What cut edges carried.
        direction: `noising`, `denoising` or `both`.
        evaluation: The measures.
        constants: Where learnt constants are from.
        effects: What cutting single parts costs.
        minimality: What each of the weakest edges is worth.
    """

    found: FoundCircuit
    data: TaskData
    split: str
    ablation: str
    direction: str
    evaluation: Evaluation
    constants: Mapping[str, Any] | None
    effects: Effects | None
    minimality: Mapping[str, Any] | None

    def show(self, *, as_json: bool) -> None:
        """Print it.

        Args:
            as_json: Whether as JSON.
        """
        from circuitgraph.cli.output import print_json

        if as_json:
            print_json(self.to_dict())
        else:
            self._print()

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """What the measures say about the circuit."""
        from pruning.runs.verdicts import verdicts

        return verdicts({"sparsity": self.found.circuit.sparsity, "splits": {self.split: self.evaluation.metrics}})

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; measures that were not asked for are left out."""
        other, compiled = self.evaluation.denoising, self.found.compiled
        if_asked = {
            "denoising": None if other is None else {"metrics": other.metrics},
            "constants": self.constants,
            "effects": None if self.effects is None else self.effects.to_dict(self.split),
            "minimality": self.minimality,
        }
        return {
            **compiled.identity,
            "dtype": str(compiled.dtype).removeprefix("torch."),
            "found_with_dtype": self.found.provenance.get("dtype"),
            "task": self.data.name,
            "split": self.split,
            "data_hash": self.data.data_hash,
            "ablation": self.ablation,
            "direction": self.direction,
            "head_scale": self.evaluation.head_scale,
            "found_with_ablation": self.found.circuit.ablation,
            "sparsity": self.found.circuit.sparsity,
            "metrics": self.evaluation.metrics,
            "verdicts": self.verdicts,
            **{name: value for name, value in if_asked.items() if value is not None},
        }

    def _print(self) -> None:
        from circuitgraph.cli.figures import print_effects, print_metrics, print_minimality
        from circuitgraph.cli.findings import print_findings
        from pruning.prompts.swapped import begins_with

        circuit, name = self.found.circuit, f"{self.data.name} {self.split}"
        counts = circuit.sparsity
        print(f"{len(circuit):,} of {counts['n_universe']:,} edges ({100 * counts['effective']:.2f} % cut)")
        if self.ablation != circuit.ablation:
            print(
                f"measured under {self.ablation} ablation; found, and its dangling edges dropped, under "
                f"{circuit.ablation}"
            )
        if self.evaluation.head_scale == "anew":
            print("each reader normed the heads that it keeps anew: not the numbers of the universe's shared scale")
        print_metrics(
            name if self.direction == "noising" else f"{name}, {begins_with(self.direction)}", self.evaluation.metrics
        )
        if self.evaluation.denoising is not None:
            print_metrics(f"{name}, denoising", self.evaluation.denoising.metrics)
        if self.effects is not None:
            print_effects(self.effects)
        if self.minimality is not None:
            print_minimality(self.minimality)
        print_findings(self.verdicts)
