"""From a circuit and its model to an `ExtractedCircuit`: what `extract_circuit` does."""

from __future__ import annotations

import json
from typing import Any, cast

import torch
from torch import Tensor, nn

from circuitgraph.batch import TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.compiled.parity import TOLERANCE
from circuitgraph.errors import ConfigurationError, GraphMismatchError, ParityError, UnknownNameError
from circuitgraph.extract.folding import fold
from circuitgraph.extract.module import ExtractedCircuit, Origin
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.models import LoadedModel
from circuitgraph.torch_state import in_settled_state

CONSTANT_ABLATIONS = tuple(name for name in ABLATIONS if name != "counterfactual")
"""Ablations whose values do not depend on the prompt."""


@in_settled_state
def extract_circuit(
    circuit: Circuit,
    model: CompiledModel | LoadedModel | nn.Module,
    *,
    values: AblationValues | None = None,
    verify: bool = True,
) -> ExtractedCircuit:
    """Make a circuit a small torch module that outputs what the circuit does; see `circuitgraph.extract`.

    Args:
        circuit: The circuit.
        model: The model it is of, compiled with the circuit's choices or not compiled.
        values: What cut edges carry, the same for every prompt: `compiled.ablation_values(ablation, batches)`; they
            know of which ablation they are. A circuit that was found under zero ablation needs none.
        verify: Compare the result with the masked run on a few random prompts.

    Returns:
        The module, in evaluation mode, on the model's device.

    Raises:
        GraphMismatchError: The model has another graph than the circuit.
        ConfigurationError: Counterfactual ablation, or values that are missing or differ from prompt to prompt.
        ParityError: The module does not say what the masked run says.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> small = extract_circuit(circuit, compiled)
        >>> small.live_heads, small.live_mlps
        (('a0.h0', 'a3.h0'), ('m0', 'm1', 'm2'))
    """
    ablation = settle_ablation(circuit, None if values is None else values.ablation)
    compiled = _compiled(circuit, model)
    compiled.require_no_vectors()
    if values is None:
        values = _zeros_or_refuse(compiled, ablation)
    values = _on(values, compiled)
    n_columns = _n_columns(values)
    folded = fold(compiled, circuit.mask, values, n_columns=n_columns)
    extracted = ExtractedCircuit(folded.layout, compiled.bound_as_given, _origin(circuit, compiled, ablation))
    extracted.tie_embeddings()
    found = extracted.load_state_dict(folded.constants, strict=False, assign=True)
    assert not found.unexpected_keys, found.unexpected_keys
    assert not any(tensor.is_meta for tensor in extracted.state_dict().values())
    if verify:
        check_against_masked_run(extracted, circuit, compiled, values)
    return extracted


def settle_ablation(circuit: Circuit, ablation: str | None) -> str:
    """What cut edges carry in an extracted circuit.

    Args:
        circuit: The circuit.
        ablation: What was asked for, or what the values are of; by default what the circuit was found with.

    Raises:
        UnknownNameError: No such ablation.
        ConfigurationError: Counterfactual ablation.
    """
    chosen = ablation or circuit.ablation
    if chosen not in ABLATIONS:
        raise UnknownNameError.of("ablation", chosen, ABLATIONS)
    if chosen in CONSTANT_ABLATIONS:
        return chosen
    found = "was found under" if ablation is None else "cannot be extracted under"
    raise ConfigurationError(
        f"the circuit {found} counterfactual ablation, where cut edges carry what they say on another prompt, so "
        f"nothing constant can stand for them. Ablations that work: {', '.join(CONSTANT_ABLATIONS)}. Under another "
        "ablation the same edges are another circuit, so look at it first. On the command line: circuitgraph evaluate "
        "--ablation mean, then circuitgraph extract --ablation mean. In Python: "
        'pruning.evaluate(compiled, circuit, pairs, ablation="mean"), then '
        'extract_circuit(circuit, compiled, values=compiled.ablation_values("mean", batches))'
    )


def _compiled(circuit: Circuit, model: CompiledModel | LoadedModel | nn.Module) -> CompiledModel:
    universe = circuit.universe
    refuse_spans(universe, "an extracted model")
    if not isinstance(model, CompiledModel):
        model = compile_model(model, embeddings=universe.embeddings, kv_heads=universe.kv_heads, qkv=universe.qkv)
    difference = universe.first_difference(model.universe)
    if difference is not None:
        raise GraphMismatchError(
            f"the circuit's universe is not the compiled model's: {difference}; compile the model with the "
            "circuit's choices of embeddings, kv_heads and qkv"
        )
    return model


def _zeros_or_refuse(compiled: CompiledModel, ablation: str) -> AblationValues:
    if ablation == "zero":
        return compiled.ablation_values("zero")
    how = (
        "the constants learnt together with the gates"
        if ablation == "optimal"
        else f"compiled.ablation_values({ablation!r}, batches), over the prompts that the circuit was found on"
    )
    raise ConfigurationError(f"{ablation} ablation needs values; pass values= {how}")


