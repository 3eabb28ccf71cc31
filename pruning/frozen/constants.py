"""Constants for cut edges: where they come from, and the means that learning begins at."""

from __future__ import annotations

from collections.abc import Iterator

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import constants_of_values, values_of_constants
from circuitgraph.memory.portions import Portions
from pruning.prompts.encoding import EncodedPairs

AblationData = EncodedPairs | AblationValues
"""What the constants of cut edges are taken from: prompts that means are taken over, or the values themselves."""


def given_values(data: AblationData | None, ablation: str) -> AblationValues | None:
    """The values that were given; None where they are to be made of prompts.

    Args:
        data: What was given.
        ablation: What cut edges carry.

    Raises:
        ConfigurationError: Values of another kind, or optimal ablation without values.
    """
    if isinstance(data, AblationValues):
        if data.ablation != ablation:
            raise ConfigurationError(
                f"the values given are of kind {data.ablation!r}, and cut edges are to carry {ablation!r} ones; give "
                "values of that kind, or the prompts to take them from"
            )
        return data
    if ablation == "optimal":
        raise ConfigurationError(
            "optimal ablation needs constants that were learnt: give as ablation_data what "
            "pruning.learn_constants(compiled, training_prompts, circuit) returns"
        )
    return None


def mean_constants(compiled: CompiledModel, pairs: EncodedPairs, *, batch_size: int = 16) -> AblationValues:
    """Every writer's mean as a constant of kind `optimal`: where learning begins.

    Args:
        compiled: The model.
        pairs: The prompts that means are taken over, at least one.
        batch_size: Prompts run at once; halved when memory runs out.
    """

    def batches(size: int) -> Iterator[TokenBatch]:
        chunks = (range(start, min(start + size, len(pairs))) for start in range(0, len(pairs), size))
        return (pairs.batch(chunk, device=compiled.device).clean for chunk in chunks)

    means = Portions(compiled, batch_size).repeat(lambda size: compiled.ablation_values("mean", batches(size)))
    model = compiled.runnable
    return values_of_constants(model, constants_of_values(model, means))


def begun_at(
    compiled: CompiledModel, ablation: str, data: AblationData | None, *, batch_size: int = 16
) -> AblationData | None:
    """What cut edges carry before anything is learnt: under optimal ablation the means, else what was given.

    Args:
        compiled: The model.
        ablation: What cut edges carry.
        data: The training prompts, or constants to begin at.
        batch_size: As of `mean_constants`.
    """
    if ablation != "optimal" or isinstance(data, AblationValues) or data is None:
        return data
    return mean_constants(compiled, data, batch_size=batch_size)
