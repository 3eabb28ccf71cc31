"""What single parts are worth: the KL that cutting one edge, head or MLP costs, in the circuit and in the full model.

A trained score says how sure training was of a gate, not what the edge does. An *effect* is measured: the part alone is
cut, everything else stays, and the change in KL(full ‖ ·) is taken for every prompt:

- *in the circuit*: KL(full ‖ circuit without the part) − KL(full ‖ circuit);
- *in the full model*: KL(full ‖ full model without the part).

Cutting an edge makes its reader see the writer's ablation value. Cutting a head or an MLP does so for all its readers:
every edge out of it is cut, so that it says its ablation value everywhere. Under counterfactual ablation the edges into
it then lead nowhere; under the other kinds they still do, for nobody. A positive effect says that the part helps to do
what the full model does. Restoring a part to an empty circuit is not measured: what it needs is missing there.

Effects do not add up: two heads that stand in for each other have small effects each and a large one together.

The interval is a bootstrap over prompts of the mean change, so it is paired prompt by prompt. Where outputs are
numbers, the change in squared error is taken instead of the KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.cuts import Cut, run_cuts
from circuitgraph.forward.uncut import UncutRun
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.evaluation.intervals import intervals_of, mean_of
from pruning.execution.objectives import kl_divergence, per_prompt_mean
from pruning.frozen.constants import AblationData
from pruning.frozen.runs import FrozenBatch, FrozenRuns
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.prompt_rules import refuse_equal_sides

KINDS = ("edges", "heads", "mlps")
CELLS_AT_ONCE = {"cpu": 512, "cuda": 8192}
"""How many tokens of cuts × prompts run at once."""
READ_BYTES = 256 << 20
"""What is kept of the run without cuts takes about this at most, or is that of a single prompt."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Effects:
    """Effects of a circuit's parts.

    Attributes:
        measure: `kl` in nats, or `mse` where outputs are numbers.
        n: How many prompts.
        rows: By `edges`, `heads` and `mlps`, a dict for each part, those with the largest effect in the circuit first:
            `part`, `score` (an edge's score in the circuit; None for nodes), and `in_circuit` and `in_full` with the
            mean change under the measure's name and the bounds `low` and `high`, None where no prompt has one.

    Examples:
        >>> row = {"part": "a0.h0", "score": None, "in_circuit": {"kl": 0.2, "low": 0.1, "high": 0.3},
        ...     "in_full": {"kl": 0.1, "low": 0.0, "high": 0.2}}
        >>> effects = Effects(measure="kl", n=8, rows={"edges": [], "heads": [row], "mlps": []})
        >>> effects.table[["kind", "part", "in_circuit"]].values.tolist()
        [['head', 'a0.h0', 0.2]]
    """

    measure: str
    n: int
    rows: dict[str, list[dict[str, Any]]]

    def to_dict(self, split: str | None = None) -> dict[str, Any]:
        """As in `metrics.json`.

        Args:
            split: Of which split the prompts are.
        """
        return {"split": split, "measure": self.measure, "n": self.n, **self.rows}

    @property
    def table(self) -> pd.DataFrame:
        """A row per part: `kind`, `part`, `score`, and `in_circuit` and `in_full` with their bounds."""
        return effects_table(self.to_dict())

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.rows[kind])} {kind}" for kind in KINDS)
        return f"<Effects of {counts} on {self.n} prompts>"


def effects_table(effects: dict[str, Any]) -> pd.DataFrame:
    """Effects as a table, as in `effects.csv`.

    Args:
        effects: As in `metrics.json`.

    Returns:
        A row per part: `kind` (`edge`, `head` or `mlp`), `part`, `score`, and `in_circuit` and `in_full`, each with
        `_low` and `_high`; NaN where there is none.
    """
    measure, rows = effects["measure"], []
    for kind in KINDS:
        for row in effects[kind]:
            found = {"kind": kind.removesuffix("s"), "part": row["part"], "score": row["score"]}
            for where in ("in_circuit", "in_full"):
                change = row[where]
                found |= {where: change[measure], f"{where}_low": change["low"], f"{where}_high": change["high"]}
            rows.append(found)
    numbers = [f"{where}{end}" for where in ("in_circuit", "in_full") for end in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=["kind", "part", "score", *numbers])
    return frame.astype(dict.fromkeys(("score", *numbers), float))


