"""Constants that are learnt: their numbers, and the optimiser that moves them.

The optimiser is Adam (Kingma and Ba 2015) with a step size per number: `rate` times how far that number of the writer's
output spreads over prompts and positions, since writers of one model, and numbers of one writer, differ by orders of
magnitude. The numbers and both moments lie where the model lies, and nothing waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import constants_of_values, values_of_constants
from circuitgraph.memory.portions import Portions
from pruning.prompts.encoding import EncodedPairs

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
_SEEN = 16
"""How many prompts spreads are taken over."""


class LearntConstants:
    """One constant per writer, and Adam's state.

    Args:
        compiled: The model.
        start: Where they begin: constants of any kind.
        pairs: Prompts that the spreads of outputs are taken over, at least one.

    Attributes:
        numbers: All constants, see `circuitgraph.forward.constants`.
    """

    def __init__(self, compiled: CompiledModel, start: AblationValues, pairs: EncodedPairs) -> None:
        self.compiled = compiled
        self.numbers = constants_of_values(compiled.runnable, start).to(compiled.device, copy=True).requires_grad_()
        self._scale = output_spreads(compiled, pairs).to(self.numbers.dtype)
        self._first, self._second = torch.zeros_like(self._scale), torch.zeros_like(self._scale)
        self._steps = 0

    def values(self) -> AblationValues:
        """What cut edges carry, differentiable in `numbers` where gradients are taken."""
        return values_of_constants(self.compiled.runnable, self.numbers)

    def settled(self) -> AblationValues:
        """What cut edges carry, without a gradient, as a copy."""
        return values_of_constants(self.compiled.runnable, self.numbers.detach().clone())

    @torch.no_grad()
    def step(self, gradient: Float[Tensor, " number"], rate: float) -> None:
        """Move all constants against a gradient.

        Args:
            gradient: Of what is minimised.
            rate: The step size, in standard deviations of what each writer says.
        """
        self._steps += 1
        self._first.lerp_(gradient, 1 - FIRST_DECAY)
        self._second.lerp_(gradient.square(), 1 - SECOND_DECAY)
        first = self._first / (1 - FIRST_DECAY**self._steps)
        second = self._second / (1 - SECOND_DECAY**self._steps)
        self.numbers -= rate * self._scale * first / (second.sqrt() + EPSILON)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as copies on the host."""
        held = {"numbers": self.numbers, "scale": self._scale, "first": self._first, "second": self._second}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in held.items()}
        return copies | {"steps": torch.tensor(self._steps)}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Args:
            state: What `state` gave.

        Raises:
            KeyError: Something is missing.
            RuntimeError: It is of another model.
        """
        for name, tensor in (
            ("numbers", self.numbers), ("scale", self._scale), ("first", self._first), ("second", self._second),
        ):  # fmt: skip
            tensor.copy_(state[name])
        self._steps = int(state["steps"])


@torch.no_grad()
def output_spreads(compiled: CompiledModel, pairs: EncodedPairs) -> Float[Tensor, " number"]:
    """How far each number of each writer's output spreads: its standard deviation over prompts and positions.

    Args:
        compiled: The model.
        pairs: Prompts; of more than a few the first are taken.

    Returns:
        As many as there are constants' numbers, none 0.

    Raises:
        ConfigurationError: No prompts.
    """
    if not len(pairs):
        raise ConfigurationError("constants are learnt on prompts; got none")
    model = compiled.runnable

    def variances(n: int) -> Tensor:
        batch = pairs.batch(range(n), device=compiled.device).clean
        values = compiled.run_with_values(batch)[1].constant("mean")
        if compiled.universe.embeddings == "joint":
            whole = sum(values.embeddings[1:], values.embeddings[0])
            values = replace(values, embeddings=(whole, *(torch.zeros_like(whole) for _ in values.embeddings[1:])))
        real = batch.attention_mask.to(torch.float64)[..., None]

        def variance(value: Tensor, _: int) -> Tensor:
            mean = (value.double() * real).sum((-3, -2), keepdim=True) / real.sum()
            return ((value.double() - mean).square() * real).sum((-3, -2), keepdim=True) / real.sum()

        return constants_of_values(model, values.changed(variance))

    found = Portions(compiled, min(_SEEN, len(pairs))).repeat(variances)
    floor = found.mean() * 1e-6 + torch.finfo(torch.float32).tiny
    return found.clamp(min=floor).sqrt()
