"""What methods compare where nothing was chosen, and which objectives they refuse.

Attribution looks at how likely the right answer is, since its gradient in the full model must not be 0; methods that
run parts of the model compare them with the full one.
"""

from __future__ import annotations

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.backward_rules import require_rule, rule_named
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


class GoesBackByRule:
    """Takes gradients by a rule (`circuitgraph.forward.backward_rules`), which may not know every kind of MLP."""

    backward: str

    def require_model(self, compiled: CompiledModel) -> None:
        """Refuse MLPs that the rule does not know.

        Args:
            compiled: The model.

        Raises:
            UnsupportedModelError: It has some.
        """
        for block in compiled.bound_as_given.blocks:
            require_rule(block.mlp, rule_named(self.backward))


class ComparesWithModel:
    """Takes any objective; by default compares with the full model."""

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """The KL, or the squared error where answers are numbers.

        Args:
            pairs: The prompts.
            of_task: Not looked at: tasks may add to the KL what helps training only.
        """
        return "mse" if pairs.answer_values is not None else "kl"

    def require(self, objective: str) -> None:
        """Take any objective.

        Args:
            objective: Its name.
        """


class ComparesAsTask(ComparesWithModel):
    """Takes any objective; by default the task's own."""

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """The task's own, else the KL, or the squared error where answers are numbers.

        Args:
            pairs: The prompts.
            of_task: The objective of their task, where there is one.
        """
        return of_task or super().default_objective(pairs, of_task)
