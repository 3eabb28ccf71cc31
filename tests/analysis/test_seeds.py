"""Frequencies and consensus by counting names, stability by hand and by simulation, intervals against scipy."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, t

from analysis import consensus, inclusion_frequency, seed_intervals, stability_table
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.node_names import node_layer
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=3, n_heads=3, n_kv_heads=3)
TINY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)


def noisy_circuits(n: int, seed: int = 0, *, agreement: float = 0.8) -> list[Circuit]:
    """Circuits that each flip a fifth or so of what one random set of edges says."""
    rng = np.random.default_rng(seed)
    core = rng.random(UNIVERSE.n_edges) < 0.4
    flips = [rng.random(UNIVERSE.n_edges) > agreement for _ in range(n)]
    return [Circuit.from_edges(UNIVERSE, core ^ flip, scores=rng.normal(size=UNIVERSE.n_edges)) for flip in flips]


def value(table: pd.DataFrame, measure: str, column: str = "value") -> float:
    return table.set_index("measure").loc[measure, column]


class TestFrequency:
    def test_as_counted_by_name(self):
        circuits = noisy_circuits(5)
        table = inclusion_frequency(circuits)
        counts = Counter(name for circuit in circuits for name in circuit)
        assert dict(zip(table["edge"], table["count"], strict=True)) == counts
        assert np.array_equal(table["frequency"], table["count"] / 5)
        assert table["count"].is_monotonic_decreasing
        scores = [dict(zip(circuit, circuit.scores, strict=True)) for circuit in circuits]
        for row in table.head(40).to_dict("records"):
            assert row["edge"] == f"{row['writer']}->{row['reader']}"
            assert row["mean_score"] == pytest.approx(np.mean([s[row["edge"]] for s in scores if row["edge"] in s]))
            layers = node_layer(row["writer"]), node_layer(row["reader"])
            assert row["writer_layer"] == (-1 if layers[0] is None else layers[0])
            assert row["reader_layer"] == (3 if layers[1] is None else layers[1])

    def test_empty_circuits_have_an_empty_table_with_its_columns(self):
        empty = inclusion_frequency([Circuit.from_edges(TINY, [])])
        full = inclusion_frequency([Circuit.from_edges(TINY, ["input->logits"])])
        assert len(empty) == 0 and empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()


class TestConsensus:
    @pytest.mark.parametrize(("threshold", "enough"), [(1.0, 3), (2 / 3, 2), (0.5, 2), (1 / 3, 1), (1e-6, 1)])
    def test_edges_in_enough_circuits(self, threshold, enough):
        circuits = noisy_circuits(3)
        found = consensus(circuits, threshold=threshold)
        counts = Counter(name for circuit in circuits for name in circuit)
        wanted = {name: count / 3 for name, count in counts.items() if count >= enough}
        assert found == Circuit.from_edges(UNIVERSE, sorted(wanted)) and found.n_raw == len(wanted)
        assert dict(zip(found, found.scores.tolist(), strict=True)) == {name: wanted[name] for name in found}

    def test_it_tells_of_its_parents(self):
        circuits = noisy_circuits(2)
        found = consensus({"a": circuits[0], "b": circuits[1]}, threshold=0.75).provenance
        assert found["operation"] == "consensus" and found["threshold"] == 0.75
        assert found["parents"] == [circuit.digest for circuit in circuits]

    @pytest.mark.parametrize("threshold", [0, -1, 1.01])
    def test_bad_thresholds(self, threshold):
        for function in (consensus, stability_table):
            with pytest.raises(ConfigurationError, match="more than 0 and at most 1"):
                function(noisy_circuits(2), threshold=threshold)


class TestStability:
    def test_mean_pairwise_iou_and_its_jackknife(self):
        circuits = noisy_circuits(4)
        sets = [set(circuit) for circuit in circuits]

        def mean_iou(members):
            return np.mean([len(a & b) / len(a | b) for a, b in combinations(members, 2)])

        table = stability_table(circuits, confidence=0.9)
        assert value(table, "mean_pairwise_iou") == pytest.approx(mean_iou(sets))
        without = [mean_iou(sets[:place] + sets[place + 1 :]) for place in range(4)]
        error = math.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))
        low, high = t.interval(0.9, 3, loc=mean_iou(sets), scale=error)
        assert value(table, "mean_pairwise_iou", "low") == pytest.approx(low)
        assert value(table, "mean_pairwise_iou", "high") == pytest.approx(high)

    def test_chance_corrected_by_hand(self):
        x, y = ["input->logits"], ["input->m0", "m0->logits"]
        circuits = [Circuit.from_edges(TINY, names) for names in (x + y, x + y, x)]
        # Circuits of 3, 3 and 1 edges: variances 0, 1/3 and 1/3 over 8 edges, density 7/24.
        wanted = 1 - (2 / 3 / 8) / (7 / 24 * 17 / 24)
        assert value(stability_table(circuits), "chance_corrected") == pytest.approx(wanted)

    def test_random_sets_agree_no_more_than_chance(self):
        rng, values = np.random.default_rng(0), []
        universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        for _ in range(60):
            # All but a few edges: hardly anything dangles, so that the sets stay random.
            kept = [rng.permutation(universe.n_edges)[: universe.n_edges - 8] for _ in range(3)]
            circuits = [Circuit.from_edges(universe, edges, ablation="zero") for edges in kept]
            values.append(value(stability_table(circuits), "chance_corrected"))
        assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / math.sqrt(60))
        assert value(stability_table(noisy_circuits(4, agreement=1)), "chance_corrected") == pytest.approx(1)

    def test_intervals_hold_the_truth_about_as_often_as_they_say(self):
        truth = np.mean([value(stability_table(noisy_circuits(30, seed=0)), "mean_pairwise_iou")])
        inside = 0
        for trial in range(60):
            rng = np.random.default_rng(trial)
            # Always the same core, so that every trial estimates the same thing.
            core = np.random.default_rng(0).random(UNIVERSE.n_edges) < 0.4
            masks = [core ^ (rng.random(UNIVERSE.n_edges) > 0.8) for _ in range(6)]
            table = stability_table([Circuit.from_edges(UNIVERSE, mask) for mask in masks])
            inside += value(table, "mean_pairwise_iou", "low") <= truth <= value(table, "mean_pairwise_iou", "high")
        assert inside >= 51

    def test_leaving_one_out_by_hand(self):
        x, y = ["input->logits"], ["input->m0", "m0->logits"]
        table = stability_table([Circuit.from_edges(TINY, names) for names in (x + y, x + y, x)], threshold=0.6)
        # All: x and y. Without a y-circuit y is in one of two: x alone remains, 1 of 3 edges. Without the third: all.
        assert value(table, "consensus_edges") == 3
        assert value(table, "consensus_iou_without_one") == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
        assert value(table, "consensus_iou_without_one_worst") == pytest.approx(1 / 3)

    def test_what_is_not_defined_says_why(self):
        two = stability_table(noisy_circuits(2))
        assert two["low"].isna().all() and (two["note"] != "").all()
        assert two["note"].iloc[0] == "an interval needs three circuits" and two["value"].notna().all()
        empty = stability_table([Circuit.from_edges(TINY, [])] * 3).set_index("measure")
        assert empty.loc["mean_pairwise_iou", "value"] is pd.NA and empty.loc["consensus_edges", "value"] == 0
        assert empty.loc["chance_corrected", "value"] is pd.NA
        assert empty.loc["chance_corrected", "note"].startswith("not defined")
        mixed = stability_table([Circuit.from_edges(TINY, n) for n in ([], [], ["input->logits"])]).set_index("measure")
        assert mixed.loc["chance_corrected", "note"] == "not defined without one circuit"

    def test_bad_input(self):
        with pytest.raises(ConfigurationError, match="at least 2 circuits; got 1"):
            stability_table(noisy_circuits(1))
        mixed = [Circuit.from_edges(TINY, []), noisy_circuits(1)[0]]
        for function in (stability_table, inclusion_frequency, consensus):
            with pytest.raises(GraphMismatchError, match="n_layers: 1 against 3"):
                function(mixed)


class TestSeedIntervals:
    def test_as_students_interval(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(
            {"task": list("aaabb"), "seed": [0, 1, 2, 0, 1], "kl": rng.random(5), "accuracy": rng.random(5)}
        )
        found = seed_intervals(table, ["kl", "accuracy"], by="task", confidence=0.9).set_index(["task", "measure"])
        assert found.index.tolist() == [("a", "kl"), ("a", "accuracy"), ("b", "kl"), ("b", "accuracy")]
        for (task, measure), row in found.iterrows():
            values = table.loc[table["task"] == task, measure].to_numpy()
            low, high = t.interval(0.9, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(len(values)))
            assert [row["n"], row["mean"], row["sd"]] == pytest.approx([len(values), values.mean(), values.std(ddof=1)])
            assert [row["low"], row["high"]] == pytest.approx([low, high])

    def test_near_the_bootstrap_for_many_seeds(self):
        values = np.random.default_rng(0).normal(size=400)
        row = seed_intervals(pd.DataFrame({"kl": values}), "kl").iloc[0]
        other = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
        assert [row["low"], row["high"]] == pytest.approx([other.low, other.high], abs=0.01)

    def test_one_seed_has_no_interval(self):
        row = seed_intervals(pd.DataFrame({"kl": [0.25]}), "kl").iloc[0]
        assert row["mean"] == 0.25 and row["n"] == 1
        assert row[["sd", "low", "high"]].isna().all()

    @pytest.mark.parametrize(
        ("table", "options", "error", "says"),
        [
            ({"kl": [1.0]}, {"values": "k1"}, UnknownNameError, "did you mean 'kl'"),
            ({"kl": [1.0]}, {"values": "kl", "by": "task"}, UnknownNameError, "unknown column 'task'"),
            ({"kl": [1.0, None]}, {"values": "kl"}, ConfigurationError, "'kl', row 1: expected a finite number"),
            ({"kl": ["x"]}, {"values": "kl"}, ConfigurationError, "'kl': expected numbers"),
            ({"kl": []}, {"values": "kl"}, ConfigurationError, "the table is empty"),
            ({"kl": [1.0]}, {"values": "kl", "confidence": 95}, ConfigurationError, "less than 1; got 95"),
        ],
    )
    def test_bad_input(self, table, options, error, says):
        with pytest.raises(error, match=says):
            seed_intervals(pd.DataFrame(table), **options)
