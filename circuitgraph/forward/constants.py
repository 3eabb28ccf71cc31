"""One constant per writer, as one vector of numbers: what optimal ablation learns (Li and Janson 2024).

A constant is what its writer says at every position of every prompt when it is cut: `[d_model]` of an embedding or an
MLP, `[d_head]` of a head, before the output projection. They lie one after the other in the order of the universe's
writers, and `values_of_constants` makes ablation values of them through which a gradient comes back.

Where several embeddings are one writer (`embeddings="joint"`) the first of them says the constant and the others 0.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), and its code, `maxtli/optimalablation`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.pass_plan import Runnable


def constant_widths(model: Runnable) -> dict[str, int]:
    """How many numbers each writer's constant has, in the order of the writers.

    Args:
        model: The model.
    """
    universe, shape = model.universe.without_spans, model.shape  # a constant is the same at all positions
    kinds = zip(universe.writers, universe.writer_kinds.tolist(), strict=True)
    return {name: shape.d_head if kind == "head" else shape.d_model for name, kind in kinds}


def values_of_constants(model: Runnable, numbers: Float[Tensor, " number"]) -> AblationValues:
    """Ablation values of kind `optimal`, differentiable in the constants.

    Args:
        model: The model.
        numbers: All constants, where the model lies; they are brought to its number format.

    Raises:
        ConfigurationError: Not as many numbers as the model's writers have.
    """
    bound, shape, universe = model.bound, model.shape, model.universe.without_spans
    width, n_embeddings = shape.d_model, universe.n_embeddings
    layer = [shape.n_heads * shape.d_head, width]
    expected = n_embeddings * width + shape.n_layers * sum(layer)
    if numbers.shape != (expected,):
        raise ConfigurationError(
            f"the constants are of another model: expected {expected:,} numbers for {universe.n_writers:,} writers; "
            f"got the shape {tuple(numbers.shape)}"
        )
    first, *parts = numbers.to(bound.blocks[0].raw_output.dtype).split([n_embeddings * width, *layer * shape.n_layers])
    embeddings = [part[None, None] for part in first.view(n_embeddings, width)]
    n_tensors = 2 if shape.learned_positions else 1
    embeddings += [torch.zeros_like(embeddings[0]).detach() for _ in range(n_tensors - n_embeddings)]
    attention = []
    for block, part in zip(bound.blocks, parts[::2], strict=True):
        output = (part @ block.output)[None, None]
        attention.append(output if block.output_bias is None else output + block.output_bias)
    return AblationValues(
        ablation="optimal",
        embeddings=tuple(embeddings),
        heads=tuple(part.view(shape.n_heads, 1, 1, shape.d_head) for part in parts[::2]),
        attention=tuple(attention),
        mlps=tuple(part[None, None] for part in parts[1::2]),
    )


def constants_of_values(model: Runnable, values: AblationValues) -> Float[Tensor, " number"]:
    """The constants of ablation values that are the same at every position, in float32 or wider.

    Args:
        model: The model.
        values: Such as means or zeros.

    Raises:
        ConfigurationError: They differ by prompt or by position.
    """
    embeddings = [value.flatten() for value in values.embeddings]
    if model.universe.embeddings == "joint":
        embeddings = [torch.stack(embeddings).sum(0)] if len({len(one) for one in embeddings}) == 1 else embeddings
    layers = (part.flatten() for layer in zip(values.heads, values.mlps, strict=True) for part in layer)
    numbers = torch.cat([*embeddings, *layers]).detach()
    expected = sum(constant_widths(model).values())
    if values.per_prompt or len(numbers) != expected:
        raise ConfigurationError(
            f"constants are one vector per writer, the same for all prompts and positions; got values of kind "
            f"{values.ablation!r} with {len(numbers):,} numbers, expected {expected:,}. Take them with "
            "compiled.ablation_values('mean', batches)"
        )
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def named_constants(model: Runnable, numbers: Float[Tensor, " number"]) -> dict[str, Tensor]:
    """Each writer's constant by its name.

    Args:
        model: The model.
        numbers: All constants.
    """
    widths = constant_widths(model)
    return dict(zip(widths, numbers.detach().split(list(widths.values())), strict=True))


def constants_of_names(model: Runnable, named: Mapping[str, Tensor]) -> Float[Tensor, " number"]:
    """All constants in the order of the model's writers, in float32 or wider, where the model lies.

    Args:
        model: The model.
        named: Each writer's constant by its name.

    Raises:
        ConfigurationError: Writers that the model lacks, or that are missing; another width; numbers that are not
            finite.
    """
    widths = constant_widths(model)
    wrong = ""
    if missing := [name for name in widths if name not in named]:
        wrong = f"{len(missing):,} writers have none, such as {missing[0]}"
    elif others := [name for name in named if name not in widths]:
        wrong = f"it has no writer {others[0]!r}"
    elif wide := [name for name, width in widths.items() if tuple(named[name].shape) != (width,)]:
        wrong = f"{wide[0]} has the shape {tuple(named[wide[0]].shape)}, expected ({widths[wide[0]]},)"
    if wrong:
        raise ConfigurationError(f"the constants are of another model, or of another universe: {wrong}")
    numbers = torch.cat([named[name] for name in widths])
    if not bool(numbers.isfinite().all()):
        raise ConfigurationError("the constants hold numbers that are NaN or infinite")
    return numbers.to(model.bound.blocks[0].raw_output.device, torch.promote_types(numbers.dtype, torch.float32))
