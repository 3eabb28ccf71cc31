"""`compile_model`: a Hugging Face model into a computation graph and the means to run it.

The result holds the user's model by reference and never changes it: no hooks, no changed `requires_grad`
or mode, no copied weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from circuitgraph.architectures import family_of
from circuitgraph.architectures.given import check_given
from circuitgraph.architectures.universe import universe_of
from circuitgraph.compiled.binding import Binding
from circuitgraph.compiled.identity import config_hash
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.models import LoadedModel
from circuitgraph.torch_state import in_settled_state


@in_settled_state
def compile_model(
    model: LoadedModel | nn.Module,
    *,
    embeddings: str = "joint",
    kv_heads: str = "native",
    qkv: str = "split",
    verify: bool = True,
    vectors: Sequence[Vector] = (),
) -> CompiledModel:
    """Compile a model into a computation graph whose edges map to gates.

    Args:
        model: What `load_model` gives, or a model made by other means; `LoadedModel` gives such a one its tokenizer and
            a name.
        embeddings: `joint`: one writer `input`; `split`: `tok` and `pos` apart (learned positions only).
        kv_heads: `native`: one key and one value reader per key-value head; `per_query`: one per query head.
        qkv: `split`: readers for query, key and value apart; `joint`: one per head.
        verify: Check that all gates 1 give the untouched model, and all gates 0 its run on other prompts, and that its
            weights are finite. That the model is the one that its config describes is always checked.
        vectors: What is added to the model, each a writer with edges of its own; as of `CompiledModel.with_vectors`.

    Returns:
        The compiled model. The given one is left as it was.

    Raises:
        UnsupportedModelError: The architecture or a config field is not understood; or the model is not the one that
            its config describes: hooks, methods set on a module, adapters, parametrisations, masks, replaced modules,
            quantised, offloaded or mixed weights.
        ConfigurationError: No model; or the choices do not fit it.
        ParityError: The compiled graph does not reproduce the model.

    Examples:
        >>> from circuitgraph import load_model
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> compiled.universe.n_edges, compiled.graph.number_of_nodes()
        (94, 23)
    """
    loaded = model if isinstance(model, LoadedModel) else None
    network: Any = loaded.model if loaded is not None else model
    check_given(network)
    config = network.config
    family = family_of(config.model_type)
    if type(network).__name__ not in family.model_classes:
        raise UnsupportedModelError(
            f"{family.name}: expected a model of class {', '.join(sorted(family.model_classes))}; "
            f"got {type(network).__name__}. Load it with {family.auto_class}."
        )
    family.check_config(config)
    shape = family.shape(config)
    universe = universe_of(family, shape, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
    name = loaded.name if loaded is not None else (getattr(config, "_name_or_path", "") or type(network).__name__)
    compiled = CompiledModel(
        model=network,
        tokenizer=loaded.tokenizer if loaded is not None else None,
        name=name,
        revision=loaded.revision if loaded is not None else None,
        config_hash=config_hash(config),
        family=family,
        shape=shape,
        universe=universe,
        gate_map=GateMap.identity(universe),
        _binding=Binding(network, family, name=name),
    )
    if verify:
        from circuitgraph.compiled.parity import check_finite, check_parity

        check_finite(network, name=compiled.name)
        check_parity(compiled)
    return compiled.with_vectors(vectors) if vectors else compiled