def _on(values: AblationValues, compiled: CompiledModel) -> AblationValues:
    """The values on the model's device, once they are known to fit the model."""
    shape, n_layers = compiled.shape, compiled.shape.n_layers
    n_embeddings = 2 if shape.learned_positions else 1
    wanted = {
        "embeddings": (n_embeddings, (shape.d_model,)),
        "heads": (n_layers, (shape.n_heads, shape.d_head)),
        "attention": (n_layers, (shape.d_model,)),
        "mlps": (n_layers, (shape.d_model,)),
    }
    moved: dict[str, tuple[Tensor, ...]] = {}
    for name, (count, sizes) in wanted.items():
        group: tuple[Tensor, ...] = getattr(values, name)
        for tensor in group:
            if tensor.ndim != len(sizes) + 2 or (*tensor.shape[:-3], tensor.shape[-1]) != sizes:
                raise ConfigurationError(
                    f"values: {name} must have the shape {_shape_text(sizes)}; got {list(tensor.shape)}"
                )
            if tensor.shape[-3] != 1:
                raise ConfigurationError(
                    f"values: {name} are of {tensor.shape[-3]} prompts, so they differ from prompt to prompt; average "
                    "them first, with compiled.ablation_values('mean', batches)"
                )
        if len(group) != count:
            raise ConfigurationError(f"values: expected {count} tensors of {name}; got {len(group)}")
        moved[name] = tuple(tensor.detach().to(compiled.device) for tensor in group)
    return AblationValues(
        ablation=values.ablation,
        embeddings=moved["embeddings"],
        heads=moved["heads"],
        attention=moved["attention"],
        mlps=moved["mlps"],
    )


def _shape_text(sizes: tuple[int, ...]) -> str:
    return str([*sizes[:-1], 1, "seq or 1", sizes[-1]]).replace("'", "")


def _n_columns(values: AblationValues) -> int:
    """The number of positions that values are for; 1 where they are the same at each."""
    groups = (values.embeddings, values.heads, values.attention, values.mlps)
    lengths = {tensor.shape[-2] for group in groups for tensor in group} - {1}
    if len(lengths) > 1:
        raise ConfigurationError(f"values: expected one number of positions; got {sorted(lengths)}")
    return lengths.pop() if lengths else 1


def _origin(circuit: Circuit, compiled: CompiledModel, ablation: str) -> Origin:
    config = cast(Any, compiled.model.config)
    values = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    return Origin(
        model=compiled.name,
        revision=compiled.revision,
        config_hash=compiled.config_hash,
        model_type=config.model_type,
        config=json.loads(json.dumps(values, default=str)),
        n_parameters=sum(weight.numel() for weight in compiled.model.parameters()),
        circuit=circuit.digest,
        n_edges=len(circuit),
        n_universe=circuit.universe.n_edges,
        ablation=ablation,
    )


# -------------------------------------------------------------------- is it the same thing


@in_settled_state
def largest_difference(
    extracted: ExtractedCircuit,
    circuit: Circuit,
    compiled: CompiledModel,
    batch: TokenBatch,
    values: AblationValues,
) -> float:
    """How far an extracted circuit is from the masked run.

    Args:
        extracted: The extracted circuit.
        circuit: The circuit.
        compiled: The model.
        batch: Prompts.
        values: What ablated writers say.

    Returns:
        The largest difference of logits at the asked positions, divided by the largest logit.
    """
    wide = torch.float64 if compiled.dtype == torch.float64 else torch.float32
    gates = torch.from_numpy(circuit.mask).to(compiled.device, wide)
    with torch.no_grad():
        theirs = compiled.masked(gates, batch, values).logits.double()
        ours = extracted(batch.input_ids, batch.attention_mask, at=batch.predict_index).double()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))


def check_against_masked_run(
    extracted: ExtractedCircuit, circuit: Circuit, compiled: CompiledModel, values: AblationValues
) -> None:
    """Compare an extracted circuit with the masked run on random prompts.

    Raises:
        ParityError: They differ by more than rounding explains.
    """
    batch = _random_batch(extracted, compiled)
    difference, allowed = largest_difference(extracted, circuit, compiled, batch, values), TOLERANCE[compiled.dtype]
    if not difference <= allowed:
        raise ParityError(
            f"{compiled.name}: the extracted circuit differs from the masked run by {difference:.2e} of the largest "
            f"logit; at most {allowed:.0e} was expected in {compiled.dtype}. circuitgraph/extract may not know "
            "something that this family's models do; please report it with the model's config"
        )


def _random_batch(extracted: ExtractedCircuit, compiled: CompiledModel) -> TokenBatch:
    """Three random prompts, one of them padded unless constants are per position."""
    positional = extracted.layout.n_columns > 1
    seq = extracted.layout.n_columns if positional else min(8, compiled.shape.n_positions or 8)
    real = torch.ones(3, seq, dtype=torch.int64)
    if not positional:
        real[1, : seq // 4] = 0
    ids = compiled.family.random_ids(compiled.model.config, real, torch.Generator().manual_seed(0))
    index = real.flatten().nonzero()[:, 0]
    return TokenBatch(
        input_ids=ids, attention_mask=real, predict_index=index, predict_prompt=index // seq
    ).to(compiled.device)  # fmt: skip
