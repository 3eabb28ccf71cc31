"""What a method is handed: a model, prompts, and what is compared.

A method that goes over the prompts once takes `mean`, which hands it a `PairRuns` (`pruning.execution.pair_runs`) for
each batch, or `batches` and `gradient` where it sets gates. One that draws prompts again and again takes `runner`,
which keeps the runs that never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner
from pruning.execution.finite import require_numbers
from pruning.execution.learning import STEPS, learn_constants
from pruning.execution.objectives import Objective, objective_named
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A model with the prompts that edges are ranked by.

    Attributes:
        compiled: The model.
        pairs: The prompts.
        objective: Name of what is minimised; None for a method that compares nothing.
        ablation: What cut edges carry.
        batch_size: Prompts run at once at most; fewer where memory runs out.
        say: Called with a line when something had to change.
        constants: What cut edges carry under optimal ablation; None learns them first, for no one circuit (see
            `pruning.execution.learning`).
    """

    compiled: CompiledModel
    pairs: EncodedPairs
    objective: str | None
    ablation: str = "counterfactual"
    batch_size: int = 8
    say: Callable[[str], None] = lambda line: None
    constants: AblationValues | None = None

    @cached_property
    def frozen(self) -> FrozenRuns:
        """The prompts with the runs that no gate changes; nothing is kept, so each draw runs them again."""
        return FrozenRuns(
            self.compiled, self.pairs, ablation=self.ablation, budget_bytes=0, batch_size=self.batch_size,
            ablation_data=self.learnt if self.ablation == "optimal" else None,
        )  # fmt: skip

    @cached_property
    def learnt(self) -> AblationValues:
        """What cut edges carry under optimal ablation: given, or learnt when it is first asked for."""
        if self.constants is not None:
            return self.constants
        self.say(f"learning one constant per writer first, {STEPS} steps on sets of edges drawn at random")
        return learn_constants(self.compiled, self.pairs, batch_size=self.batch_size)

    @cached_property
    def runner(self) -> BatchRunner:
        """Takes batches forward and backward towards the full model, each prompt with its frozen runs."""
        return BatchRunner(self.compiled, self.frozen, self.compare, micro_batch=self.batch_size, say=self.say)

    @property
    def full_gates(self) -> Float[Tensor, " edge"]:
        """Gates that keep every edge, in the model's number format or float32, whichever is wider."""
        dtype = torch.float64 if self.compiled.dtype == torch.float64 else torch.float32
        return torch.ones(self.compiled.universe.n_edges, dtype=dtype)

    def batches(self) -> Iterator[np.ndarray]:
        """All prompts, each once, in batches of one length, so that none is padded."""
        yield from batches_by_length(self.pairs.by_length, self.batch_size)

    @with_gradients
    def gradient(
        self, prompts: np.ndarray, gates: Float[Tensor, " edge"], wanted: Bool[Tensor, " edge"] | None = None
    ) -> Float[Tensor, " edge"]:
        """The gradient of the objective in the gates, from one clean and one ablated run per prompt.

        The objective's teacher is the masked pass itself, without a gradient: so the gates have to be those of the full
        model, all 1, unless the objective compares with answers alone.

        Args:
            prompts: Which of the prompts, of one length.
            gates: One gate per edge.
            wanted: Edges whose gradient is wanted, all by default; 0 elsewhere.

        Returns:
            The gradient of the objective's sum over the prompts, float64 on the host.
        """
        wanted = torch.ones(gates.shape, dtype=torch.bool) if wanted is None else wanted
        parts = self._portions.run(lambda part: self._gradient(part, gates, wanted), prompts)
        return torch.stack(parts).sum(0)

    @with_gradients
    def mean(self, job: Callable[[PairBatch], Tensor]) -> Float[np.ndarray, " edge"]:
        """The mean over all prompts of one number per edge.

        Args:
            job: Given a batch of one length, the sum over its prompts `[edge]`. It is asked again for fewer prompts
                where memory runs out.

        Returns:
            The mean, float64.

        Raises:
            NotFiniteError: A number is NaN or infinite; the message names the prompts.
        """
        total = torch.zeros(self.compiled.universe.n_edges, dtype=torch.float64)
        for prompts in self.batches():
            for part in self._portions.run(lambda some: job(self.batch(some)), prompts):
                total += part.double().cpu()
        require_numbers(total, self.frozen, "scores")
        return (total / len(self.pairs)).numpy()

    @cached_property
    def _portions(self) -> Portions:
        return Portions(self.compiled, self.batch_size)

    def _gradient(self, prompts: np.ndarray, gates: Tensor, wanted: Tensor) -> Tensor:
        batch = self.batch(prompts)
        gates = gates.detach().clone().requires_grad_()
        ran = self.compiled.masked(gates, batch.clean, self.ablated(batch), wanted=wanted)
        loss = self.compare(ran.logits, ran.logits.detach(), batch)
        return torch.autograd.grad(loss, ran.gates)[0].double().cpu() * len(prompts)

    # ---------------------------------------------------------------- parts of a batch

    @property
    def compare(self) -> Objective:
        """The objective: of logits, the full model's logits on the clean prompts, and the batch."""
        if self.objective is None:
            raise ConfigurationError("nothing is compared: the method was to take no objective")
        return objective_named(self.objective)

    @property
    def runnable(self) -> Runnable:
        """The model as a pass takes it."""
        return self.compiled.runnable_with_vectors

    def batch(self, prompts: np.ndarray) -> PairBatch:
        """Some of the prompts, where the model lies.

        Args:
            prompts: Which, of one length.
        """
        return self.pairs.batch(prompts, device=self.compiled.device)

    def ablated(self, batch: PairBatch) -> AblationValues:
        """What cut edges carry for a batch: what writers say on its counterfactuals, or constants.

        Args:
            batch: The prompts.
        """
        if self.ablation == "counterfactual":
            return self.compiled.run_with_values(batch.corrupted, vectors=False)[1]
        assert self.frozen.constant is not None
        return self.frozen.constant
