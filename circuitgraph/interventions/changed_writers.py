"""Writers changed at all or some positions, as what a plain run has to be patched with.

Where positions matter no gate of an edge can say the change, but all readers of a writer see it alike; so it is made
where the writer writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.patched_run import Patch
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.interventions.positions import PositionChange
from circuitgraph.token_places import flags_of
from circuitgraph.transfer import to_device, to_host


@dataclass(frozen=True, kw_only=True)
class ChangedWriters:
    """What is done to writers.

    Attributes:
        everywhere: The change α of writers at all positions, by name.
        there: Changes at some positions.
        strength: How much of both.
    """

    everywhere: Mapping[str, float]
    there: tuple[PositionChange, ...]
    strength: float

    @classmethod
    def of(cls, intervention: Intervention, strength: float, d_model: int, largest: float) -> ChangedWriters:
        """Those of an intervention.

        Args:
            intervention: With changes at positions.
            strength: How much of it.
            d_model: How many numbers a vector has to have.
            largest: The largest number of the model's format.

        Raises:
            ConfigurationError: A strength that is not finite, edges of a writer that are changed apart, a vector of
                another length, or changes too large for the model's format.
        """
        if not np.isfinite(strength):
            raise ConfigurationError(f"strength must be a finite number; got {strength}")
        for name, change in intervention.writers.items():
            if change is None:
                raise ConfigurationError(
                    f"some edges of {name} are changed apart from its others; together with changes at positions "
                    "everything that a writer says is changed alike. Use two interventions, or change all its edges"
                )
        for one in intervention.at_positions:
            if one.vector and len(one.vector) != d_model:
                raise ConfigurationError(
                    f"the vector that is added to {one.writer} has {len(one.vector):,} numbers; the model's residual "
                    f"stream has {d_model:,}"
                )
        everywhere = {name: float(change) for name, change in intervention.writers.items() if change is not None}
        changes = [*everywhere.values(), *(x for one in intervention.at_positions for x in (one.change, *one.vector))]
        require_small(strength, changes, largest)
        return cls(everywhere=everywhere, there=intervention.at_positions, strength=float(strength))

    def patch(self, batch: TokenBatch) -> Patch:
        """What it does to some prompts.

        Args:
            batch: Prompts.

        Raises:
            ConfigurationError: A prompt lacks a position that is changed.
        """
        prompts = batch.to_look_at
        mask, index = to_host(prompts.attention_mask, prompts.predict_index)
        assert mask is not None and index is not None
        real = np.asarray(mask).astype(bool)
        asked = flags_of(np.asarray(index), real.shape)
        factors = {name: np.full(real.shape, 1 + self.strength * change) for name, change in self.everywhere.items()}
        added: dict[str, np.ndarray] = {}
        for one in self.there:
            places = one.places(real, asked)
            if one.change:
                factors.setdefault(one.writer, np.ones(real.shape))
                factors[one.writer] += self.strength * one.change * places
            if one.vector:
                vector = self.strength * places[..., None] * np.array(one.vector)
                added[one.writer] = added.get(one.writer, 0.0) + vector

        def moved(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
            return {name: to_device(array, batch.input_ids.device) for name, array in arrays.items()}

        return Patch(scaled=moved(factors), added=moved(added))


def require_small(strength: float, changes: Iterable[float], largest: float) -> None:
    """Refuse changes that would be infinite in the model's number format.

    Args:
        strength: How much of them.
        changes: The changes.
        largest: The largest number of the format.

    Raises:
        ConfigurationError: One is.
    """
    most = max((abs(float(change)) for change in changes), default=0.0)
    if abs(float(strength)) * most >= largest:
        raise ConfigurationError(
            f"strength {strength:g} times a change of {most:g} is too large: the model's numbers go up to {largest:.3g}"
        )
