"""What a result says of its circuit beyond the circuit itself, part by part, into its folder as it comes.

The same for a run that has just trained and for a saved result that is completed later (`circuitgraph report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.constants import constants_bytes, constants_file
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.compiled.vector_files import vectors_bytes
from circuitgraph.errors import why
from circuitgraph.files.csv_text import csv_text
from circuitgraph.forward.ablation_values import AblationValues
from pruning.evaluation.effects import measure_effects
from pruning.evaluation.evaluate import evaluate
from pruning.frozen.constants import AblationData
from pruning.runs.front import front_table, measured_front
from pruning.runs.parts import Parts
from pruning.runs.progress import Progress
from pruning.runs.request import N_EFFECTS
from pruning.runs.result_files import CIRCUIT, EXAMPLES, FRONT_TABLE, METRICS, VECTORS
from pruning.runs.result_folder import ResultFolder
from pruning.tasks import TaskData

EVALUATION = "evaluation:"
"""What the part of a split's evaluation begins with."""
N_PROMPTS = 8
"""On how many prompts the effects are measured beside a run."""
EFFECTS = "effects"
"""The part that holds what single edges, heads and MLPs are worth."""
FRONT = "front"
"""The part that measures further circuits of the same ranking."""


def measured_parts(
    splits: Sequence[str], n_effects: int = N_EFFECTS, sparsities: Sequence[float] = ()
) -> tuple[str, ...]:
    """The parts that are measured, in their order.

    Args:
        splits: Splits to evaluate on.
        n_effects: Of how many edges the effects are measured; 0 for none at all.
        sparsities: Of further circuits of the same ranking.

    Examples:
        >>> measured_parts(["validation", "test"])
        ('evaluation:validation', 'evaluation:test', 'effects')
    """
    parts = [EVALUATION + split for split in splits]
    return (*parts, *([FRONT] if splits and sparsities else []), *([EFFECTS] if splits and n_effects else []))


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What cut edges carry under optimal ablation.

    Attributes:
        of_circuit: The circuit's own; None under any other ablation.
        of_front: Those that were trained with the gates, for further circuits of the same ranking.
    """

    of_circuit: AblationValues | None = None
    of_front: AblationValues | None = None


@dataclass(kw_only=True)
class Measuring:
    """A circuit that is being measured, and what is known of it so far.

    Attributes:
        compiled: The model.
        task: The prompts.
        circuit: The circuit, without its dangling edges.
        raw_edges: Flat indices of the edges kept, dangling ones included `[n]`.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of a split they run, at most; None for all.
        n_effects: Of how many edges the effects are measured.
        seed: Of these.
        provenance: Where the circuit came from.
        metrics: As in `metrics.json`; grows.
        examples: A row a prompt of the split evaluated last.
        folder: Where it is kept, or None.
        progress: Told what begins, and how far it is.
        front: Further circuits of the same ranking, by the sparsity asked for.
        constants: What cut edges carry, where that was learnt.
    """

    compiled: CompiledModel
    task: TaskData
    circuit: Circuit
    raw_edges: np.ndarray
    n_random: int
    n_random_prompts: int | None
    n_effects: int
    seed: int
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    folder: ResultFolder | None = None
    progress: Progress = field(default_factory=Progress)
    front: Mapping[float, Circuit] = field(default_factory=dict)
    constants: Constants = Constants()

    def run(self, parts: Parts) -> None:
        """Make the measured parts that are missing, each by itself.

        Args:
            parts: Knows which are missing, and takes in what fails.
        """
        for part in [part for part in parts.missing if part.startswith(EVALUATION)]:
            split = part.removeprefix(EVALUATION)
            parts.attempt(part, lambda split=split: self._evaluate(split))
            self.keep_state(parts)
        if FRONT in parts.missing:
            parts.attempt(FRONT, lambda: self._measure_front())
            self.keep_state(parts)
        if EFFECTS in parts.missing:
            parts.attempt(EFFECTS, lambda: self._measure_effects())
            self.keep_state(parts)

    def _measure_front(self) -> None:
        """Measure further circuits of the same ranking, on the prompts that effects are measured on, all of them."""
        split = self._last_split()
        pairs = self.task.split(split)
        self.progress.say(f"measuring circuits of {len(self.front)} sparsities on {len(pairs):,} {split} prompts")
        with self.progress.counting("sparsities") as tick:
            rows = measured_front(
                self.compiled,
                self.front,
                pairs,
                split=split,
                ablation_data=self._data(self.constants.of_front),
                tick=tick,
            )
        self.metrics["front"] = rows
        if self.folder is not None:
            self.folder.write_json(METRICS, self.metrics)
            self.folder.write(FRONT_TABLE, csv_text(front_table(rows)))

    def _data(self, constants: AblationValues | None) -> AblationData | None:
        """What constants of cut edges are taken from."""
        return self.task.splits.get("train") if constants is None else constants

    def keep_vectors(self) -> None:
        """Write the vectors that are added to the model to the folder, beside the circuits."""
        if self.folder is not None and self.compiled.vectors:
            self.folder.write(VECTORS, vectors_bytes(self.compiled.vectors))

    def keep_constants(self) -> None:
        """Write what cut edges carry to the folder, beside the circuits that it was learnt for."""
        if self.folder is None or self.constants.of_circuit is None:
            return
        known = ("task", "data_hash", "objective", "seed", "recipe")
        about = {name: self.provenance[name] for name in known if name in self.provenance}
        kept = [(circuit, self.constants.of_front) for circuit in self.front.values()]
        for circuit, values in [*kept, (self.circuit, self.constants.of_circuit)]:  # the circuit's own last
            assert values is not None
            content = constants_bytes(self.compiled, values, {**about, "circuit": circuit.digest})
            self.folder.write(constants_file(circuit), content)

    def _last_split(self) -> str:
        return next(name for name in ("test", "validation", "train") if len(self.task.splits.get(name, ())))

    def _measure_effects(self) -> None:
        """Measure what single parts are worth, on prompts of the test split if it has any, else of another."""
        split = self._last_split()
        n_edges = min(self.n_effects, len(self.circuit))
        which = "" if n_edges == len(self.circuit) else f"{n_edges:,} strongest "
        self.progress.say(f"measuring what cutting each head, each MLP and each of the {which}edges alone costs")
        with self.progress.counting("effects") as tick:
            found = measure_effects(
                self.compiled, self.described(), self.task.split(split), top=self.n_effects, n=N_PROMPTS,
                seed=self.seed, ablation_data=self._data(self.constants.of_circuit), tick=tick,
            )  # fmt: skip
        self.metrics["effects"] = found.to_dict(split)
        if self.folder is not None:
            self.folder.write_json(METRICS, self.metrics)
            self.folder.write("effects.csv", csv_text(found.table))

    def _evaluate(self, split: str) -> None:
        """Measure the circuit on one split, next to what it is compared with."""
        self.progress.say(f"evaluating on {len(self.task.split(split)):,} {split} prompts")
        with self.progress.counting(f"{split} evaluation") as tick:
            found = evaluate(
                self.compiled,
                self.circuit,
                self.task.split(split),
                ablation_data=self._data(self.constants.of_circuit),
                n_random=self.n_random,
                n_random_prompts=self.n_random_prompts,
                seed=self.seed,
                raw_edges=self.raw_edges,
                tick=tick,
            )
        self.metrics["splits"][split] = found.metrics
        kl, raw = found.metrics["circuit"].get("kl"), found.metrics["raw"].get("kl")
        if kl is not None and raw is not None:
            # How much dropping dangling edges changed the KL: nothing but rounding, or something is wrong.
            self.metrics["sparsity"].setdefault("kl_effective_minus_raw", kl - raw)
        self.examples = found.examples
        if self.folder is not None:
            self.folder.write_json(METRICS, self.metrics)
            self.folder.write(EXAMPLES, csv_text(self.examples))

    def described(self) -> Circuit:
        """The circuit with its provenance, measures included."""
        return self.circuit.with_provenance({**self.provenance, "metrics": self.metrics["splits"]})

    def keep(self) -> None:
        """Write what is known to the folder."""
        if self.folder is not None:
            self.folder.write_json(METRICS, self.metrics)
            self.described().save(self.folder.place / CIRCUIT)

    def keep_state(self, parts: Parts, **about: Any) -> None:
        """Write to the folder what is missing; where that fails, it is missing itself.

        Args:
            parts: Knows what is missing.
            about: What else the state says, see `ResultFolder.write_state`.
        """
        if self.folder is None:
            return
        try:
            self.folder.write_state(parts.missing, **about)
        except Exception as error:  # noqa: BLE001 - a full disk, for one; what is there already is not lost by it
            parts.errors["state"], parts.missing["state"] = error, why(error)
