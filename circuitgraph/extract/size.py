"""How large a model and an extracted circuit are without what stands around their layers.

Embeddings and the output head are as large as the vocabulary, and no circuit makes them smaller: of a small model they
would hide how much of the rest is gone.
"""

from __future__ import annotations

from torch import nn

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract.module import ExtractedCircuit


def parameters_without_embeddings(of: CompiledModel | ExtractedCircuit) -> int:
    """Count the weights of layers and norms: all but embeddings and the output head.

    Args:
        of: A model, or an extracted circuit.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, extract_circuit, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> small = extract_circuit(circuit, compiled)
        >>> parameters_without_embeddings(small), parameters_without_embeddings(compiled)
        (10593, 18304)
    """
    if isinstance(of, ExtractedCircuit):
        around = [of.embeddings, of.unembedding.unembed]
        every = of.parameters()
    else:
        tables = [module for module in of.model.modules() if isinstance(module, nn.Embedding)]
        around = [*tables, of.bound_as_given.unembed]
        every = of.model.parameters()
    # By where they lie: a bound module holds the same weights under another object.
    outside = {weight.data_ptr() for module in around for weight in module.parameters() if weight.numel()}
    return sum(weight.numel() for weight in every if weight.data_ptr() not in outside)