@in_settled_state
def measure_effects(
    compiled: CompiledModel,
    circuit: Circuit,
    pairs: EncodedPairs,
    *,
    top: int = 150,
    n: int = 16,
    seed: int = 0,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Effects:
    """Measure what the strongest edges and all heads and MLPs of a circuit are worth, one by one.

    Args:
        compiled: The model.
        circuit: The circuit.
        pairs: The prompts, at least one.
        top: How many edges, the strongest (`Circuit.strengths`).
        n: How many prompts, drawn from `pairs`; all where there are not more.
        seed: Of the draw.
        ablation: What cut edges carry; by default what the circuit was found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        tick: Called with the number of runs done and of all.

    Returns:
        The effects.

    Raises:
        ConfigurationError: No prompts, or a negative number of edges or prompts.
        GraphMismatchError: The circuit is of another universe.
        PromptFormatError: Counterfactual ablation, and no prompt differs from its counterfactual in any token.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> pairs = load_task("tracr-reverse", compiled.tokenizer).split("test").subset(range(4))
        >>> effects = measure_effects(compiled, circuit, pairs)
        >>> sorted(row["part"] for row in effects.rows["heads"])
        ['a0.h0', 'a3.h0']
    """
    refuse_spans(compiled.universe, "the measurement of single edges (--effects)")
    from pruning.evaluation.matching import require_universe

    if not len(pairs):
        raise ConfigurationError("there is nothing to measure effects on: the split has no prompts")
    if top < 0 or n < 1:
        raise ConfigurationError(f"effects need 0 edges or more on 1 prompt or more; got top={top} and n={n}")
    require_universe(compiled, circuit)
    ablation = ablation or circuit.ablation
    if ablation == "counterfactual":
        refuse_equal_sides(pairs)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n])
    runs = FrozenRuns(
        compiled, pairs.subset(chosen), ablation=ablation, budget_bytes=0,
        ablation_data=ablation_data if ablation_data is not None else pairs,
    )  # fmt: skip
    parts = _parts(circuit, top)
    measuring = _Measuring(compiled, circuit, runs, [cut for _, _, _, cut in parts], tick)
    changes = measuring.run()
    return Effects(measure=measuring.measure, n=len(chosen), rows=_rows(parts, changes, measuring.measure))


Part = tuple[str, str, float | None, Cut]
"""Kind, name, score and cut."""


def _parts(circuit: Circuit, top: int) -> list[Part]:
    """What is cut, one after the other."""
    universe = circuit.universe
    order = np.argsort(-circuit.strengths, kind="stable")[:top]
    writers, readers = universe.endpoints(circuit.edge_ids[order])
    names = list(circuit)
    found: list[Part] = [
        ("edges", names[place], float(circuit.scores[place]), Cut(int(writer), int(reader)))
        for place, writer, reader in zip(order.tolist(), writers, readers, strict=True)
    ]
    writing = np.unique(universe.endpoints(circuit.edge_ids)[0])
    for kind, wanted in (("heads", "head"), ("mlps", "mlp")):
        chosen = writing[universe.writer_kinds[writing] == wanted]
        found += [(kind, universe.writers[writer], None, Cut(int(writer))) for writer in chosen]
    return found


def _rows(parts: Sequence[Part], changes: dict[str, np.ndarray], measure: str) -> dict[str, list[dict[str, Any]]]:
    """Mean changes with their bounds, the largest in the circuit first."""
    bounds = {
        where: intervals_of({str(place): column for place, column in enumerate(values.T)})
        for where, values in changes.items()
    }
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for place, (kind, name, score, _) in enumerate(parts):
        row: dict[str, Any] = {"part": name, "score": score}
        for where, values in changes.items():
            low, high = bounds[where][str(place)] or (None, None)
            row[where] = {measure: mean_of(values[:, place]), "low": low, "high": high}
        rows[kind].append(row)
    for found in rows.values():
        found.sort(key=lambda row: -(row["in_circuit"][measure] or 0.0))
    return rows


