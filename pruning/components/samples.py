"""Samples with one writer out: how far each takes the full model from itself, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import constant_widths
from circuitgraph.forward.one_out import OneOutRun
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe
from pruning.execution.objectives import kl_divergence
from pruning.prompts.encoding import EncodedPairs

_NUMBERS = 1 << 26
"""How many numbers of logits and of inner activations a batch of samples holds about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Writers of one kind in one layer.

    Attributes:
        writers: Their indices in the universe.
        places: Their columns in results.
    """

    writers: Int[np.ndarray, " writer"]
    places: Int[np.ndarray, " writer"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """Prompts of one length in the full model.

    Attributes:
        rows: Which of the data set.
        pairs: The batch.
        run: The full model's run.
    """

    rows: Int[np.ndarray, " prompt"]
    pairs: PairBatch
    run: OneOutRun

    @property
    def full(self) -> Float[Tensor, "prompt asked d_vocab"]:
        """The full model's logits."""
        return self.run.logits.unflatten(0, (len(self.rows), -1))


class Samples:
    """Some writers of a model, each to be taken out of prompts.

    Args:
        compiled: The model.
        writers: Names of writers; None for all.

    Attributes:
        names: The writers, in the order of the universe.

    Raises:
        UnknownNameError: No such writer.
        ConfigurationError: No writer.
    """

    def __init__(self, compiled: CompiledModel, writers: Sequence[str] | None = None) -> None:
        universe = compiled.universe
        refuse_spans(universe, "the table of components")
        for name in writers or ():
            if name not in universe.writers:
                raise UnknownNameError.of("writer", name, universe.writers)
        chosen = [at for at, name in enumerate(universe.writers) if writers is None or name in set(writers)]
        if not chosen:
            raise ConfigurationError("there are no writers to take out; name some, or none at all for all of them")
        self.compiled, self.names = compiled, tuple(universe.writers[at] for at in chosen)
        self.groups = _groups(universe, np.array(chosen))
        widths = list(constant_widths(compiled.runnable).values())
        ends = np.cumsum(widths)
        self.where = [slice(int(end - width), int(end)) for end, width in zip(ends, widths, strict=True)]

    def batches(self, pairs: EncodedPairs, batch_size: int, *, seed: int = 0) -> Iterator[Prompts]:
        """All prompts, shuffled, in batches of one length and number of asked positions.

        Args:
            pairs: The prompts.
            batch_size: How many at once at most.
            seed: Of the order.
        """
        order = np.random.default_rng(seed).permutation(len(pairs))
        kinds: dict[tuple[int, int], list[int]] = {}
        for row in order.tolist():
            kinds.setdefault((len(pairs.clean_ids[row]), len(pairs.predict_positions[row])), []).append(row)
        for members in kinds.values():
            for start in range(0, len(members), batch_size):
                yield self.prompts(pairs, np.array(members[start : start + batch_size]))

    def prompts(self, pairs: EncodedPairs, rows: np.ndarray) -> Prompts:
        """Run the full model on some prompts.

        Args:
            pairs: The prompts.
            rows: Which, all of one length.
        """
        batch = pairs.batch(rows, device=self.compiled.device)
        return Prompts(rows=rows, pairs=batch, run=OneOutRun(self.compiled.runnable, batch.clean))

    def distances(
        self, prompts: Prompts, group: Group, instead: Callable[[int], Float[Tensor, "#prompt #seq width"]]
    ) -> Float[Tensor, "writer prompt"]:
        """How far the full model without each writer of a group is from itself: KL in nats, or the squared error.

        Args:
            prompts: The prompts.
            group: The writers.
            instead: What a writer, by its index, says instead on these prompts.
        """
        n, shape = len(prompts.rows), self.compiled.shape
        asked = prompts.full.shape[1]
        of_sample = asked * shape.d_vocab + prompts.run.seq * (2 * shape.d_mlp + 8 * shape.d_model)
        at_once = max(1, _NUMBERS // (n * of_sample))
        rows, found = torch.arange(n, device=self.compiled.device), []
        for start in range(0, len(group.writers), at_once):
            writers = group.writers[start : start + at_once].tolist()
            said = torch.cat([instead(writer).expand(n, -1, -1) for writer in writers])
            index = torch.tensor(writers, device=rows.device).repeat_interleave(n)
            logits = prompts.run.without(index, rows.repeat(len(writers)), said)
            found.append(_distance(logits.unflatten(0, (len(writers), n)), prompts.full))
        return torch.cat(found)

    def said_by(self, values: AblationValues, writer: int) -> Float[Tensor, "batch seq width"]:
        """What a writer says in a run, or as a constant.

        Args:
            values: The run's, or constants.
            writer: Its index.
        """
        universe = self.compiled.universe
        kind, layer = universe.writer_kinds[writer], int(universe.writer_layers[writer])
        if kind == "embedding":
            said = values.embeddings
            return sum(said[1:], said[0]) if universe.embeddings == "joint" else said[writer]
        if kind == "mlp":
            return values.mlps[layer]
        return values.heads[layer][writer - universe.n_embeddings - layer * (universe.n_heads + 1)]


def _groups(universe: Universe, chosen: np.ndarray) -> list[Group]:
    """Writers by layer and kind; each embedding by itself."""
    keys: dict[tuple[int, str, int], list[int]] = {}
    for place, writer in enumerate(chosen.tolist()):
        kind = str(universe.writer_kinds[writer])
        alone = writer if kind == "embedding" else 0
        keys.setdefault((int(universe.writer_layers[writer]), kind, alone), []).append(place)
    return [Group(writers=chosen[places], places=np.array(places)) for places in keys.values()]


def _distance(
    logits: Float[Tensor, "writer prompt asked d_vocab"], full: Float[Tensor, "prompt asked d_vocab"]
) -> Float[Tensor, "writer prompt"]:
    if logits.shape[-1] == 1:
        return (logits - full)[..., 0].square().mean(-1)
    rows = full.flatten(0, 1)
    by_position = [kl_divergence(one.flatten(0, 1), rows) for one in logits]
    return torch.stack(by_position).unflatten(1, full.shape[:2]).mean(-1)
