"""The parity gate: a compiled graph has to be the model it came from.

All gates 1 must give the untouched Hugging Face model on the clean prompts, and all gates 0 with
counterfactuals its run on the corrupted ones, at real tokens, under left and right padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuitgraph.architectures.family import frozen_view
from circuitgraph.architectures.rotary import as_fresh, depends_on_length, switch_length
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ParityError

if TYPE_CHECKING:
    from circuitgraph.compile import CompiledModel

# Allowed difference of logits, relative to their spread. In float32 and float64 the largest one counts, with
# room for sums taken in another order over some dozens of layers. In 8 or 11 bits the model itself is this
# far from its own float32 run, and the largest of many differences is luck: the root mean square counts.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.2, torch.float16: 0.03}
_FAR = 64  # tokens; a longer prompt only for the sake of a switch would make the gate slow
_COARSE = (torch.bfloat16, torch.float16)


def _random_batch(compiled: CompiledModel, side: str, seed: int, seq: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    real = torch.ones(3, seq, dtype=torch.int64)
    if side == "right":
        real[1, -2:] = 0
    elif side == "left":
        real[1, :2] = 0
    ids = compiled.family.random_ids(compiled.model.config, real, generator)
    index = real.flatten().nonzero()[:, 0]
    batch = TokenBatch(input_ids=ids, attention_mask=real, predict_index=index, predict_prompt=index // seq)
    return batch.to(compiled.device)


@torch.no_grad()
def _untouched_logits(model: Any, batch: TokenBatch) -> Tensor:
    inputs = batch.input_ids, batch.attention_mask, batch.position_ids
    if any(depends_on_length(module) for module in model.modules()):  # each prompt alone, in a fresh model
        rows = zip(*(part.split(1) for part in inputs), strict=True)
        logits = torch.cat([_run(as_fresh(frozen_view(model)), *row) for row in rows])
    else:
        logits = _run(frozen_view(model), *inputs)
    return logits.flatten(0, 1)[batch.predict_index]


def _run(view: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    return view(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def _length(compiled: CompiledModel, seq: int) -> int:
    """How long the gate's prompts are: what the model takes at most, or beyond its rope's switch if that is near."""
    switches = [switch_length(module) for module in compiled.model.modules() if depends_on_length(module)]
    if switches and min(switches) < _FAR:
        return min(switches) + 1
    return seq if compiled.shape.n_positions is None else min(seq, compiled.shape.n_positions)


def parity_differences(compiled: CompiledModel, *, seed: int = 0, seq: int = 8) -> dict[str, float]:
    """Measure how far the compiled graph is from the model.

    Args:
        compiled: The compiled model.
        seed: Seed of the random prompts.
        seq: Their length in tokens.

    Returns:
        For each check, the largest difference of logits divided by their standard deviation; in bfloat16 and
        float16 the root mean square of the differences instead.
    """
    seq = _length(compiled, seq)
    n_edges = compiled.universe.n_edges
    found: dict[str, float] = {}
    for side in ("none", "right", "left"):
        clean = _random_batch(compiled, side, seed, seq)
        corrupted = _random_batch(compiled, side, seed + 1, seq)
        _, values = compiled.run_with_values(corrupted)
        for gate, source in ((1.0, clean), (0.0, corrupted)):
            wide = torch.float64 if compiled.dtype == torch.float64 else torch.float32
            gates = torch.full((n_edges,), gate, dtype=wide, device=compiled.device)
            with torch.no_grad():
                ours = compiled.masked(gates, clean, values).logits.double()
            theirs = _untouched_logits(compiled.model, source).double()
            spread = theirs.std().clamp(min=1e-30)
            gap = (ours - theirs).abs()
            gap = gap.square().mean().sqrt() if compiled.dtype in _COARSE else gap.max()
            found[f"all gates {gate:.0f}, padding {side}"] = float(gap / spread)
    return found


def check_parity(compiled: CompiledModel, *, seed: int = 0) -> None:
    """Run the parity gate.

    Args:
        compiled: The compiled model.
        seed: Seed of the random prompts.

    Raises:
        ParityError: A difference is larger than rounding explains.
    """
    allowed = TOLERANCE[compiled.dtype]
    for check, difference in parity_differences(compiled, seed=seed).items():
        if not difference <= allowed:
            raise ParityError(
                f"{compiled.name}: {check}: the compiled graph differs from the model by {difference:.2e} of the "
                f"logits' standard deviation; at most {allowed:.0e} was expected in {compiled.dtype}. "
                "The family's file may not fit this model; please report it with the model's config."
            )
