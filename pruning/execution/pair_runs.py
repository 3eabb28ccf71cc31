"""A batch of prompts and their counterfactuals in the full model: what writers say, and gradients of every reader."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attribution import Said, edge_products, positions_that_matter, writer_changes
from circuitgraph.forward.backward_rules import BackwardRule
from circuitgraph.forward.full_run import NOTHING_INSTEAD, FullRun, Instead, full_run
from circuitgraph.forward.plan.positions import PositionSets
from pruning.execution.probe import Probe


class PairRuns:
    """Runs of one batch; each is made when it is first asked for.

    Args:
        probe: The model, and what is compared.
        batch: Prompts of one length.
        rule: How gradients go back.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.forward.backward_rules import STANDARD
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> probe = Probe(
        ...     compiled=compiled, pairs=task.split("train"), objective="cross-entropy", ablation="zero"
        ... )
        >>> runs = PairRuns(probe, probe.batch(next(probe.batches())), STANDARD)
        >>> run = runs.run()
        >>> with torch.enable_grad():
        ...     products = runs.products(run, runs.changes(run, runs.ablated))
        >>> len(products) == compiled.universe.n_edges
        True
    """

    def __init__(self, probe: Probe, batch: PairBatch, rule: BackwardRule) -> None:
        self.probe, self.batch, self.rule = probe, batch, rule
        self.model = probe.runnable

    @cached_property
    def _clean(self) -> tuple[Tensor, AblationValues]:
        return self.probe.compiled.run_with_values(self.batch.clean)

    @property
    def clean(self) -> AblationValues:
        """What every writer says on the clean prompts."""
        return self._clean[1]

    @property
    def teacher(self) -> Float[Tensor, "asked d_vocab"]:
        """The full model's logits on the clean prompts."""
        return self._clean[0]

    @cached_property
    def ablated(self) -> AblationValues:
        """What every writer says when it is ablated."""
        return self.probe.ablated(self.batch)

    @cached_property
    def corrupted_embeddings(self) -> tuple[Tensor, ...]:
        """What each embedding says on the counterfactuals; nothing else of them is run."""
        with torch.no_grad():
            return self.model.bound.embed(self.batch.corrupted.input_ids, self.batch.corrupted.position_ids)

    def between(self, share: float) -> Instead:
        """Embeddings on the straight line from the counterfactuals to the clean prompts, and vectors from nothing.

        Args:
            share: 0 for the counterfactuals', 1 for the clean prompts'.
        """
        with torch.no_grad():
            ends = zip(self.corrupted_embeddings, self.clean.embeddings, strict=True)
            return Instead(
                embeddings=tuple(other + share * (clean - other) for other, clean in ends),
                vectors=tuple(share * vector for vector in self.clean.vectors),
            )

    def run(self, *, corrupted: bool = False, instead: Instead = NOTHING_INSTEAD) -> FullRun:
        """A run of the full model with gradients.

        Args:
            corrupted: Run the counterfactuals, not the clean prompts, without vectors that are added to the model.
            instead: What some writers say instead of what they would.
        """
        tokens = self.batch.corrupted if corrupted else self.batch.clean
        if corrupted and self.model.vectors and instead.vectors is None:
            instead = replace(instead, vectors=tuple(torch.zeros_like(vector) for vector in self.clean.vectors))
        return full_run(self.model, tokens, instead=instead, rule=self.rule)

    @cached_property
    def positions(self) -> PositionSets:
        """Positions at which a change can be other than 0 and matter."""
        varies = self.probe.ablation == "counterfactual"
        return positions_that_matter(self.model, self.batch.clean, self.batch.corrupted if varies else None)

    def changes(self, said: Said, ablated: Said) -> Float[Tensor, "writer position d_model"]:
        """`ablated − said` of every writer.

        Args:
            said: What writers say.
            ablated: What they say instead.
        """
        return writer_changes(self.model, said, ablated, self.positions.reached)

    def products(
        self, run: FullRun, changes: Float[Tensor, "writer position d_model"], teacher: Tensor | None = None
    ) -> Float[Tensor, " edge"]:
        """What changes do to the objective's sum over the prompts, along each edge alone and to first order.

        Args:
            run: The run that gradients are taken in; its graph is used up.
            changes: How what each writer says changes.
            teacher: The full model's logits on the clean prompts; by default the run's own.
        """
        teacher = run.logits.detach() if teacher is None else teacher
        loss = self.probe.compare(run.logits, teacher, self.batch) * len(self.batch.clean.input_ids)
        return edge_products(self.model, run, loss, changes, self.positions)
