"""A batch of prompts with everything about it that does not depend on the gates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.forward.ablation_values import AblationValues
from pruning.frozen.top_teacher import Teacher, whole_vocabulary


@dataclass(frozen=True, kw_only=True)
class FrozenBatch:
    """A batch with everything about it that does not depend on the gates.

    Attributes:
        pairs: The prompts.
        teacher: The full model's logits at the asked positions `[asked d_vocab]`, or its likeliest tokens.
        values: Outputs of ablated writers.
    """

    pairs: PairBatch
    teacher: Teacher
    values: AblationValues

    @property
    def teacher_logits(self) -> Tensor:
        """The full model's logits over the whole vocabulary.

        Raises:
            ConfigurationError: Only the likeliest tokens were kept.
        """
        return whole_vocabulary(self.teacher, "this measure")
