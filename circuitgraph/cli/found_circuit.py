"""A saved circuit with the model and the prompts that its provenance names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.output import say, warn
from circuitgraph.cli.settings import GraphChoices, ModelPlan, plan_model
from circuitgraph.errors import ConfigurationError, GraphEditError, GraphMismatchError, UnknownNameError

if TYPE_CHECKING:
    from circuitgraph.circuit import Circuit
    from circuitgraph.compile import CompiledModel
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
            ConfigurationError: Neither the caller nor the circuit names a task.
        """
        from pruning.tasks import get_task, load_task

        own = self.provenance.get("task")
        name = name or (own if isinstance(own, str) else None)
        if name is None:
            raise ConfigurationError("the circuit does not say which task it was found for; give --task")
        made = self.task_options if name == own else {}
        # A task that decides its sizes itself, from all inputs, takes none.
        sizes = None if get_task(name).sizes is None else made.get("sizes")
        data = load_task(
            name,
            self.compiled.tokenizer,
            sizes=sizes,
            seed=made.get("seed", self.seed) if seed is None else seed,
            chat_template=made.get("chat_template", False),
            bos=made.get("bos", "auto"),
            options=made.get("options"),
        )
        if name == own and seed is None and self.provenance.get("data_hash") not in (None, data.data_hash):
            warn(
                f"the prompts of task {name} are not those the circuit was found with (the file, the tokenizer "
                "or the generator has changed), so some of them may have been trained on"
            )
        return data


def load_found_circuit(
    path: Path, *, model: str | None, device: str, dtype: str | None, verify: bool, kernels: str = "plain"
) -> FoundCircuit:
    """Load a circuit and the model it belongs to.

    Args:
        path: The circuit file.
        model: A model, or None for the one that the circuit names.
        device: Where it runs.
        dtype: The model's number format, or None for the circuit's.
        verify: Whether to check that the compiled graph reproduces the model.
        kernels: How its MLPs multiply, see `compile_model`.

    Raises:
        CircuitFormatError: The file is no circuit.
        ConfigurationError: Neither the caller nor the circuit names a model.
        GraphMismatchError: The model has another graph than the circuit.
    """
    from circuitgraph.circuit import Circuit

    circuit = Circuit.load(path)
    provenance = circuit.provenance
    own = provenance.get("model")
    name = model or (own if isinstance(own, str) else None)
    if name is None:
        raise ConfigurationError(f"{path} does not say which model it belongs to; give --model")
    universe = circuit.universe
    plan = plan_model(name, GraphChoices(embeddings=universe.embeddings, kv_heads=universe.kv_heads, qkv=universe.qkv))
    difference = universe.first_difference(plan.universe)
    if difference is not None:
        raise GraphMismatchError(
            f"{path} is no circuit of model {name!r}: {difference} (circuit against model); give its own --model"
        )
    found = provenance.get("dtype")
    say(f"loading {name}")
    loaded = plan.load(dtype=dtype or (found if isinstance(found, str) else "float32"), device=device)
    compiled = plan.compile(loaded, verify=verify, kernels=kernels)
    compiled = _as_edited(compiled, provenance.get("edits"), path)
    _warn_of_another_model(compiled, provenance)
    return FoundCircuit(circuit=circuit, provenance=provenance, plan=plan, compiled=compiled)


def _warn_of_another_model(compiled: CompiledModel, provenance: dict[str, Any]) -> None:
    """Say in what the model is another than the circuit was found in; another number format is no other model."""
    from circuitgraph.compile import config_hash

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
        warn(f"the circuit was found in {field} {theirs}, this is {field} {ours}")
    if isinstance(found, str) and found != dtype:
        say(f"note: the circuit was found in {found}, this is {dtype}")


def _as_edited(compiled: CompiledModel, edits: object, path: Path) -> CompiledModel:
    """The model with the graph that the circuit was found in, where that was edited.

    What it is compared with, its complement and random circuits, must not hold edges that were removed.
    """
    from circuitgraph.gate_map import GateMap

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
