"""What attribution methods compare: how likely the right answer is, not how far a run is from the full model."""

from __future__ import annotations

from circuitgraph.errors import ConfigurationError
from pruning.execution.objectives import FLAT_AT_FULL_MODEL
from pruning.prompts.encoding import EncodedPairs


def answers_objective(pairs: EncodedPairs) -> str:
    """Minus the logit difference where all prompts have wrong answers, else the answer's cross-entropy.

    Args:
        pairs: The prompts.
    """
    wrong = pairs.wrong_ids
    return "negative-logit-diff" if wrong and all(len(ids) for ids in wrong) else "cross-entropy"


def path_objective(pairs: EncodedPairs) -> str:
    """The same, or the squared error where answers are numbers; for methods that look beside the full model too.

    Args:
        pairs: The prompts.
    """
    return "mse" if pairs.answer_values is not None else answers_objective(pairs)


def refuse_flat(name: str, objective: str) -> None:
    """Refuse objectives whose gradient at the full model is 0.

    Args:
        name: The method.
        objective: What was to be compared.

    Raises:
        ConfigurationError: It is one of those.
    """
    if objective in FLAT_AT_FULL_MODEL:
        raise ConfigurationError(
            f"method {name!r} takes the objective's gradient in the full model, where that of {objective!r} is 0, so "
            "every score would be; use negative-logit-diff or cross-entropy (prompts whose answers are tokens), or "
            "a method that looks between the ablated and the full model: eap-ig, clean-corrupted, gate-gradients"
        )


def refuse_any(name: str, objective: str) -> None:
    """Refuse all objectives: the method compares nothing.

    Args:
        name: The method.
        objective: What was to be compared.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(f"method {name!r} compares nothing, so no objective can be chosen; got {objective!r}")
