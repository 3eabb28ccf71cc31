"""Coordinates of writers as one flat vector, and as the gates that a masked pass takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError, UnsupportedModelError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.coordinates import CoordinateGates, mean_inner, neurons_of
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.torch_state import in_settled_state
from pruning.frozen.constants import AblationData
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs


class CoordinateLayout:
    """Where each writer's coordinates lie in a flat vector.

    Args:
        compiled: The model.
        circuit: The circuit.
        writers: Whose coordinates; by default those of all heads and MLPs that the circuit reads.

    Attributes:
        places: For each writer its part of the vector.
        size: Coordinates in all.

    Raises:
        UnknownNameError: A writer that the circuit does not read, or that has no coordinates.
        UnsupportedModelError: An MLP whose neurons are not known.
        ConfigurationError: No writers at all, or a universe with spans.
    """

    def __init__(self, compiled: CompiledModel, circuit: Circuit, writers: Sequence[str] | None = None) -> None:
        universe = circuit.universe
        refuse_spans(universe, "coordinates of writers")
        read = np.unique(universe.endpoints(circuit.edge_ids)[0])
        live = [universe.writers[place] for place in read if universe.writer_kinds[place] in ("head", "mlp")]
        for name in writers or ():
            if name not in live:
                raise UnknownNameError.of("head or MLP that the circuit reads", name, live)
        chosen = [name for name in live if writers is None or name in writers]
        self._compiled, self.places, self.size = compiled, {}, 0
        for name in chosen:
            layer, head = _layer_and_head(name)
            own = compiled.runnable_with_vectors.bound.blocks[layer]
            size = compiled.shape.d_head if head is not None else _neurons_of(name, own.mlp)
            self.places[name] = slice(self.size, self.size + size)
            self.size += size
        if not self.size:
            raise ConfigurationError(
                "there are no coordinates: "
                + ("no writer was named" if live else "the circuit reads no head and no MLP")
            )

    @property
    def mlp_layers(self) -> list[int]:
        """Layers whose MLPs have coordinates here."""
        return [layer for layer, head in map(_layer_and_head, self.places) if head is None]

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """A flat vector by writer."""
        return {name: values[place] for name, place in self.places.items()}

    def gates(self, values: Float[Tensor, " coordinate"], inner: Mapping[int, Tensor]) -> CoordinateGates:
        """Gates as a pass takes them; differentiable in the values.

        Args:
            values: A gate for each coordinate.
            inner: What neurons are under mean ablation, by layer.
        """
        shape, mlps = self._compiled.shape, {}
        rows: dict[int, list[Tensor]] = {}
        for name, place in self.places.items():
            layer, head = _layer_and_head(name)
            if head is None:
                mlps[layer] = values[place]
                continue
            whole = rows.setdefault(layer, [values.new_ones(shape.d_head) for _ in range(shape.n_heads)])
            whole[head] = values[place]
        heads = {layer: torch.stack(of) for layer, of in rows.items()}
        return CoordinateGates(heads=heads, mlps=mlps, inner=inner)


def _neurons_of(name: str, mlp: nn.Module) -> int:
    try:
        return neurons_of(mlp)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{name}: {error}; take coordinates of heads alone (writers=[…], --writer a0.h1)"
        ) from None


def _layer_and_head(name: str) -> tuple[int, int | None]:
    """`m3` is (3, None), `a3.h7` is (3, 7)."""
    module, _, head = name[1:].partition(".h")
    return int(module), int(head) if head else None


@in_settled_state
def means_of_neurons(
    compiled: CompiledModel, layout: CoordinateLayout, ablation: str, data: AblationData | None, pairs: EncodedPairs
) -> dict[int, Tensor]:
    """What neurons are under mean ablation, by layer; nothing under others.

    Args:
        compiled: The model.
        layout: Whose coordinates there are.
        ablation: What cut edges carry.
        data: The prompts that means are taken over; `pairs` where these are none.
        pairs: The prompts that are run.

    Raises:
        ConfigurationError: Means of writers in place of prompts.
    """
    if not ablation.startswith("mean") or not layout.mlp_layers:
        return {}
    if isinstance(data, AblationValues):
        raise ConfigurationError(
            "the means of neurons are taken over prompts: give prompts as ablation_data, not the means of writers"
        )
    over = pairs if data is None else data

    batches = (over.batch(some, device=compiled.device).clean for some in batches_by_length(over.by_length, 16))
    return mean_inner(compiled.runnable_with_vectors.bound, compiled.shape, batches, layout.mlp_layers)
