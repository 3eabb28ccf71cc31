"""The component table: what taking each writer alone out of the full model costs, under every ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import constants_of_values
from circuitgraph.torch_state import with_gradients
from pruning.components.learning import BATCH_SIZE, RATE, STARTS, STEPS, EachConstant, Tick, learn_each_constant
from pruning.components.samples import Prompts, Samples
from pruning.prompts.encoding import EncodedPairs

CONSTANTS = ("zero", "mean", "optimal")
OTHERS = ("mean_positional", "resample", "counterfactual")
ABLATIONS = ("zero", "mean", "mean_positional", "resample", "counterfactual", "optimal")
SLACK = 1e-3
"""What counts as no worse, in nats or in squared error."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Components:
    """What writers are worth.

    Attributes:
        train: A row per writer, on the prompts that constants were learnt on: `writer`, `kind`, `layer`; for each
            ablation the mean distance from the full model (KL in nats, or the squared error of numbers) and its
            standard deviation over prompts, `_sd`; and `kept`, the best constant: `learnt`, `mean`, `zero` or
            `said`. NaN where
            an ablation is not to be had: `mean_positional` where prompts differ in length, `resample` where a prompt
            is the only one of its length in a batch, `counterfactual` where no prompt differs from its own.
        test: The same on other prompts, with the constants and means of the training prompts; None without.
        constants: Of kind `optimal`; writers that were not asked for have their means.
        measure: `kl` or `mse`.
    """

    train: pd.DataFrame
    test: pd.DataFrame | None
    constants: AblationValues
    measure: str

    def __repr__(self) -> str:
        return f"<Components: {len(self.train)} writers under {len(ABLATIONS)} ablations>"


@with_gradients
def component_table(
    compiled: CompiledModel,
    train: EncodedPairs,
    *,
    test: EncodedPairs | None = None,
    writers: Sequence[str] | None = None,
    steps: int = STEPS,
    rate: float = RATE,
    batch_size: int = BATCH_SIZE,
    starts: int = STARTS,
    seed: int = 0,
    tick: Tick | None = None,
) -> Components:
    """Measure what taking each writer alone out of the full model costs, under every ablation.

    Args:
        compiled: The model.
        train: Prompts that means are taken over and constants learnt on.
        test: Other prompts to measure on, too.
        writers: Which; all by default.
        steps: As of `learn_each_constant`.
        rate: As of `learn_each_constant`.
        batch_size: Prompts per step, and run at once.
        starts: As of `learn_each_constant`.
        seed: Of the order of prompts, and so of which prompt another is resampled from.
        tick: Called with the number of steps done and of all.

    Returns:
        The table. On the training prompts `optimal` is at most `zero` and `mean` for every writer, by construction (see
        `pruning.components.learning`); nothing bounds it by the others, or on new prompts.

    Raises:
        UnknownNameError: No such writer.
        ConfigurationError: No prompts, or settings out of range.
        TrainingError: A gradient is not finite.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> pairs = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3}).split("train")
        >>> found = component_table(compiled, pairs, writers=["a3.h0", "m3"], steps=5).train.set_index("writer")
        >>> bool(found.loc["m3", "optimal"] < 1e-6 < 0.1 < found.loc["a3.h0", "optimal"])  # m3 says nothing here
        True
    """
    samples = Samples(compiled, writers)
    learnt = learn_each_constant(
        samples, train, steps=steps, rate=rate, batch_size=batch_size, starts=starts, seed=seed, tick=tick
    )  # fmt: skip
    measuring = _Measuring(samples, train, learnt, batch_size=batch_size, seed=seed)
    tested = None if test is None or not len(test) else measuring.table(test)
    return Components(
        train=measuring.table(train), test=tested, constants=learnt.values,
        measure="mse" if train.answer_values is not None else "kl",
    )  # fmt: skip


