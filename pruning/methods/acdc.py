"""ACDC: edges tried one after the other, from the logits down, and cut for good where the objective hardly rises.

    for each reader, from the last to the first:
        if no kept edge leads from it to the logits: cut all edges into it, untried
        for each edge into it: cut it; if new − current < threshold: current = new, else put it back

`current` is the objective of the circuit as it is, so the threshold bounds each single step, not the distance from the
full model. Edges that were not reached yet are kept. A score is the *rise* `new − current` that was measured when the
edge was tried: `score >= threshold` is ACDC's circuit. Untried edges get less than any that was tried.

Order. Readers go from the last to the first in the order of the flat gate vector: logits, then layer by layer the MLP,
value, key and query readers, heads from the last to the first. Writers of a reader go from the last to the first too
(`order="reverse"`), or with the heads of a layer from the first to the last (`heads-forward`), or in a drawn order.

Exact, and not naive. One run of the model per edge is not needed (`circuitgraph.forward.tail`): what lies before the
reader is the full model's and is kept, what lies behind is pruned, and a candidate changes what one reader sees by one
vector. Several candidates run at once *as if all those before them were cut*, which most are: their results are good up
to the first that is put back, the rest is run again. Where many are put back fewer run at once.

A circuit of a wanted size takes a search over thresholds (`target_edges`). Two searches do the same until a rise lies
between their thresholds, so what an earlier one measured is taken over up to there.

Where this differs from the published code (ArthurConmy/Automatic-Circuit-Discovery): a head's inputs and the head's
readers are one thing here, so that there are no edges of "direct computation"; grouped keys and values have one reader.

References:
    Conmy, Mavor-Parker, Lynch, Heimersheim, Garriga-Alonso 2023, Towards Automated Circuit Discovery for Mechanistic
    Interpretability (arXiv 2304.14997).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.circuits.strength import RISE_WHEN_TRIED
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.pruned_behind import require_prunable
from circuitgraph.forward.tail import PrunedBehind, Tail
from circuitgraph.graph.liveness import backward_reach, the_logits
from pruning.execution.finite import require_numbers
from pruning.execution.objectives import log_softmax
from pruning.execution.probe import Probe
from pruning.frozen.batch import FrozenBatch
from pruning.methods.answers import ComparesWithModel
from pruning.methods.method import RANKING_ABLATIONS, Search
from pruning.methods.writer_orders import ORDERS, writer_orders

_CELLS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
"""How many tokens of candidates × prompts run at once, at least one candidate."""
_LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 28}
_MOST_SEARCHES = 12
_NEAR_ENOUGH = 0.01


@dataclass(frozen=True, kw_only=True)
class ACDC(ComparesWithModel):
    """Automatic circuit discovery (Conmy et al. 2023).

    Attributes:
        threshold: An edge stays if the objective rises by this much or more without it.
        target_edges: Search for the threshold that keeps about so many edges, to 1 % or as near as 12 searches come,
            instead of taking `threshold`.
        order: Of the writers of a reader: `reverse`, `heads-forward` or `random` (by the seed).

    Raises:
        ConfigurationError: A threshold that is not above 0, or fewer edges than 1.
        UnknownNameError: No such order.

    Examples:
        >>> ACDC(threshold=0.02).name
        'acdc'
    """

    name: ClassVar[str] = "acdc"
    summary: ClassVar[str] = "ACDC: edges tried one by one from the logits down, cut where the objective hardly rises"
    source: ClassVar[str] = "Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability"
    direction = "noising"
    cost: ClassVar[str] = "a forward of the pruned part for each edge; so many times as searches are needed"
    estimates = RISE_WHEN_TRIED
    ablations = RANKING_ABLATIONS

    threshold: float = 0.01
    target_edges: int | None = None
    order: str = field(default="reverse", metadata={"names": ORDERS})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ConfigurationError(f"method 'acdc': threshold must be a number above 0; got {self.threshold}")
        if self.target_edges is not None and self.target_edges < 1:
            raise ConfigurationError(f"method 'acdc': target_edges must be 1 or more; got {self.target_edges}")
        if self.order not in ORDERS:
            raise UnknownNameError.of("order of method 'acdc'", self.order, ORDERS)

    def require_model(self, compiled: CompiledModel) -> None:
        """Refuse a model that cannot be pruned from behind, see `circuitgraph.forward.pruned_behind`."""
        require_prunable(compiled.shape, compiled.universe)

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Of the order, where it is drawn.

        Returns:
            The rise of the objective when the edge was tried; below all of these where it was not.
        """
        return self.search(probe, seed=seed).scores

    def search(self, probe: Probe, *, seed: int = 0) -> Search:
        """Search for the circuit.

        Args:
            probe: The model and the prompts.
            seed: Of the order, where it is drawn.
        """
        found = acdc(probe, self, seed=seed)
        probe.say(
            f"ACDC kept {found.n_kept:,} of {len(found.rises):,} edges at threshold {found.threshold:.4g}; "
            f"{found.n_tried:,} were tried"
        )
        return Search(
            scores=found.scores, kept=found.kept, about={"threshold": found.threshold, "n_tried": found.n_tried}
        )

    def for_both(self) -> ACDC:
        """The search over pairs and swapped pairs: a rise over all of them is half the sum of the two rises."""
        return replace(self, threshold=self.threshold / 2)

    def of_both(self, found: Search) -> Search:
        """What such a search found, with rises and threshold as sums of noising and denoising.

        Args:
            found: What it found.
        """
        threshold = found.about["threshold"]
        assert isinstance(threshold, float)
        return Search(scores=2 * found.scores, kept=found.kept, about={**found.about, "threshold": 2 * threshold})

    def for_edges(self, n: int) -> ACDC:
        """The same search for a circuit of about so many edges.

        Args:
            n: How many.

        Raises:
            ConfigurationError: `target_edges` says another number.
        """
        if self.target_edges not in (None, n):
            raise ConfigurationError(
                f"method 'acdc': the target sparsity asks for {n:,} edges, and target_edges for {self.target_edges:,}; "
                "give one of the two"
            )
        return replace(self, target_edges=n)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        threshold: What it went by.
        edges: The edges that were tried, in their order.
        values: The objective without each, and without all that was cut before it.
        rises: By edge, `values` less the objective before it; NaN where the edge was not tried `[edge]`.
    """

    threshold: float
    edges: np.ndarray
    values: np.ndarray
    rises: Float[np.ndarray, " edge"]

    @property
    def kept(self) -> np.ndarray:
        """Booleans `[edge]`: ACDC's circuit."""
        return np.nan_to_num(self.rises, nan=-np.inf) >= self.threshold

    @property
    def n_kept(self) -> int:
        """How many edges it has."""
        return int(self.kept.sum())

    @property
    def n_tried(self) -> int:
        """How many edges were tried."""
        return len(self.edges)

    @property
    def scores(self) -> Float[np.ndarray, " edge"]:
        """A finite score per edge: untried ones get the lowest rise less the threshold."""
        lowest = min(float(self.rises[self.edges].min()), self.threshold)
        return np.nan_to_num(self.rises, nan=lowest - self.threshold)

    def agrees_until(self, threshold: float) -> int:
        """How many edges are tried alike with another threshold."""
        rises = self.rises[self.edges]
        other = np.flatnonzero((rises >= self.threshold) != (rises >= threshold))
        # The edge that is decided otherwise was still measured alike.
        return int(other[0]) + 1 if len(other) else len(rises)


