"""Sets of kept edges run on prompts: what each says of every prompt, next to the full model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.normed_anew import (
    ANEW,
    HEAD_SCALES,
    SHARED,
    require_norms,
    run_normed_anew,
    said_before_norms,
)
from circuitgraph.memory.portions import Portions
from pruning.evaluation.scores import score_prompts
from pruning.execution.objectives import first_asked
from pruning.frozen.constants import AblationData
from pruning.frozen.runs import FrozenBatch, FrozenRuns
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.prompt_rules import refuse_equal_sides
from pruning.whole_numbers import whole_number


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What sets of kept edges, and the full model, say of prompts.

    Attributes:
        columns: By set, then by measure, one value per prompt that it ran on `[prompt]`, float64, in the order of the
            prompts; NaN where a prompt has none. The full model is the set `full`.
        masks: The sets, as they were run, one boolean per edge of the universe `[edge]`.
        ablation: What cut edges carried.
        tops: By set, the most probable first token of each prompt that it ran on, or its first number `[prompt]`.
        only_on: By set that did not run on all prompts, the places of those that it ran on, rising `[its prompt]`.
    """

    columns: dict[str, dict[str, np.ndarray]]
    masks: dict[str, np.ndarray]
    ablation: str
    tops: dict[str, np.ndarray]
    only_on: dict[str, np.ndarray]

    def at(self, name: str, other: str) -> dict[str, np.ndarray]:
        """A set's scores on the prompts that another one ran on.

        Args:
            name: A set that ran on all prompts.
            other: Any set.
        """
        chosen = self.only_on.get(other)
        found = self.columns[name]
        return found if chosen is None else {measure: values[chosen] for measure, values in found.items()}

    def undefined(self) -> np.ndarray:
        """Places of the prompts that any set leaves undefined, rising `[prompt]`."""
        missing = np.zeros(len(self.columns["full"]["exact_match"]), dtype=bool)
        for name, columns in self.columns.items():
            missing[self.only_on.get(name, slice(None))] |= np.isnan(columns["exact_match"])
        return np.flatnonzero(missing)


def _runner(compiled: CompiledModel, frozen: FrozenBatch, ablation: str, head_scale: str) -> Callable[[Tensor], Tensor]:
    """What runs gates on a batch: the masked pass, or norms behind heads taken anew by each reader."""
    clean = frozen.pairs.clean
    if head_scale == SHARED:
        return lambda gates: compiled.masked(gates, clean, frozen.values).logits
    model = compiled.runnable
    ablated = None if ablation == "zero" else said_before_norms(model, frozen.pairs.corrupted)
    return lambda gates: run_normed_anew(model, gates, clean, ablated)


