"""All prompts of one length, kept in memory where the model lies, from which batches are picked there.

A batch of `FrozenRuns.batch` is put together on the host and sent. One of a `KeptGroup` is picked by an index that lies
on the device already, so that picking it can be recorded and replayed with another index (see
`pruning.execution.replay`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.transfer import to_device
from pruning.frozen.batch import FrozenBatch
from pruning.frozen.rows import Rows, teacher_of_rows, values_of_rows
from pruning.prompts.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptGroup:
    """Prompts of one length that ask the same positions.

    Attributes:
        compiled: The model.
        members: Which prompts of the data set.
        pairs: All of them as one batch, on the device.
        rows: What is kept of them, by kind.
        places: Where in `rows` each prompt's lie, by kind `[member row]`, on the device.
        constant: Ablation values that no prompt has of its own, or None.
        asked: The positions asked, the same in every prompt.
        first_differing: No prompt differs from its counterfactual before this position.
    """

    compiled: CompiledModel
    members: np.ndarray
    pairs: PairBatch
    rows: dict[str, Rows]
    places: dict[str, Int[Tensor, "member row"]]
    constant: AblationValues | None
    asked: np.ndarray
    first_differing: int

    @staticmethod
    def of(
        compiled: CompiledModel,
        pairs: EncodedPairs,
        members: np.ndarray,
        kept: dict[str, tuple[Rows, np.ndarray]],
        constant: AblationValues | None,
    ) -> KeptGroup | None:
        """Make a group; None where its prompts do not ask the same positions.

        Args:
            compiled: The model.
            pairs: The data set.
            members: Prompts of one length.
            kept: What is kept of them: rows, and where each prompt's lie `[member row]`, by kind.
            constant: Ablation values that no prompt has of its own, or None.
        """
        asked = pairs.predict_positions[members[0]]
        if any(not np.array_equal(pairs.predict_positions[index], asked) for index in members):
            return None
        differs = np.stack([pairs.clean_ids[index] != pairs.corrupted_ids[index] for index in members])
        anywhere = differs.any(0)
        first = int(anywhere.argmax()) if anywhere.any() else 0
        device = compiled.device
        return KeptGroup(
            compiled=compiled,
            members=members,
            pairs=pairs.batch(members, device=device),
            rows={kind: rows for kind, (rows, _) in kept.items()},
            places={kind: to_device(torch.from_numpy(places), device) for kind, (_, places) in kept.items()},
            constant=constant,
            asked=asked,
            first_differing=0 if constant is not None else first,
        )

    def index_of(self, prompts: np.ndarray) -> np.ndarray:
        """Where prompts of the group stand in it."""
        return np.searchsorted(self.members, prompts)

    def batch(self, index: Int[Tensor, " batch"]) -> FrozenBatch:
        """A batch of some of the group's prompts.

        Args:
            index: Where they stand in the group, on the device.
        """
        values = self.constant
        if values is None:
            values = self.compiled.whole_values(values_of_rows(self._taken("values", index)))
        teacher = teacher_of_rows(self._taken("teacher", index))
        return FrozenBatch(pairs=self._pairs(index), teacher=teacher, values=values)

    def _taken(self, kind: str, index: Tensor) -> Rows:
        return self.rows[kind].take(self.places[kind][index].flatten())

    def _pairs(self, index: Tensor) -> PairBatch:
        pairs, k = self.pairs, len(self.asked)
        asked = (index[:, None] * k + torch.arange(k, device=index.device)).flatten()

        def picked(tensor: Tensor | None, at: Tensor) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, at)

        return replace(
            pairs,
            clean=self._tokens(pairs.clean, index),
            corrupted=self._tokens(pairs.corrupted, index),
            answer_ids=picked(pairs.answer_ids, asked),
            answer_values=picked(pairs.answer_values, asked),
            correct_ids=picked(pairs.correct_ids, index),
            wrong_ids=picked(pairs.wrong_ids, index),
            index=pairs.index.index_select(0, index),
        )

    def _tokens(self, tokens: TokenBatch, index: Tensor) -> TokenBatch:
        """Tokens of some prompts; the asked positions are the same for all prompts."""
        n, seq = len(index), tokens.input_ids.shape[1]
        real, at = np.ones((n, seq), dtype=np.int64), (np.arange(n)[:, None] * seq + self.asked).ravel()
        prompt = np.repeat(np.arange(n), len(self.asked))
        host = TokenBatch(
            input_ids=torch.from_numpy(real),  # any ids: on the host only the mask and the asked positions are read
            attention_mask=torch.from_numpy(real),
            predict_index=torch.from_numpy(at),
            predict_prompt=torch.from_numpy(prompt),
        )
        picked = TokenBatch(
            input_ids=tokens.input_ids.index_select(0, index),
            **{name: to_device(values, index.device) for name, values in (
                ("attention_mask", real), ("predict_index", at), ("predict_prompt", prompt),
            )},
        )  # fmt: skip
        picked.look_at(host)
        return picked
