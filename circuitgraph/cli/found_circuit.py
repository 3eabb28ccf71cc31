"""A saved circuit with the model and the prompts that its provenance names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.output import say, warn
from circuitgraph.cli.settings import ModelPlan, plan_model
from circuitgraph.errors import (
    CircuitGraphError,
    ConfigurationError,
    GraphEditError,
    GraphMismatchError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.model import CompiledModel
    from pruning.tasks import TaskData


@dataclass(frozen=True, kw_only=True)
class FoundCircuit:
    """A circuit and its model, ready to run.

    Attributes:
        circuit: The circuit.
        provenance: Where it came from.
        plan: The model as its config describes it.
        compiled: The model, compiled with the circuit's universe.
    """

    circuit: Circuit
    provenance: dict[str, Any]
    plan: ModelPlan
    compiled: CompiledModel

    @property
    def task_options(self) -> dict[str, Any]:
        """How the prompts were made that the circuit was found with."""
        found = self.provenance.get("task_options")
        return found if isinstance(found, dict) else {}

    @property
    def seed(self) -> int:
        """The seed that the circuit was found with; 0 where it does not say."""
        seed = self.provenance.get("seed")
        return seed if isinstance(seed, int) else 0

    def task(self, name: str | None, *, seed: int | None = None) -> TaskData:
        """Make the prompts again that the circuit was found with, or those of another task.

        Args:
            name: A task, or None for the circuit's own.
            seed: Other prompts than it was found with.

        Raises:
            ConfigurationError: Neither the caller nor the circuit names a task, or its prompts cannot be divided into
                the circuit's spans.
        """
        from pruning.evaluation.trained_on import task_of_provenance
        from pruning.tasks.spans import divided_as

        task = task_of_provenance(self.provenance, self.compiled.tokenizer, name=name, seed=seed)
        return divided_as(task, self.circuit.universe.spans)

    def own_task(self, *, exact: bool) -> TaskData:
        """Make the very prompts again that the circuit was found with.

        Args:
            exact: Whether other prompts are refused; else they are warned of.

        Raises:
            ConfigurationError: They cannot be made again.
        """
        data, found = self.task(None), self.provenance.get("data_hash")
        if found not in (None, data.data_hash):
            if exact:
                raise ConfigurationError(_other_prompts(data.name))
            warn(_other_prompts(data.name))
        return data


def warn_of_trained(circuits: Mapping[str, Circuit], tokenizer: object, data: TaskData, split: str) -> None:
    """Say which circuits are about to be measured on prompts that they were trained on.

    Args:
        circuits: By name; one alone needs none, and has the name "".
        tokenizer: The model's.
        data: The prompts.
        split: Those of them to be measured on.
    """
    from pruning.evaluation.trained_on import trained_on
    from pruning.prompts.text_rules import shown

    made: dict[str, TaskData | str] = {data.data_hash: data}
    pairs = data.split(split)
    for name, circuit in circuits.items():
        found = circuit.provenance.get("data_hash")
        if not isinstance(found, str):
            continue  # nobody knows what it was found with
        if found not in made:
            made[found] = _made_again(circuit.provenance, tokenizer, found)
        own, called = made[found], f"{name}: " if name else ""
        if isinstance(own, str):
            warn(f"{called}{own}; some of these prompts may be among those that it was trained on")
        elif seen := trained_on(own, pairs):
            first = f", such as {shown(pairs.texts[seen[0]])}" if pairs.texts else ""
            warn(
                f"{called}the circuit was trained on {len(seen):,} of these {len(pairs):,} {split} prompts{first}: "
                "on them it is better than on new ones"
            )


def _made_again(provenance: Mapping[str, Any], tokenizer: object, data_hash: str) -> TaskData | str:
    """The prompts that a circuit was found with, or why they cannot be made again."""
    from pruning.evaluation.trained_on import task_of_provenance

    try:
        own = task_of_provenance(provenance, tokenizer)
    except CircuitGraphError as error:
        return f"the prompts that the circuit was found with cannot be made again: {error}"
    return own if own.data_hash == data_hash else _other_prompts(own.name)


def _other_prompts(task: str) -> str:
    return (
        f"the prompts of task {task} are not those the circuit was found with: the file, the tokenizer or the "
        "generator has changed"
    )


def load_found_circuit(
    path: Path,
    *,
    model: str | None,
    device: str,
    dtype: str | None,
    verify: bool,
    exact: bool = False,
    without_spans: str | None = None,
) -> FoundCircuit:
    """Load a circuit and the model it belongs to.

    Args:
        path: The circuit file.
        model: A model, or None for the one that the circuit names.
        device: Where it runs.
        dtype: The model's number format, or None for the circuit's.
        verify: Whether to check that the compiled graph reproduces the model.
        exact: Whether a model of other weights is refused; else it is warned of.
        without_spans: What does not know spans of positions, so that a circuit that has some is refused before its
            model is loaded.

    Raises:
        CircuitFormatError: The file is no circuit.
        ConfigurationError: Neither the caller nor the circuit names a model, or it has spans and should not.
        GraphMismatchError: The model has another graph than the circuit, or, if that matters, other weights.
    """
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.graph.spans import refuse_spans

    circuit = Circuit.load(path)
    if without_spans is not None:
        refuse_spans(circuit.universe, without_spans)
    return found_circuit(circuit, path, model=model, device=device, dtype=dtype, verify=verify, exact=exact)


def found_circuit(
    circuit: Circuit,
    path: Path,
    *,
    model: str | None,
    device: str,
    dtype: str | None,
    verify: bool,
    exact: bool = False,
) -> FoundCircuit:
    """The same of a circuit that was loaded already.

    Args:
        circuit: The circuit.
        path: The file that it came from, for messages.
        model: As of `load_found_circuit`, like what follows.
        device: Where the model runs.
        dtype: Its number format.
        verify: Whether to check that the compiled graph reproduces it.
        exact: Whether a model of other weights is refused.
    """
    from circuitgraph.compiled.vector_files import vectors_beside
    from circuitgraph.graph.spans import SpannedUniverse

    provenance = circuit.provenance
    own = provenance.get("model")
    name = model or (own if isinstance(own, str) else None)
    if name is None:
        raise ConfigurationError(f"{path} does not say which model it belongs to; give --model")
    universe = circuit.universe
    plan = plan_model(
        name, embeddings=universe.embeddings, kv_heads=universe.kv_heads, qkv=universe.qkv,
        vectors=vectors_beside(circuit, path),
    )  # fmt: skip
    difference = universe.without_spans.first_difference(plan.universe)
    if difference is not None:
        raise GraphMismatchError(
            f"{path} is no circuit of model {name!r}: {difference} (circuit against model); give its own --model"
        )
    found = provenance.get("dtype")
    say(f"loading {name}")
    loaded = plan.load(dtype=dtype or (found if isinstance(found, str) else "float32"), device=device)
    compiled = plan.compile(loaded, verify=verify)
    if isinstance(universe, SpannedUniverse):
        compiled = compiled.with_spans(universe.spans, asked=universe.asked_spans)
    compiled = _as_edited(compiled, provenance.get("edits"), path)
    told = _another_model(compiled, provenance)
    other = [text for field, text in told.items() if field in ("config_hash", "weights")]  # a name alone is nothing
    if other and exact:
        raise GraphMismatchError(f"{path}: {'; '.join(other)}; give the model that it was found in, with --model")
    for text in told.values():
        warn(text)
    return FoundCircuit(circuit=circuit, provenance=provenance, plan=plan, compiled=compiled)


def _another_model(compiled: CompiledModel, provenance: dict[str, Any]) -> dict[str, str]:
    """In what the model is another than the circuit was found in, by field; another number format is none."""
    from circuitgraph.compiled.identity import config_hash

    told: dict[str, str] = {}
    found, dtype = provenance.get("dtype"), str(compiled.dtype).removeprefix("torch.")
    for field, ours in compiled.identity.items():
        theirs = provenance.get(field)
        if theirs is None or theirs == ours:
            continue
        if isinstance(found, str) and found != dtype:
            if field == "weights":
                continue  # in another number format the same weights have other bits
            if field == "config_hash" and theirs == config_hash(compiled.model.config, dtype=found):
                continue
        told[field] = f"the circuit was found in {field} {theirs}, this is {field} {ours}"
    if isinstance(found, str) and found != dtype:
        say(f"note: the circuit was found in {found}, this is {dtype}")
    return told


def _as_edited(compiled: CompiledModel, edits: object, path: Path) -> CompiledModel:
    """The model with the graph that the circuit was found in, where that was edited.

    What it is compared with, its complement and random circuits, must not hold edges that were removed.
    """
    from circuitgraph.graph.gate_map import GateMap

    if not isinstance(edits, dict) or not (edits.get("removed") or edits.get("frozen")):
        return compiled
    try:
        return replace(compiled, gate_map=GateMap.from_edits(compiled.universe, edits))
    except (GraphEditError, UnknownNameError) as error:
        warn(
            f"{path}: the circuit was found in an edited graph, which its file does not tell whole ({error}); its "
            "complement and random circuits are measured in the unedited one"
        )
        return compiled
