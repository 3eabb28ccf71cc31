"""The component table: against masked runs by hand; learnt constants against a grid; bounds by construction."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from circuitgraph import compile_model, load_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.constants import constants_of_values
from pruning import component_table, load_task
from pruning.components.learning import learn_each_constant, losses_of_constants
from pruning.components.samples import Samples
from pruning.components.table import component_summary
from pruning.frozen.constants import mean_constants


def program(name: str, n: int = 32):
    loaded = load_model(f"tracr:{name}")
    pairs = load_task(f"tracr-{name}", loaded.tokenizer).split("train")
    chosen = np.random.default_rng(0).permutation(len(pairs))[:n]
    return compile_model(loaded, embeddings="split", verify=False), pairs.subset(chosen)


@pytest.fixture(scope="module")
def induction():
    loaded = load_model("induction-neox")
    sizes = {"train": 6, "validation": 0, "test": 3}
    return compile_model(loaded, verify=False), load_task("induction", loaded.tokenizer, sizes=sizes)


def masked_kl(compiled, pairs, prompt: int, writer: str, values) -> float:
    """KL(full ‖ full model without a writer) of one prompt, by the masked pass."""
    writers, _ = compiled.universe.endpoints(np.arange(compiled.universe.n_edges))
    gates = torch.from_numpy(writers != compiled.universe.writers.index(writer)).float()
    batch = pairs.batch([prompt]).clean
    with torch.no_grad():
        ours = compiled.masked(gates, batch, values).logits.double().log_softmax(-1)
        full = compiled.logits(batch).double().log_softmax(-1)
    return float((full.exp() * (full - ours)).sum(-1).mean())


def test_each_ablation_is_that_of_masked_runs(induction) -> None:
    compiled, task = induction
    train, test = task.split("train"), task.split("test")
    names = ["input", "m0", "a1.h2"]
    found = component_table(compiled, train, test=test, writers=names, steps=2, starts=1, batch_size=3)
    batch = train.batch(range(len(train))).clean
    constants = {
        "zero": compiled.ablation_values("zero"), "mean": compiled.ablation_values("mean", [batch]),
        "optimal": found.constants,
    }  # fmt: skip
    for frame, pairs in ((found.train, train), (found.test, test)):
        rows = frame.set_index("writer")
        assert rows.index.tolist() == names
        for writer in names:
            by_prompt = {
                name: [masked_kl(compiled, pairs, prompt, writer, values) for prompt in range(len(pairs))]
                for name, values in constants.items()
            }
            by_prompt["counterfactual"] = [
                masked_kl(compiled, pairs, prompt, writer, compiled.run_with_values(pairs.batch([prompt]).corrupted)[1])
                for prompt in range(len(pairs))
            ]
            for name, values in by_prompt.items():
                assert rows.loc[writer, name] == pytest.approx(np.mean(values), abs=2e-4, rel=1e-3), (writer, name)
                assert rows.loc[writer, f"{name}_sd"] == pytest.approx(np.std(values), abs=2e-4, rel=1e-3)
    assert found.train["resample"].notna().all() and found.measure == "kl"


def test_on_the_training_prompts_optimal_is_never_worse_than_zero_and_mean(induction) -> None:
    compiled, task = induction
    for steps, starts in ((0, 0), (6, 3)):
        rows = component_table(compiled, task.split("train"), steps=steps, starts=starts).train
        assert len(rows) == compiled.universe.n_writers
        # The same sums in another order: rounding alone.
        assert (rows["optimal"] <= rows[["zero", "mean"]].min(axis=1) + 1e-6).all()
        assert set(rows["kept"]) <= ({"zero", "mean"} if not steps else {"zero", "mean", "said", "learnt"})
    assert (rows["optimal"] < rows[["zero", "mean"]].min(axis=1) - 1e-3).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "writers"),
    [("frac-prevs", ("a0.h0", "m0", "a1.h0", "m1")), ("length", ("a0.h0",)), ("reverse", ("a0.h0",))],
)
def test_learnt_constants_are_the_best_of_a_grid(name: str, writers: tuple[str, ...]) -> None:
    """Writers of compiled programs whose outputs vary in one number at most: brute force over that number."""
    compiled, pairs = program(name)
    samples = Samples(compiled, writers)
    learnt = learn_each_constant(samples, pairs, steps=40, batch_size=48, starts=16)
    best = np.min(list(learnt.losses.values()), axis=0)
    mean = constants_of_values(compiled.runnable, mean_constants(compiled, pairs))
    varied = 0
    for place, writer in enumerate(writers):
        one, index = Samples(compiled, [writer]), compiled.universe.writers.index(writer)
        said = [one.said_by(compiled.run_with_values(pairs.batch([p]).clean)[1], index) for p in range(len(pairs))]
        said = torch.cat([value.flatten(0, -2) for value in said])
        (varies,) = (said.std(0) > 1e-5).nonzero(as_tuple=True)
        assert len(varies) <= 1
        grid = {"mean": mean}
        for at in varies.tolist():
            low, high = float(said[:, at].min()), float(said[:, at].max())
            for value in np.linspace(low - (high - low) / 2, high + (high - low) / 2, 81):
                grid[f"{value}"] = mean.clone()
                grid[f"{value}"][one.where[index].start + at] = value
            varied += 1
        losses = losses_of_constants(one, pairs, grid, batch_size=48)
        assert best[place] == pytest.approx(min(float(loss[0]) for loss in losses.values()), abs=1e-3), writer
    assert varied


def test_of_squared_errors_the_best_constant_is_worked_out(induction) -> None:
    """frac-prevs puts out what a1.h0 says: the best constant's error is the mean variance of the answers."""
    compiled, pairs = program("frac-prevs")
    found = component_table(compiled, pairs, writers=["a1.h0"], batch_size=48)
    answers = [np.asarray(values, dtype=float) for values in pairs.answer_values]
    least = min(
        float(np.mean([np.mean((values - constant) ** 2) for values in answers]))
        for constant in np.linspace(0, 1, 1001)
    )
    assert found.measure == "mse" and found.train["optimal"][0] == pytest.approx(least, abs=1e-4)


