"""Causal tracing: what comes back when parts say again what they said before the subject was hidden.

1. The subject's tokens are hidden: see `pruning.tracing.corruption`. The right answer loses probability, and what the
   model says moves away from what it said.
2. In a window of layers, one kind of part says at one place of the prompt what it said in the clean run; all that
   follows is run anew.
3. What that brings back is a share of what was lost, over all prompts: of probability
   `(p_restored − p_hidden) / (p_clean − p_hidden)`, the mean over prompts taken first, and of KL
   `1 − KL_restored / KL_hidden`.

A share may be below 0 or above 1, and shares of windows do not add up. Intervals hold the middle 95 % of shares of
prompts that are drawn again with replacement. Where hiding costs nothing, or helps, there are no shares.

References:
    Meng, Bau, Andonian, Belinkov 2022, Locating and editing factual associations in GPT (arXiv 2202.05262).
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), section 4: the learnt token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.intervals import LEVEL, resampled_means
from pruning.prompts.encoding import EncodedPairs
from pruning.tracing.corruption import CORRUPTIONS, MEAN, NOISE, NULL, noisy_tokens, subject_embeddings
from pruning.tracing.null_token import (
    KL,
    RATE,
    STARTS,
    STEPS,
    NullToken,
    Tick,
    check_learning,
    learn_null_token,
    learn_window_tokens,
    token_losses,
)
from pruning.tracing.prompts import TracedBatch, TracedPrompts, traced_prompts
from pruning.tracing.windows import DEFAULT_KINDS, DEFAULT_PLACES, DEFAULT_WIDTHS, Window, windows_of
from pruning.whole_numbers import MOST_SEED, whole_number

DRAWS, BATCH_SIZE = 5, 8
LEAST = 1e-6
"""What is lost less than this, in probability or in nats, has no shares."""
MEASURES = ("probability", "kl")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CausalTrace:
    """What hiding subjects costs, and what windows bring back.

    Attributes:
        table: A row per corruption and window: `corruption`, `kind`, `place`, `width`, `layer`; `probability` of the
            right answer's first token and `kl` in nats, means over prompts with the window restored; and for either its
            share of what was lost, `_share`, with `_share_low` and `_share_high`; NaN as `restored_shares` says.
        corruptions: A row per corruption: `corruption`; `probability` and `kl` with the subject hidden and nothing
            restored; `clean_probability`; and the same two of the training prompts, `train_probability` and `train_kl`.
        prompts: A row per prompt that was traced: `text`, `subject`, `n_tokens` of the subject, `clean_probability`,
            and by corruption the probability with the subject hidden.
        null_token: The vector that was learnt; None where it was not asked for.
        subject: How subjects were found.
        each_window: Whether the null token was learnt anew for each window.
    """

    table: pd.DataFrame
    corruptions: pd.DataFrame
    prompts: pd.DataFrame
    null_token: NullToken | None
    subject: str
    each_window: bool

    def __repr__(self) -> str:
        n_windows = len(self.table) // max(1, len(self.corruptions))
        return f"<CausalTrace: {n_windows} windows on {len(self.prompts)} prompts, {len(self.corruptions)} corruptions>"


@dataclass(frozen=True, kw_only=True)
class CausalTraceSettings:
    """How subjects are hidden, and what is restored.

    Attributes:
        subject: How subjects are found, see `pruning.tracing.subjects`.
        kinds: What is restored: `attention`, `mlp`, `residual`.
        places: Where: `first_subject`, `last_subject`, `subject`, `last`.
        widths: Layers on either side of a window's middle one.
        layers: Middle layers; all by default.
        corruptions: What stands instead of the subject: `null_token`, `mean`, `noise`.
        each_window: Learn the null token anew for each window.
        objective: What the null token makes least: `kl`, or `answer`, minus the right answer's log-probability.
        steps: Steps in which it is learnt.
        rate: The first one's size, in standard deviations of embeddings.
        starts: Subject tokens that are tried before the first.
        draws: Draws of the noise.
        known: Leave out prompts whose right answer is not the model's first choice.
        batch_size: Prompts run at once.
        seed: Of the order of prompts and of the noise.

    Raises:
        UnknownNameError: No such corruption or objective.
        ConfigurationError: A number out of range, or corruptions that are none or come twice.
    """

    subject: str | None = None
    kinds: Sequence[str] = DEFAULT_KINDS
    places: Sequence[str] = DEFAULT_PLACES
    widths: Sequence[int] = DEFAULT_WIDTHS
    layers: Sequence[int] | None = None
    corruptions: Sequence[str] = (NULL, MEAN, NOISE)
    each_window: bool = False
    objective: str = KL
    steps: int = STEPS
    rate: float = RATE
    starts: int = STARTS
    draws: int = DRAWS
    known: bool = True
    batch_size: int = BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UnknownNameError.of("corruption", name, CORRUPTIONS)
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            told = ", ".join(self.corruptions) or "none"
            raise ConfigurationError(f"corruptions: expected one or several different ones; got {told}")
        if self.each_window and NULL not in self.corruptions:
            raise ConfigurationError("a null token for each window (each_window) needs 'null_token' among them")
        check_learning(self.objective, self.steps, self.rate, self.starts)
        whole_number("draws", self.draws, least=1)
        whole_number("batch_size", self.batch_size, least=1)
        whole_number("seed", self.seed, most=MOST_SEED)


@with_gradients
def causal_trace(
    compiled: CompiledModel,
    train: EncodedPairs,
    test: EncodedPairs | None = None,
    settings: CausalTraceSettings | None = None,
    *,
    tick: Tick | None = None,
) -> CausalTrace:
    """Hide the subject of prompts, and measure what each window of layers brings back of what was lost.

    Args:
        compiled: The model.
        train: Prompts that the null token is learnt on, and the mean and the noise's size are taken over.
        test: Prompts that are traced; the training prompts by default.
        settings: How; every setting has a default.
        tick: Called with how much is done and how much there is: steps of learning, then batches of prompts.

    Returns:
        The trace. On the training prompts the null token is at most as bad as the mean in what it was learnt by; and so
        is a window's own against the one for all.

    Raises:
        UnknownNameError: No such kind, place or way to find subjects.
        ConfigurationError: No prompts, none that the model knows, prompts without a subject, or settings out of range.
        TrainingError: A gradient is not finite.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import CausalTraceSettings, causal_trace, load_task
        >>> loaded = load_model("induction-neox")
        >>> pairs = load_task("induction", loaded.tokenizer, sizes={"train": 16}).split("train")
        >>> settings = CausalTraceSettings(widths=[0], places=["last"], corruptions=["null_token"], steps=5)
        >>> found = causal_trace(compile_model(loaded), pairs, settings=settings)
        >>> rows = found.table.set_index(["kind", "layer"])["probability_share"].round(1)
        >>> bool(rows["attention", 1] > 0.9 > 0.1 > abs(rows["attention", 0]))  # the last layer's heads copy the answer
        True
    """
    settings = settings or CausalTraceSettings()
    windows = windows_of(
        compiled.universe, kinds=settings.kinds, places=settings.places, widths=settings.widths, layers=settings.layers
    )
    taken = {"subject": settings.subject, "known": settings.known, "batch_size": settings.batch_size}
    learning = traced_prompts(compiled, train, **taken)
    traced = learning if test is None else traced_prompts(compiled, test, **taken)
    return _Tracing(learning, traced, windows, settings, tick).run()


class _Tracing:
    """One trace: corruption after corruption."""

    def __init__(
        self, learning: TracedPrompts, traced: TracedPrompts, windows: list[Window], settings: CausalTraceSettings,
        tick: Tick | None,
    ) -> None:  # fmt: skip
        self.learning, self.traced, self.windows, self.settings = learning, traced, windows, settings
        self.token: NullToken | None = None
        self.own: Tensor | None = None
        every = subject_embeddings(learning)
        self.mean, self.spread = every.mean(0), float(every.std())
        n_learnt = (NULL in settings.corruptions) * (1 + settings.each_window) * settings.steps
        n_batches = len(traced.batches) + (len(learning.batches) if learning is not traced else 0)
        self.done, self.all, self.tick = 0, n_learnt + n_batches * len(settings.corruptions), tick

    def run(self) -> CausalTrace:
        self._learn()
        clean = self.traced.column([one.probability(one.full) for one in self.traced.batches])
        tables, corruptions, prompts = [], [], self._prompts(clean)
        for name in self.settings.corruptions:
            found = self._measured(name, self.traced, self.windows)
            row = {"corruption": name} | {measure: float(found[measure][-1].mean()) for measure in MEASURES}
            row["clean_probability"] = float(clean.mean())
            on_train = found if self.learning is self.traced else self._measured(name, self.learning, [])
            row |= {f"train_{measure}": float(on_train[measure][-1].mean()) for measure in MEASURES}
            corruptions.append(row)
            prompts[name] = found["probability"][-1]
            tables.append(self._table(name, found, clean))
        return CausalTrace(
            table=pd.concat(tables, ignore_index=True), corruptions=pd.DataFrame(corruptions), prompts=prompts,
            null_token=self.token, subject=self.traced.subjects.how, each_window=self.own is not None,
        )  # fmt: skip

    def _learn(self) -> None:
        """Learn the null token, and one for each window where that is asked for."""
        settings = self.settings
        if NULL not in settings.corruptions:
            return
        how = {"objective": settings.objective, "steps": settings.steps, "rate": settings.rate, "seed": settings.seed}
        self.token = learn_null_token(self.learning, **how, starts=settings.starts, tick=self._counted)
        if settings.each_window:
            every = [*self.windows, None]
            self.own = learn_window_tokens(self.learning, self.token.value, every, **how, tick=self._counted)
            again = token_losses(self.learning, self.own[-1:], [None], settings.objective)
            self.token = replace(
                self.token, value=self.own[-1], losses=self.token.losses | {"learnt further": float(again[0])}
            )

    def _counted(self, *_: int) -> None:
        self.done += 1
        if self.tick is not None:
            self.tick(self.done, self.all)

    @torch.no_grad()
    def _measured(self, name: str, prompts: TracedPrompts, windows: list[Window]) -> dict[str, np.ndarray]:
        """Probability and KL of each window, and in the last row with nothing restored, `[window prompt]`."""
        parts: dict[str, list[Tensor]] = {measure: [] for measure in MEASURES}
        for batch in prompts.batches:
            runs = list(self._instead(name, prompts, batch, len(windows)))
            sums = {
                measure: torch.zeros(len(windows) + 1, len(batch.rows), dtype=torch.float64) for measure in MEASURES
            }
            for tokens in runs:
                for numbers, back, found in batch.samples(tokens, [*windows, None]):
                    sums["probability"][numbers] += batch.probability(found).double().cpu()[back] / len(runs)
                    kl = batch.distance(found).clamp(min=0)  # below 0 by rounding alone
                    sums["kl"][numbers] += kl.double().cpu()[back] / len(runs)
            for measure, values in sums.items():
                parts[measure].append(values)
            self._counted()
        return {measure: prompts.column(values) for measure, values in parts.items()}

    def _instead(
        self, name: str, prompts: TracedPrompts, batch: TracedBatch, n_windows: int
    ) -> Iterator[Float[Tensor, "#sample #prompt #seq d_model"]]:
        """Embeddings instead of the subject's, once or for each draw."""
        if name == NOISE:
            yield from noisy_tokens(prompts, batch, self.spread, draws=self.settings.draws, seed=self.settings.seed)
            return
        assert name == MEAN or self.token is not None
        token = self.mean if self.token is None or name == MEAN else self.token.value
        if name == NULL and self.own is not None and n_windows:
            yield self.own[:, None, None]
            return
        yield token[None, None, None]

    def _prompts(self, clean: np.ndarray) -> pd.DataFrame:
        traced, subjects = self.traced, self.traced.subjects
        n = len(traced.pairs)
        return pd.DataFrame(
            {
                "text": traced.pairs.texts or [""] * n,
                "subject": subjects.texts,
                "n_tokens": subjects.last - subjects.first + 1,
                "clean_probability": clean,
            }
        )

    def _table(self, name: str, found: dict[str, np.ndarray], clean: np.ndarray) -> pd.DataFrame:
        rows = [
            {"corruption": name, "kind": one.kind, "place": one.place, "width": one.width, "layer": one.layer}
            for one in self.windows
        ]
        frame = pd.DataFrame(rows)
        for measure in MEASURES:
            values, hidden = found[measure][:-1], found[measure][-1]
            frame[measure] = values.mean(1)
            of_clean = (
                (values, hidden, clean) if measure == "probability" else (-values, -hidden, np.zeros_like(hidden))
            )
            share, low, high = restored_shares(*of_clean)
            frame[f"{measure}_share"], frame[f"{measure}_share_low"], frame[f"{measure}_share_high"] = share, low, high
        return frame