class _Measuring:
    """Every ablation of every writer, on one set of prompts and then another."""

    def __init__(
        self, samples: Samples, train: EncodedPairs, learnt: EachConstant, *, batch_size: int, seed: int
    ) -> None:
        self.samples, self.kept = samples, learnt.kept
        self.batch_size, self.seed = batch_size, seed
        compiled, self.lengths = samples.compiled, set(train.lengths.tolist())

        def batches() -> list:
            places = range(0, len(train), batch_size)
            return [train.batch(range(start, min(start + batch_size, len(train)))).clean for start in places]

        device = compiled.device
        means = compiled.ablation_values("mean", (one.to(device) for one in batches()))
        self.constants = {
            "mean": constants_of_values(compiled.runnable, means),
            "optimal": constants_of_values(compiled.runnable, learnt.values),
        }
        self.constants["zero"] = torch.zeros_like(self.constants["mean"])
        self.by_position = None
        if len(self.lengths) == 1:
            self.by_position = compiled.ablation_values("mean-positional", (one.to(device) for one in batches()))

    @torch.no_grad()
    def table(self, pairs: EncodedPairs) -> pd.DataFrame:
        """A row per writer."""
        found = {name: np.full((len(pairs), len(self.samples.names)), np.nan) for name in ABLATIONS}
        for prompts in self.samples.batches(pairs, self.batch_size, seed=self.seed):
            others = self.samples.compiled.run_with_values(prompts.pairs.corrupted)[1]
            for name in ABLATIONS:
                if name == "mean_positional" and (self.by_position is None or prompts.run.seq not in self.lengths):
                    continue
                if name == "resample" and len(prompts.rows) < 2:
                    continue
                if name == "counterfactual" and not pairs.differs.any():
                    continue
                for group in self.samples.groups:
                    values = self.samples.distances(
                        prompts, group, lambda writer: self._instead(name, writer, prompts, others)  # noqa: B023
                    )  # fmt: skip
                    found[name][np.ix_(prompts.rows, group.places)] = values.double().T.cpu().numpy()
        return self._frame(found)

    def _instead(
        self, name: str, writer: int, prompts: Prompts, others: AblationValues
    ) -> Float[Tensor, "#prompt #seq width"]:
        """What a writer says instead."""
        samples = self.samples
        if name in CONSTANTS:
            return self.constants[name][samples.where[writer]].to(prompts.run.logits.dtype)[None, None]
        if name == "mean_positional":
            assert self.by_position is not None
            return samples.said_by(self.by_position, writer)
        if name == "resample":
            return samples.said_by(prompts.run.said, writer).roll(1, 0)
        return samples.said_by(others, writer)

    def _frame(self, found: dict[str, np.ndarray]) -> pd.DataFrame:
        universe, names = self.samples.compiled.universe, self.samples.names
        places = [universe.writers.index(name) for name in names]
        frame = pd.DataFrame(
            {"writer": names, "kind": universe.writer_kinds[places], "layer": universe.writer_layers[places]}
        )
        for name in ABLATIONS:
            values = found[name]
            known = ~np.isnan(values).all(0)
            frame[name], frame[f"{name}_sd"] = np.nan, np.nan
            frame.loc[known, name] = np.nanmean(values[:, known], axis=0)
            frame.loc[known, f"{name}_sd"] = np.nanstd(values[:, known], axis=0)
        return frame.assign(kept=[self.kept[name] for name in names])


def component_summary(table: pd.DataFrame) -> pd.DataFrame:
    """How optimal ablation compares with the others, over writers.

    Args:
        table: As `Components.train`.

    Returns:
        A row per other ablation that was measured: `ablation`, `median_ratio` (the median over writers of optimal over
        this one, of writers where this one costs more than 0.001), `n_ratio` (how many these are), `share_below` (of
        all writers, those where optimal is at most this plus 0.001) and `rank_correlation` (Spearman's, of the two).

    Raises:
        ConfigurationError: No writers.
    """
    if not len(table):
        raise ConfigurationError("the table has no writers; there is nothing to sum up")
    rows, optimal = [], table["optimal"].to_numpy(dtype=float)
    for name in ABLATIONS[:-1]:
        values = table[name].to_numpy(dtype=float)
        known = ~np.isnan(values)
        if not known.any():
            continue
        worth = known & (values > SLACK)
        ranked = known.sum() > 2 and len(set(values[known])) > 1 and len(set(optimal[known])) > 1
        rows.append(
            {
                "ablation": name,
                "median_ratio": float(np.median(optimal[worth] / values[worth])) if worth.any() else float("nan"),
                "n_ratio": int(worth.sum()),
                "share_below": float((optimal[known] <= values[known] + SLACK).mean()),
                "rank_correlation": _spearman(optimal[known], values[known]) if ranked else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def _spearman(ours: np.ndarray, theirs: np.ndarray) -> float:
    found: object = spearmanr(ours, theirs)
    return float(getattr(found, "statistic"))  # noqa: B009 - its type is not declared