def test_the_summary_by_hand() -> None:
    columns = {"optimal": [0.1, 0.2, 0.0], "zero": [0.4, 0.25, 0.0], "mean": [0.2, 0.1, 0.0]}
    table = pd.DataFrame(columns).assign(
        mean_positional=np.nan, resample=[0.1, 0.2, 0.3], counterfactual=[0.3, 0.2, 0.1]
    )
    rows = component_summary(table).set_index("ablation")
    assert rows.index.tolist() == ["zero", "mean", "resample", "counterfactual"]
    assert rows.loc["zero", "median_ratio"] == pytest.approx((0.25 + 0.8) / 2) and rows.loc["zero", "n_ratio"] == 2
    assert rows.loc["mean", "share_below"] == pytest.approx(2 / 3)
    assert rows.loc["resample", "rank_correlation"] == pytest.approx(-0.5)
    assert rows.loc["counterfactual", "rank_correlation"] == pytest.approx(0.5)


def test_refused(induction) -> None:
    compiled, task = induction
    pairs = task.split("train")
    with pytest.raises(UnknownNameError, match=r"a1\.h3"):
        component_table(compiled, pairs, writers=["a1.h4"])
    with pytest.raises(ConfigurationError, match="no writers"):
        component_table(compiled, pairs, writers=[])
    with pytest.raises(ConfigurationError, match="got none"):
        component_table(compiled, pairs.subset([]))
    for wrong in ({"steps": -1}, {"starts": -1}, {"rate": 0.0}, {"batch_size": 0}):
        with pytest.raises(ConfigurationError, match="steps"):
            component_table(compiled, pairs, writers=["m0"], **wrong)
    assert list(itertools.chain(*(group.writers for group in Samples(compiled).groups))) == list(range(11))