def restored_shares(
    restored: Float[np.ndarray, "window prompt"],
    hidden: Float[np.ndarray, " prompt"],
    clean: Float[np.ndarray, " prompt"],
) -> tuple[Float[np.ndarray, " window"], Float[np.ndarray, " window"], Float[np.ndarray, " window"]]:
    """Which share of what was lost comes back, with bounds.

    Args:
        restored: Some measure of which hiding takes away, with each window restored.
        hidden: With nothing restored.
        clean: Of the clean run.

    Returns:
        Shares, lower and upper bounds. All NaN where nothing was lost; bounds also of a single prompt, and where they
        would hold that nothing was lost, of which there is no share.

    Examples:
        >>> restored, hidden, clean = np.array([[0.5, 0.3]]), np.array([0.1, 0.1]), np.array([0.9, 0.5])
        >>> restored_shares(restored, hidden, clean)[0].round(2).tolist()
        [0.5]
    """
    lost, nothing = float(np.mean(clean - hidden)), np.full(len(restored), np.nan)
    if lost < LEAST:
        return nothing, nothing, nothing
    share, tail = np.mean(restored - hidden, 1) / lost + 0.0, (1 - LEVEL) / 2
    means = resampled_means(np.vstack([clean - hidden, restored - hidden]).T)
    if len(clean) < 2 or np.quantile(means[:, 0], tail) < LEAST:
        return share, nothing, nothing
    means = means[means[:, 0] >= LEAST]
    low, high = np.quantile(means[:, 1:] / means[:, :1] + 0.0, [tail, 1 - tail], axis=0)
    return share, low, high
