"""From a task to a small model in one call: nodes searched for, the circuit extracted, and what that costs and gains.

    training prompts ──greedy nodes──▶ circuit ──extract──▶ small model ──test prompts──▶ accuracy, size, speed

What the small model cannot do is measured on prompts that it was not made with, by its own logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.selection.chosen import Chosen
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.extract.extraction import extract_circuit, largest_difference
from circuitgraph.extract.module import ExtractedCircuit
from circuitgraph.extract.size import parameters_without_embeddings
from circuitgraph.extract.speed import SpeedUp, measure_speed_up
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.graph.ablations import default_ablation
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.scores import score_prompts
from pruning.execution.probe import Probe
from pruning.methods.greedy_nodes import GreedyNodes
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.rank import SPLIT, check_ranking, ranked
from pruning.tasks import TaskData

CONSTANTS = ("zero", "mean", "mean-positional")
"""What may stand for what is gone."""


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A task's small model.

    Attributes:
        circuit: The circuit that it is.
        extracted: The small model.
        measures: On test prompts, by `model` and `circuit`: the means of `pruning.evaluation.scores`.
        n_prompts: How many test prompts.
        n_parameters: Weights of the small model, without embeddings and output head.
        n_parameters_model: Those of the model.
        largest_difference: How far the small model's logits are from the masked run's on the test prompts, by the
            largest logit.
        speed: Both, turn by turn, on a batch of test prompts.
    """

    circuit: Circuit
    extracted: ExtractedCircuit
    measures: dict[str, dict[str, float]]
    n_prompts: int
    n_parameters: int
    n_parameters_model: int
    largest_difference: float
    speed: SpeedUp

    @property
    def share_gone(self) -> float:
        """The share of the model's weights that are gone, embeddings and output head not counted."""
        return 1 - self.n_parameters / self.n_parameters_model

    def to_dict(self) -> dict[str, Any]:
        """All but the circuit and the model, as JSON values."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("circuit", "extracted", "speed")}
        return {**kept, "share_gone": self.share_gone, "speed": self.speed.to_dict()}


@with_gradients
def shrink(
    compiled: CompiledModel,
    task: TaskData,
    *,
    threshold: float = 0.02,
    mlps: bool = True,
    ablation: str | None = None,
    objective: str | None = None,
    split: str = "test",
    batch_size: int = 16,
    repeats: int = 15,
    say: Callable[[str], None] = lambda line: None,
) -> Shrunk:
    """Make a small model that does a task as its model does it.

    Args:
        compiled: The model.
        task: The prompts. Those of the training split say which heads and MLPs are needed, and what stands for others.
        threshold: A head or MLP goes if the objective rises by less without it; see `GreedyNodes`.
        mlps: Whether MLPs may go.
        ablation: What stands for what is gone: `mean-positional`, `mean` or `zero`. By default means per position
            where all prompts have one length, else means; zero of Tracr models.
        objective: What must not rise; by default the KL to the full model, or the squared error.
        split: The prompts that the small model is measured on.
        batch_size: How many prompts run at once, and are timed.
        repeats: Turns of the timing.
        say: Called with a line at each stage.

    Returns:
        The small model with its accuracy, size and speed.

    Raises:
        ConfigurationError: An ablation that is no constant, prompts of several lengths for means per position, or no
            prompts.
        ParityError: The small model does not say what the masked run says.
        UnknownNameError: No such split or objective.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> task = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})
        >>> small = shrink(compiled, task, threshold=1e-6, repeats=1)
        >>> small.extracted.live_heads, small.measures["circuit"]["accuracy"], round(small.share_gone, 2)
        (('a0.h0', 'a3.h0'), 1.0, 0.37)
    """
    train, test = task.split(SPLIT), task.split(split)
    if not len(train) or not len(test):
        empty = SPLIT if not len(train) else split
        raise ConfigurationError(f"task {task.name!r} has no {empty} prompts; it takes {SPLIT} and {split} prompts")
    ablation = _settled(compiled, ablation, train, test)
    method = GreedyNodes(threshold=threshold, mlps=mlps)
    probe = Probe(
        compiled=compiled, pairs=train, objective=objective or method.default_objective(train, None),
        ablation=ablation, batch_size=batch_size, say=say,
    )  # fmt: skip
    check_ranking(compiled, train, method, probe.objective, ablation)
    n_writers = compiled.universe.n_layers * (compiled.universe.n_heads + mlps)
    say(f"trying {n_writers:,} heads and MLPs on {len(train):,} training prompts ({ablation} ablation)")
    circuit = _searched(method, probe, task)
    values = compiled.ablation_values(ablation, (batch for batch, _ in _batches(train, compiled, batch_size)))
    extracted = extract_circuit(circuit, compiled, values=values)
    n_heads, n_mlps = len(extracted.live_heads), len(extracted.live_mlps)
    say(f"measuring {n_heads} heads and {n_mlps} MLPs on {len(test):,} {split} prompts")
    measures, difference = _measured(compiled, circuit, extracted, test, values, batch_size)
    return Shrunk(
        circuit=circuit,
        extracted=extracted,
        measures=measures,
        n_prompts=len(test),
        n_parameters=parameters_without_embeddings(extracted),
        n_parameters_model=parameters_without_embeddings(compiled),
        largest_difference=difference,
        speed=measure_speed_up(extracted, compiled, _commonest(test, compiled, batch_size), repeats=repeats),
    )


def _settled(compiled: CompiledModel, ablation: str | None, train: EncodedPairs, test: EncodedPairs) -> str:
    """What stands for what is gone."""
    lengths = sorted({*train.lengths.tolist(), *test.lengths.tolist()})
    if ablation is None:
        usual = default_ablation(compiled.universe.family)
        ablation = usual if usual in CONSTANTS else "mean-positional" if len(lengths) == 1 else "mean"
    if ablation not in CONSTANTS:
        raise ConfigurationError(
            f"a small model has constants in place of what is gone ({', '.join(CONSTANTS)} ablation); got {ablation!r}"
        )
    if ablation == "mean-positional" and len(lengths) > 1:
        raise ConfigurationError(
            f"means per position are of prompts of one length; these have {lengths[0]} to {lengths[-1]} tokens. Take "
            "ablation 'mean', or a task whose prompts have one length"
        )
    return ablation


def _searched(method: GreedyNodes, probe: Probe, task: TaskData) -> Circuit:
    found = ranked(method, probe, task, seed=0)
    assert found.search is not None
    selection = {"rule": "own", **found.search.about}
    return Chosen(scores=found.scores, edges=np.flatnonzero(found.search.kept), selection=selection).circuit()


def _batches(pairs: EncodedPairs, compiled: CompiledModel, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Prompts of one length each as batches, and as pairs."""
    for some in batches_by_length(pairs.by_length, batch_size):
        batch = pairs.batch(some, device=compiled.device)
        yield batch.clean, batch


