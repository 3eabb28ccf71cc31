"""Why a loss is not finite: prompts for which the full model's own logits are not."""

from __future__ import annotations

import numpy as np
import torch

from circuitgraph.errors import NotFiniteError
from pruning.frozen.runs import FrozenRuns
from pruning.frozen.top_teacher import TopTeacher

_AT_ONCE = 16
_CURE = "Try --dtype float32 (dtype='float32'), or other weights"


def prompts_without_numbers(frozen: FrozenRuns) -> np.ndarray:
    """Prompts for which the full model puts out NaN or infinite logits.

    Args:
        frozen: The data with its frozen runs; what is not kept is run again.

    Returns:
        Which prompts, in order.
    """
    found = []
    with torch.no_grad():
        for members in frozen.by_length.values():
            for start in range(0, len(members), _AT_ONCE):
                chunk = members[start : start + _AT_ONCE]
                batch = frozen.batch(chunk)
                teacher = batch.teacher
                outputs = teacher.log_probabilities if isinstance(teacher, TopTeacher) else teacher
                bad = ~outputs.isfinite().all(-1)
                found.append(chunk[np.unique(batch.pairs.clean.predict_prompt[bad].cpu().numpy())])
    return np.sort(np.concatenate(found)) if found else np.array([], dtype=np.int64)


def not_finite_text(frozen: FrozenRuns) -> str:
    """Name the prompts for which the full model's logits are not finite; an empty text where there are none.

    Args:
        frozen: The data with its frozen runs.
    """
    prompts, texts = prompts_without_numbers(frozen), frozen.pairs.texts
    if not len(prompts):
        return ""
    first = ", ".join(f"{i} ({texts[i]!r})" if texts else str(i) for i in prompts[:3].tolist())
    return (
        f"the full model's logits are NaN or infinite on {len(prompts):,} of {len(frozen.pairs):,} prompts: "
        f"prompts {first}{' …' if len(prompts) > 3 else ''} (counted from 0), in {frozen.compiled.dtype}"
    )


def require_numbers(values: torch.Tensor, frozen: FrozenRuns, what: str) -> None:
    """Refuse to go on from values that are NaN or infinite.

    Args:
        values: Any.
        frozen: The data that they were made from.
        what: What the message calls them.

    Raises:
        NotFiniteError: They are not all finite; the message says on which prompts the model is not.
    """
    if bool(values.isfinite().all()):
        return
    why = not_finite_text(frozen) or f"the full model's logits are finite (in {frozen.compiled.dtype})"
    raise NotFiniteError(f"{what} are NaN or infinite, so there is nothing to train towards: {why}. {_CURE}")