class _Measuring:
    """Every cut on every prompt, in the circuit and in the full model."""

    def __init__(
        self,
        compiled: CompiledModel,
        circuit: Circuit,
        runs: FrozenRuns,
        cuts: list[Cut],
        tick: Callable[[int, int], None] | None,
    ) -> None:
        self.compiled, self.circuit, self.runs, self.cuts = compiled, circuit, runs, cuts
        self.tick, self.done = tick, 0
        self.measure = "mse" if runs.pairs.answer_values is not None else "kl"
        self.order = sorted(range(len(cuts)), key=lambda place: _first_block(compiled, cuts[place]))

    def run(self) -> dict[str, np.ndarray]:
        """The change by prompt and cut, `[prompt cut]` each."""
        found = {where: np.full((len(self.runs.pairs), len(self.cuts)), np.nan) for where in ("in_circuit", "in_full")}
        portions = Portions(self.compiled, self._prompts_at_once())
        for members in self.runs.by_length.values():
            for start in range(0, len(members), portions.most):
                chunk = members[start : start + portions.most]
                done = 0
                for part in portions.run(self._of_prompts, chunk):
                    size = len(part["in_circuit"])
                    for where, values in part.items():
                        found[where][chunk[done : done + size]] = values
                    done += size
        return found

    def _prompts_at_once(self) -> int:
        shape, universe = self.compiled.shape, self.compiled.universe
        longest = int(self.runs.pairs.lengths.max())
        rows = universe.n_readers + 2 * universe.n_writers
        return max(1, READ_BYTES // (rows * longest * shape.d_model * self.compiled.dtype.itemsize))

    def _of_prompts(self, prompts: np.ndarray) -> dict[str, np.ndarray]:
        """All cuts on some prompts of one length."""
        frozen = self.runs.batch(prompts)
        with torch.no_grad():
            return {
                "in_circuit": self._of_runs(frozen, self.circuit.mask),
                "in_full": self._of_runs(frozen, None),
            }

    def _of_runs(self, frozen: FrozenBatch, kept: np.ndarray | None) -> np.ndarray:
        compiled, clean = self.compiled, frozen.pairs.clean
        bound = compiled.runnable_with_vectors.bound
        run = UncutRun(
            bound, compiled.shape, compiled.universe, clean, frozen.values, kept=kept, vectors=compiled.vectors
        )
        # In the full model the run itself is the teacher, so that an edge that does nothing has an effect of 0.
        teacher = frozen.teacher_logits if kept is not None else run.logits
        without = self._distance(run.logits[None], teacher, frozen)
        found = np.full((clean.input_ids.shape[0], len(self.cuts)), np.nan)
        for places in self._batches(clean.input_ids.numel()):
            logits = run_cuts(run, [self.cuts[place] for place in places])
            found[:, places] = (self._distance(logits, teacher, frozen) - without).T
            self.done += len(places) * len(found)
            if self.tick is not None:
                self.tick(self.done, 2 * len(self.cuts) * len(self.runs.pairs))
        return found

    def _batches(self, n_cells: int) -> Iterator[list[int]]:
        """Cuts that run at once: those that begin at the same block."""
        most = max(1, CELLS_AT_ONCE.get(self.compiled.device.type, 512) // n_cells)
        start = 0
        while start < len(self.order):
            block = _first_block(self.compiled, self.cuts[self.order[start]])
            stop = start + 1
            while stop < min(len(self.order), start + most):
                if _first_block(self.compiled, self.cuts[self.order[stop]]) != block:
                    break
                stop += 1
            yield self.order[start:stop]
            start = stop

    def _distance(self, logits: Tensor, teacher: Tensor, frozen: FrozenBatch) -> np.ndarray:
        """How far each run is from the full model, by cut and prompt `[cut prompt]`."""
        prompt, n = frozen.pairs.clean.predict_prompt, frozen.pairs.clean.input_ids.shape[0]
        rows = []
        for one in logits:
            if self.measure == "mse":
                values = (one - teacher)[:, 0].double().pow(2)
            else:
                values = kl_divergence(one, teacher).double()
            rows.append(per_prompt_mean(values, prompt, n))
        return torch.stack(rows).cpu().numpy()


def _first_block(compiled: CompiledModel, cut: Cut) -> int:
    """The first block at which a cut changes what is read or said."""
    universe = compiled.universe
    if cut.reader is not None:
        firsts = [block.first_reader for block in universe.blocks]
        return int(np.searchsorted(firsts, cut.reader, side="right")) - 1
    kind, layer = universe.writer_kinds[cut.writer], int(universe.writer_layers[cut.writer])
    return 2 * layer + (kind == "mlp")