def _commonest(pairs: EncodedPairs, compiled: CompiledModel, batch_size: int) -> Any:
    """A batch of the commonest prompt length."""
    lengths = pairs.lengths
    members = np.flatnonzero(lengths == np.bincount(lengths).argmax())[:batch_size]
    return pairs.batch(members, device=compiled.device).clean


@torch.no_grad()
def _measured(
    compiled: CompiledModel,
    circuit: Circuit,
    extracted: ExtractedCircuit,
    pairs: EncodedPairs,
    values: AblationValues,
    batch_size: int,
) -> tuple[dict[str, dict[str, float]], float]:
    """What the model and the small model say of prompts, by their own logits."""
    collected: dict[str, dict[str, list[torch.Tensor]]] = {"model": {}, "circuit": {}}
    difference = 0.0
    for batch, both in _batches(pairs, compiled, batch_size):
        full = compiled.logits(batch)
        small = extracted(batch.input_ids, batch.attention_mask, at=batch.predict_index)
        for name, logits in (("model", full), ("circuit", small)):
            for measure, scores in score_prompts(logits, full, both).items():
                collected[name].setdefault(measure, []).append(scores.cpu())
        difference = max(difference, largest_difference(extracted, circuit, compiled, batch, values))
    means = {
        name: {measure: float(torch.cat(parts).nanmean()) for measure, parts in by_measure.items()}
        for name, by_measure in collected.items()
    }
    known = {name: {measure: mean for measure, mean in of.items() if mean == mean} for name, of in means.items()}
    return known, difference
