"""The parity gate: a compiled graph has to be the model it came from.

All gates 1 must give the untouched Hugging Face model on the clean prompts, and all gates 0 with
counterfactuals its run on the corrupted ones, at real tokens, under left and right padding.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from circuitgraph.architectures.family import frozen_view
from circuitgraph.architectures.intact import non_finite_weights
from circuitgraph.architectures.rotary import as_fresh, depends_on_length, switch_length
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.own_rounding import own_rounding
from circuitgraph.errors import ModelWarning, ParityError, UnsupportedModelError

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel

# Allowed difference of logits, relative to their spread. In float32 and float64 the largest one counts, with
# room for sums taken in another order over some dozens of layers. In 8 or 11 bits the model itself is this
# far from its own float32 run, and the largest of many differences is luck: the root mean square counts.
# A float64 model that computes its norms or softmaxes in float32 is no exact yardstick: where it differs by more than
# 1e-9, `_ROOM` times its own rounding is allowed (see `circuitgraph.compiled.own_rounding`), and never more than in
# float32.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.2, torch.float16: 0.03}
_FAR = 64  # tokens; a longer prompt only for the sake of a switch or a window would make the gate slow
_COARSE = (torch.bfloat16, torch.float16)
_ROOM = 4  # two correct ways differed by 0.1 to 0.5 of what one random rounding per number moves logits by
_ATTEMPTS = 5  # prompts drawn anew where a token without a finite embedding makes some of them undefined


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
    by_length = any(depends_on_length(module) for module in model.modules())
    if not by_length and next(model.parameters()).dtype != torch.float64:
        logits = _run(frozen_view(model), batch.input_ids, batch.attention_mask, batch.position_ids)
        return logits.flatten(0, 1)[batch.predict_index]
    # Each prompt alone and without padding: in a fresh model where numbers depend on lengths; and in float64, where
    # transformers' eager attention gives NaN under left padding, since float32 takes its mask for infinite.
    rows = []
    for ids, mask in zip(batch.input_ids, batch.attention_mask.bool(), strict=True):
        real = ids[mask][None]
        alone = _run(
            as_fresh(frozen_view(model)),
            real,
            torch.ones_like(real),
            torch.arange(real.shape[1], device=ids.device)[None],
        )
        row = alone.new_zeros(len(ids), alone.shape[-1])
        row[mask] = alone[0]
        rows.append(row)
    return torch.cat(rows)[batch.predict_index]


def _run(view: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    return view(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def _length(compiled: CompiledModel, seq: int) -> int:
    """How long the gate's prompts are: what the model takes at most, or beyond rope's switch or a window if near."""
    switches = [switch_length(module) for module in compiled.model.modules() if depends_on_length(module)]
    if switches and min(switches) < _FAR:
        return min(switches) + 1
    windows = [block.attention.window for block in compiled.bound.blocks]
    seq = max([seq, *(window + 1 for window in windows if window is not None and window < _FAR)])
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
    found: dict[str, float] = {}
    for side in ("none", "right", "left"):
        for attempt in range(_ATTEMPTS):
            differences = _differences(compiled, side, seed + 2 * attempt, seq)
            if not any(math.isnan(difference) for difference in differences.values()):
                break
        found |= differences
    return found


def _differences(compiled: CompiledModel, side: str, seed: int, seq: int) -> dict[str, float]:
    """Both checks with one kind of padding; NaN where no logit is defined, or one is in the model or graph alone."""
    clean, corrupted = (_random_batch(compiled, side, each, seq) for each in (seed, seed + 1))
    _, values = compiled.run_with_values(corrupted)
    found: dict[str, float] = {}
    for gate, source in ((1.0, clean), (0.0, corrupted)):
        wide = torch.float64 if compiled.dtype == torch.float64 else torch.float32
        gates = torch.full((compiled.universe.n_edges,), gate, dtype=wide, device=compiled.device)
        with torch.no_grad():
            ours = compiled.masked(gates, clean, values).logits.double()
        theirs = _untouched_logits(compiled.model, source).double()
        defined = ~(theirs.isnan() & ours.isnan())
        ours, theirs = ours[defined], theirs[defined]
        difference = math.nan
        if len(theirs) > 1:
            gap = (ours - theirs).abs()
            gap = gap.square().mean().sqrt() if compiled.dtype in _COARSE else gap.max()
            difference = float(gap / theirs.std().clamp(min=1e-30))
        found[f"all gates {gate:.0f}, padding {side}"] = difference
    return found


def check_finite(model: nn.Module, *, name: str) -> None:
    """Look for weights that are no numbers.

    Warns of tokens or positions whose embeddings are not: prompts without them may be well.

    Args:
        model: The model.
        name: What it is called.

    Raises:
        UnsupportedModelError: Other weights are not finite, so that no prompt has logits.
    """
    weights = dict(model.named_parameters())
    tables = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)} | {
        "lm_head.weight"
    }
    everywhere = []
    for weight in non_finite_weights(model):
        rows = (~weights[weight].detach().isfinite().all(-1)).nonzero()[:, 0].tolist() if weight in tables else []
        if not rows or len(rows) == len(weights[weight]):
            everywhere.append(weight)
            continue
        few = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        warnings.warn(
            f"model {name}: {len(rows)} of the {len(weights[weight])} rows of {weight} are not finite ({few}): what "
            "needs them is undefined",
            ModelWarning,
            stacklevel=3,
        )
    if everywhere:
        raise UnsupportedModelError(
            f"model {name}: {len(everywhere)} of its {len(weights)} weights hold NaN or infinities, such as "
            f"{', '.join(everywhere[:3])}, so that its logits are undefined for every prompt; load another checkpoint, "
            "or a wider number format"
        )


def _batch(compiled: CompiledModel, seed: int, seq: int = 8) -> TokenBatch:
    return _random_batch(compiled, "none", seed, _length(compiled, seq))


def check_parity(compiled: CompiledModel, *, seed: int = 0) -> None:
    """Run the parity gate.

    Args:
        compiled: The compiled model.
        seed: Seed of the random prompts.

    Raises:
        ParityError: A difference is larger than rounding explains.
    """
    allowed = TOLERANCE[compiled.dtype]
    found = parity_differences(compiled, seed=seed)
    if compiled.dtype == torch.float64 and not max(found.values()) <= allowed:
        constants = [*compiled.model.parameters(), *compiled.model.buffers()]
        rounding = own_rounding(
            lambda: _untouched_logits(compiled.model, _batch(compiled, seed)), seed=seed, constants=constants
        )
        allowed = max(allowed, min(_ROOM * rounding, TOLERANCE[torch.float32]))
    failed = {check: difference for check, difference in found.items() if not difference <= allowed}
    if not failed:
        return
    form = str(compiled.dtype).removeprefix("torch.")
    first = next(iter(failed))
    if any(math.isnan(difference) for difference in failed.values()):
        raise ParityError(
            f"{compiled.name}: {first}: the model or its graph gives logits that are no numbers in {form}, so the two "
            "cannot be compared. Load the model in a wider number format (--dtype bfloat16 or float32), and look at "
            "its weights."
        )
    if all(check.startswith("all gates 1") for check in failed):
        which = "The graph with every edge kept is not the model"
    elif all(check.startswith("all gates 0") for check in failed):
        which = "The graph with every edge cut is not the model's run on the other prompts"
    else:
        which = "The graph is not the model, with every edge kept or cut"
    raise ParityError(
        f"{compiled.name}: {first}: the compiled graph differs from the model by {failed[first]:.2e} of the logits' "
        f"standard deviation, where rounding in {form} explains {allowed:.0e}; {len(failed)} of {len(found)} checks "
        f"failed. {which}. First suspects, in this order: weights, modules or settings that were changed after "
        "loading (compile it as AutoModelForCausalLM.from_pretrained gives it); a number format too narrow for "
        "this model (try float32 or float64); another version of transformers than was tried. If none of them is it, "
        f"the file of the family {compiled.family.name} does not fit the model: please report it with the model's "
        "config."
    )