def acdc(probe: Probe, settings: ACDC | None = None, *, seed: int = 0) -> Found:
    """Search by one threshold, or for the one that keeps a wanted number of edges.

    Args:
        probe: The model and the prompts.
        settings: The threshold, or the number, and the order.
        seed: Of the order, where it is drawn.

    Raises:
        NotFiniteError: The objective is NaN or infinite; the message names the prompts.
    """
    settings = settings or ACDC()
    orders = writer_orders(probe.compiled.universe, settings.order, seed)
    if settings.target_edges is None:
        return _Search(probe, settings.threshold, orders).run()
    wanted, searches = settings.target_edges, list[Found]()
    low, high, threshold = 0.0, math.inf, settings.threshold
    for _ in range(_MOST_SEARCHES):
        earlier = max(searches, key=lambda found: found.agrees_until(threshold), default=None)
        found = _Search(probe, threshold, orders, earlier).run()
        searches.append(found)
        probe.say(f"ACDC at threshold {threshold:.4g}: {found.n_kept:,} edges, {wanted:,} are wanted")
        if abs(found.n_kept - wanted) <= _NEAR_ENOUGH * wanted:
            break
        low, high = (threshold, high) if found.n_kept > wanted else (low, threshold)
        threshold = _between(low, high, threshold)
        if not low < threshold < high:
            break
    return min(searches, key=lambda found: abs(found.n_kept - wanted))