def measure_prompts(
    compiled: CompiledModel,
    masks: Mapping[str, np.ndarray],
    pairs: EncodedPairs,
    *,
    ablation: str,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    only_on: Mapping[str, np.ndarray] | None = None,
    hit_at: int | None = None,
    head_scale: str = SHARED,
    tick: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run sets of kept edges, and the full model, on prompts; what never changes is run once for all.

    Args:
        compiled: The model. Of a set that is run, edges that were removed from its graph are never kept and frozen
            ones always, see `GateMap.settled`.
        masks: By name, one boolean per edge of the universe, true where kept `[edge]`.
        pairs: The prompts, at least one.
        ablation: What cut edges carry.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts run at once; halved when memory runs out.
        only_on: By set that is not to run on all prompts, the places of those that it runs on, rising `[its prompt]`.
        hit_at: The k of Hit@k; None leaves it out.
        head_scale: Whose scale heads behind a norm have: `shared` by those of a layer in this run, as the universe has
            it, or `anew` for each reader (`circuitgraph.forward.normed_anew`), which is slow.
        tick: Called with the number of runs done and of all, after every batch: one per prompt and set.

    Returns:
        For each set and measure of `pruning.evaluation.scores` one value per prompt that it ran on.

    Raises:
        ConfigurationError: A batch of no prompts, Hit@k of prompts without right tokens, or norms taken anew where
            none stands behind heads.
        UnknownNameError: No such `head_scale`.
        PromptFormatError: Counterfactual ablation, and no prompt differs from its counterfactual in any token.
    """
    batch_size = whole_number("batch_size", batch_size, least=1)
    if hit_at is not None:
        hit_at = whole_number("hit_at", hit_at, least=1)
        if pairs.answer_ids is None and pairs.correct_ids is None:
            raise ConfigurationError(
                f"hit_at={hit_at} asks whether a right token is among the likeliest, and these prompts have no right "
                "tokens; leave it out"
            )
    if head_scale not in HEAD_SCALES:
        raise UnknownNameError.of("head_scale", head_scale, HEAD_SCALES)
    if head_scale == ANEW:
        require_norms(compiled.runnable, ablation)
    if ablation == "counterfactual":
        refuse_equal_sides(pairs)
    runs = FrozenRuns(
        compiled, pairs, ablation=ablation, budget_bytes=0, batch_size=batch_size, ablation_data=ablation_data
    )
    settled = {name: compiled.gate_map.settled(mask) for name, mask in masks.items()}
    gates = {name: torch.from_numpy(mask).float() for name, mask in settled.items()}
    only_on = {name: chosen for name, chosen in (only_on or {}).items() if len(chosen) < len(pairs)}
    collected = {name: _Collected() for name in ("full", *masks)}
    order: dict[str, list[np.ndarray]] = {name: [] for name in collected}
    portions = Portions(compiled, batch_size)
    done, total = 0, sum(len(only_on.get(name, pairs)) for name in collected)

    def measured(prompts: np.ndarray, names: Sequence[str]) -> dict[str, _Scored]:
        frozen = runs.batch(prompts)
        found = {"full": _Scored.of(frozen.teacher_logits, frozen, hit_at)}
        run = _runner(compiled, frozen, ablation, head_scale)
        for name in names:
            found[name] = _Scored.of(run(gates[name]), frozen, hit_at)
        return found

    with torch.no_grad():
        for members, names in _alike(len(pairs), list(masks), only_on):
            by_length = {length: of[np.isin(of, members)] for length, of in runs.by_length.items()}
            for chunk in batches_by_length(by_length, batch_size):
                for found in portions.run(lambda prompts, names=names: measured(prompts, names), chunk):
                    for name, scored in found.items():
                        collected[name].add(scored)
                for name in ("full", *names):
                    order[name].append(chunk)
                done += len(chunk) * (1 + len(names))
                if tick is not None:
                    tick(done, total)
    places = {name: np.argsort(np.concatenate(chunks)) for name, chunks in order.items()}
    return Measured(
        columns={name: one.columns(places[name]) for name, one in collected.items()},
        masks=settled,
        ablation=ablation,
        tops={name: torch.cat(one.top).numpy()[places[name]] for name, one in collected.items()},
        only_on=only_on,
    )


def _alike(n: int, names: Sequence[str], only_on: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Prompts that the same sets run on, and these sets."""
    runs_on = np.ones((n, len(names)), dtype=bool)
    for place, name in enumerate(names):
        if name in only_on:
            runs_on[:, place] = False
            runs_on[only_on[name], place] = True
    kinds, kind = np.unique(runs_on, axis=0, return_inverse=True)
    for index, chosen in enumerate(kinds):
        yield np.flatnonzero(kind.ravel() == index), [name for name, runs in zip(names, chosen, strict=True) if runs]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One value per prompt by measure, and the most probable first token (or the number) of each; on the host."""

    values: dict[str, Tensor]
    top: Tensor

    @staticmethod
    def of(logits: Tensor, frozen: FrozenBatch, hit_at: int | None) -> _Scored:
        scores = score_prompts(logits, frozen.teacher_logits, frozen.pairs, hit_at=hit_at)
        first = logits[first_asked(frozen.pairs)]
        return _Scored(
            values={name: values.cpu() for name, values in scores.items()},
            top=(first.argmax(-1) if first.shape[-1] > 1 else first[:, 0]).cpu(),
        )


@dataclass(frozen=True, kw_only=True)
class _Collected:
    """Scores of one set, batch after batch; a batch may lack a measure that another has."""

    scored: list[_Scored] = field(default_factory=list)

    def add(self, scored: _Scored) -> None:
        self.scored.append(scored)

    @property
    def top(self) -> list[Tensor]:
        return [one.top for one in self.scored]

    def columns(self, places: np.ndarray) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for one in self.scored for name in one.values)
        return {
            name: torch.cat(
                [one.values.get(name, torch.full(one.top.shape, torch.nan).double()) for one in self.scored]
            ).numpy()[places]
            for name in names
        }