def _between(low: float, high: float, last: float) -> float:
    """The next threshold: by factors of 8 until there is one on either side, then halfway in its logarithm."""
    if not low:
        return last / 8
    return last * 8 if high == math.inf else math.sqrt(low * high)


class _Search:
    """One search from the logits to the first reader."""

    def __init__(
        self, probe: Probe, threshold: float, orders: dict[int, np.ndarray], earlier: Found | None = None
    ) -> None:
        self.probe, self.threshold, self.orders = probe, threshold, orders
        self.universe = universe = probe.compiled.universe
        device = probe.compiled.device.type
        self.cells_at_once = _CELLS_AT_ONCE.get(device, _CELLS_AT_ONCE["cpu"])
        self.logits_at_once = _LOGITS_AT_ONCE.get(device, _LOGITS_AT_ONCE["cpu"])
        self.parts = [_Part.of(probe, prompts) for prompts in self._groups()]
        self.kept = np.ones(universe.n_edges, dtype=bool)
        self.rises = np.full(universe.n_edges, np.nan)
        self.edges: list[int] = []
        self.values: list[float] = []
        self.at_once = 4
        self.known: dict[int, float] = {}
        if earlier is not None:
            n = earlier.agrees_until(threshold)
            self.known = dict(zip(earlier.edges[:n].tolist(), earlier.values[:n].tolist(), strict=True))
        self._take_teacher()
        last = universe.n_readers - 1
        self.current = self._objectives([Tail(part.state, self.kept, last).seen[None] for part in self.parts])[0]

    def _groups(self) -> Iterator[np.ndarray]:
        """All prompts, each once, of one length each."""
        for length, members in self.probe.frozen.by_length.items():
            most = max(1, self.cells_at_once // length)
            yield from (members[start : start + most] for start in range(0, len(members), most))

    def run(self) -> Found:
        """Go through all readers."""
        readers, blocks = np.arange(self.universe.n_readers), self.universe.blocks
        firsts = np.array([block.first_reader for block in blocks])
        for reader in readers[::-1].tolist():
            block = blocks[int(np.searchsorted(firsts, reader, side="right")) - 1]
            first = block.first_edge + (reader - block.first_reader) * block.n_writers
            if backward_reach(self.universe, self.kept, readers=the_logits(self.universe))[0][reader]:
                self._try(reader, first, self.orders[block.n_writers])
            else:
                self.kept[first : first + block.n_writers] = False
        edges, values = np.array(self.edges, dtype=np.int64), np.array(self.values)
        return Found(threshold=self.threshold, edges=edges, values=values, rises=self.rises)

    def _try(self, reader: int, first: int, order: np.ndarray) -> None:
        """Try the edges into a reader."""
        tails = [Tail(part.state, self.kept, reader) for part in self.parts]
        seen = [tail.seen for tail in tails]
        most = max(1, self.cells_at_once // max(1, sum(len(x) for x in seen)))
        place = 0
        while place < len(order):
            writers = order[place : place + min(self.at_once, most)]
            changed, values = self._without(tails, seen, writers, first)
            cut = 0
            for edge, value in zip((first + writers).tolist(), values, strict=True):
                rise = value - self.current
                self.edges.append(edge)
                self.values.append(value)
                self.rises[edge] = rise
                place += 1
                if not rise < self.threshold:
                    break
                self.kept[edge], self.current, cut = False, value, cut + 1
            self.at_once = min(2 * self.at_once, 64) if cut == len(writers) else max(1, 2 * cut)
            if cut:
                seen = [x[cut - 1] for x in changed]
        if not self.kept[first : first + len(order)].all():
            for tail, x in zip(tails, seen, strict=True):
                tail.final(x[None], settle=True)

    def _without(
        self, tails: list[Tail], seen: list[Tensor], writers: np.ndarray, first: int
    ) -> tuple[list[Tensor], list[float]]:
        """What the reader sees, and the objective, without the first writer, the first two, and so on."""
        changed = [x - tail.of_writers(writers).cumsum(0) for tail, x in zip(tails, seen, strict=True)]
        if all(edge in self.known for edge in (first + writers).tolist()):
            return changed, [self.known[edge] for edge in (first + writers).tolist()]
        return changed, self._objectives([tail.final(x) for tail, x in zip(tails, changed, strict=True)])

    @torch.no_grad()
    def _objectives(self, read: Sequence[Tensor]) -> list[float]:
        """The objective over all prompts by candidate, from what the logits read `[given asked d_model]`, by part."""
        n_asked = [x.shape[1] for x in read]
        at_once = max(1, self.logits_at_once // (sum(n_asked) * self.parts[0].state.logits.shape[-1]))
        found = []
        for start in range(0, len(read[0]), at_once):
            # All parts in one product: the output head is large, and is read from memory each time.
            together = torch.cat([x[start : start + at_once] for x in read], 1)
            found.append(self._compared(self.parts[0].state.unembed(together), n_asked))
        total = torch.cat(found)
        require_numbers(total, self.probe.frozen, "objectives of candidates")
        return total.tolist()

    def _compared(self, logits: Float[Tensor, "given asked d_vocab"], n_asked: list[int]) -> Float[Tensor, " given"]:
        """The objective's mean over all prompts by candidate; the full model's own run is what is compared with."""
        if self.expected is not None:
            # The KL at once for all candidates, with what only depends on the full model taken once.
            of_circuit = log_softmax(logits.flatten(0, 1)).view(logits.shape)
            return (self.entropy - (self.expected * of_circuit).sum(-1)).double() @ self.share
        total = logits.new_zeros(len(logits), dtype=torch.float64)
        for part, of_part in zip(self.parts, logits.split(n_asked, 1), strict=True):
            given = [self.probe.compare(one, part.state.logits, part.frozen.pairs).double() for one in of_part]
            total += torch.stack(given) * (part.state.n_prompts / len(self.probe.pairs))
        return total

    def _take_teacher(self) -> None:
        """What the KL needs of the full model: its probabilities and entropies, and what each position counts."""
        self.expected: Tensor | None = None
        logits = torch.cat([part.state.logits for part in self.parts])
        if self.probe.objective != "kl" or logits.shape[-1] == 1:
            return
        known = log_softmax(logits)
        self.expected = known.exp()
        self.entropy = (self.expected * known).sum(-1)
        self.share = torch.cat([part.share for part in self.parts]) / len(self.probe.pairs)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Prompts of one length.

    Attributes:
        state: The circuit as it is, on these prompts.
        frozen: The prompts.
        share: What each asked position counts in its prompt's mean `[asked]`.
    """

    state: PrunedBehind
    frozen: FrozenBatch
    share: Tensor

    @classmethod
    def of(cls, probe: Probe, prompts: np.ndarray) -> _Part:
        """Run the full model on prompts."""
        compiled, frozen = probe.compiled, probe.frozen.batch(prompts)
        clean = frozen.pairs.clean
        state = PrunedBehind(compiled.bound, compiled.shape, compiled.universe, clean, frozen.values)
        counts = torch.bincount(clean.predict_prompt, minlength=len(prompts))
        return cls(state=state, frozen=frozen, share=1 / counts[clean.predict_prompt].double())
