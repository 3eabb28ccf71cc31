"""Overlap tables against Python sets of names and scipy; tests against sums over names; families; matrices."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy.stats import false_discovery_control, kendalltau, spearmanr

from analysis.overlap.families import adjust_p_values
from analysis.overlap.hypergeometric import hypergeometric_tails
from analysis.overlap.levels import LEVELS
from analysis.overlap.matrices import cluster, overlap_matrix
from analysis.overlap.stratified import stratified_tails
from analysis.overlap.tables import NULLS, overlap_table, overlap_tests
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.universe import Universe
from tests.analysis.random_circuits import crowded_circuit
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges

TINY = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)


def pair_of(case: Kept) -> tuple[Circuit, Circuit]:
    rng = np.random.default_rng(case.seed + 1)
    n = case.universe.n_edges
    other = np.where(rng.random(n) < 0.5, case.mask, rng.random(n) < 0.3)
    return tuple(Circuit.from_edges(case.universe, kept, scores=rng.normal(size=n)) for kept in (case.mask, other))


def slow_items(circuit: Circuit, level: str) -> set[object]:
    if level == "edges":
        return set(circuit)
    if level == "nodes":
        return set(circuit.nodes)
    if level == "heads":
        return set(circuit.heads)
    return {node_layer(name) for name in (*circuit.heads, *circuit.mlps)}


def slow_universe(universe: Universe, level: str) -> set[object]:
    graph = build_graph(universe)
    if level == "edges":
        return {f"{u}->{v}" for u, v, mask in graph.edges(data="mask") if mask is not None}
    if level == "nodes":
        return set(graph)
    if level == "heads":
        return {name for name in graph if node_kind(name) == "head"}
    return set(range(universe.n_layers))


def stratum_of(item: object, level: str) -> object:
    """Layer and kind of a node or head, or of both ends of an edge, from its name."""
    ends = str(item).split("->")
    if level == "heads":
        return node_layer(str(item))
    return tuple((node_layer(end), node_kind(end)) for end in ends)


class TestOverlapTable:
    @settings(parent=STEADY, max_examples=40)
    @given(case=kept_edges())
    def test_as_sets_of_names_have_it(self, case):
        a, b = pair_of(case)
        table = overlap_table({"a": a, "b": b}).set_index("level")
        assert table.index.tolist() == list(LEVELS)
        for level, row in table.iterrows():
            of_a, of_b = slow_items(a, str(level)), slow_items(b, str(level))
            shared, union = len(of_a & of_b), len(of_a | of_b)
            counts = row[["n_a", "n_b", "n_universe", "intersection", "union"]].tolist()
            assert counts == [len(of_a), len(of_b), len(slow_universe(case.universe, str(level))), shared, union]
            assert row["iou"] == (shared / union if union else 1)
            smaller = min(len(of_a), len(of_b))
            assert row["overlap_coefficient"] == (shared / smaller if smaller else 1)
            assert row["a_in_b"] == (shared / len(of_a) if of_a else 1)
            assert row["b_in_a"] == (shared / len(of_b) if of_b else 1)

    @settings(parent=STEADY, max_examples=30)
    @given(case=kept_edges())
    def test_rank_correlations_are_scipys(self, case):
        a, b = pair_of(case)
        row = overlap_table([a, b], levels=["edges"]).iloc[0]
        of_a, of_b = (dict(zip(circuit, circuit.scores, strict=True)) for circuit in (a, b))
        shared = sorted(set(of_a) & set(of_b))
        if len(shared) < 2:
            assert row["spearman"] is pd.NA and row["kendall"] is pd.NA
            assert row["rank_note"] == "fewer than two shared edges"
            return
        scores = [of_a[name] for name in shared], [of_b[name] for name in shared]
        assert row["spearman"] == pytest.approx(spearmanr(*scores).statistic)
        assert row["kendall"] == pytest.approx(kendalltau(*scores).statistic)
        assert row["rank_note"] == ""

    def test_rank_correlation_of_ties_by_hand(self):
        names = ["input->m0", "input->logits", "m0->logits"]
        a = Circuit.from_edges(TINY, dict(zip(names, [1.0, 2.0, 3.0], strict=True)))
        b = Circuit.from_edges(TINY, dict(zip(names, [1.0, 1.0, 5.0], strict=True)))
        row = overlap_table([a, b], levels=["edges"]).iloc[0]
        # Two of three pairs concordant, one tied in b: tau-b = 2 / sqrt(3 * 2); ranks 1 2 3 and 1.5 1.5 3.
        assert row["kendall"] == pytest.approx(2 / math.sqrt(6))
        assert row["spearman"] == pytest.approx(1.5 / math.sqrt(2 * 1.5))
        equal = Circuit.from_edges(TINY, names)
        note = overlap_table([a, equal], levels=["edges"])["rank_note"].item()
        assert note == "all shared edges have the same score in b"

    def test_dtypes_and_pairs(self):
        circuits = {name: Circuit.from_edges(TINY, ["input->logits"]) for name in "xyz"}
        table = overlap_table(circuits, levels=["heads", "edges"])
        assert list(zip(table["a"], table["b"], table["level"], strict=True)) == [
            (a, b, level) for a, b in combinations("xyz", 2) for level in ("heads", "edges")
        ]
        dtypes = table.dtypes.astype(str)
        assert set(dtypes[["n_a", "n_b", "n_universe", "intersection", "union"]]) == {"int64"}
        assert set(dtypes[["iou", "overlap_coefficient", "a_in_b", "b_in_a"]]) == {"float64"}
        assert set(dtypes[["spearman", "kendall"]]) == {"Float64"}

    def test_empty_circuits_have_defined_values(self):
        empty, full = Circuit.from_edges(TINY, []), Circuit.from_edges(TINY, np.arange(TINY.n_edges))
        shares = ["iou", "overlap_coefficient", "a_in_b", "b_in_a"]
        both = overlap_table([empty, empty])
        assert (both[shares] == 1).all(axis=None) and (both[["intersection", "union"]] == 0).all(axis=None)
        one = overlap_table([empty, full])
        assert one[shares].drop_duplicates().to_numpy().tolist() == [[0, 1, 1, 0]]
        tests = overlap_tests([empty, full], nulls=NULLS, alternative="two-sided", n_samples=9)
        assert tests[["observed", "expected", "sd", "ratio", "p", "log10_p"]].drop_duplicates().to_numpy().tolist() == [
            [0, 0, 0, 1, 1, 0]
        ]


class TestOverlapTests:
    @settings(parent=STEADY, max_examples=15)
    @given(case=kept_edges())
    def test_expectations_are_sums_over_names(self, case):
        a, b = pair_of(case)
        for level in ("edges", "nodes", "heads"):
            of_a, of_b = slow_items(a, level), slow_items(b, level)
            everything = slow_universe(case.universe, level)
            table = overlap_tests([a, b], level=level).set_index("null")
            x = len(of_a & of_b)
            assert (table["observed"] == x).all()
            whole = hypergeometric_tails(x, len(everything), len(of_a), len(of_b))
            assert table.loc["hypergeometric", "p"] == whole.p()
            assert table.loc["hypergeometric", "expected"] == len(of_a) * len(of_b) / len(everything)
            sizes, n_a, n_b = (Counter(stratum_of(item, level) for item in some) for some in (everything, of_a, of_b))
            expected = sum(n_a[s] * n_b[s] / sizes[s] for s in sizes)
            assert table.loc["stratified", "expected"] == pytest.approx(expected)
            by_stratum = np.array([[sizes[s], n_a[s], n_b[s]] for s in sizes]).T
            tails = stratified_tails(x, *by_stratum)
            for alternative in ("greater", "less", "two-sided"):
                found = overlap_tests([a, b], level=level, nulls=["stratified"], alternative=alternative).iloc[0]
                assert found["log10_p"] == pytest.approx(tails.log10_p(alternative), abs=1e-9)
                assert found["mid_p"] == pytest.approx(tails.mid_p(alternative))

    def test_layers(self):
        a = Circuit.from_edges(
            Universe(family="gpt2", n_layers=4, n_heads=1, n_kv_heads=1), ["input->m1", "m1->logits"]
        )
        row = overlap_tests([a, a], level="layers", nulls=["hypergeometric"]).iloc[0]
        assert (row["observed"], row["expected"], row["p"]) == (1, 0.25, pytest.approx(0.25))

    def test_sampled_rows_say_so(self):
        a, b = crowded_circuit(200, seed=0), crowded_circuit(200, seed=1)
        table = overlap_tests({"a": a, "b": b}, nulls=NULLS, n_samples=49, rounds=3, seed=3).set_index("null")
        assert table.index.tolist() == list(NULLS)
        assert table["n_samples"].isna().tolist() == [True, True, False]
        sampled = table.loc["degree-preserving"]
        assert table["at_floor"].tolist()[:2] == [False, False]
        assert sampled["at_floor"] == (sampled["p"] == pytest.approx(1 / 50))
        assert sampled["n_samples"] == 49 and (sampled["p"] * 50) % 1 == pytest.approx(0, abs=1e-9)
        assert sampled["log10_p"] == pytest.approx(math.log10(sampled["p"]))
        # Hubs are shared by construction: degrees explain what the universe alone does not.
        assert table.loc["hypergeometric", "ratio"] > table.loc["degree-preserving", "ratio"]

    def test_tiny_p_values_keep_their_logarithm(self):
        circuit = crowded_circuit(2000)
        row = overlap_tests([circuit, circuit], nulls=["hypergeometric"]).iloc[0]
        assert row["p"] == 0 and row["log10_p"] < -3000 and math.isfinite(row["log10_p"])

    @pytest.mark.parametrize(
        ("wrong", "error", "says"),
        [
            ({"level": "edge"}, UnknownNameError, "did you mean 'edges'"),
            ({"nulls": ["hypergeometrc"]}, UnknownNameError, "did you mean 'hypergeometric'"),
            ({"alternative": "more"}, UnknownNameError, "unknown alternative 'more'"),
            ({"level": "layers"}, ConfigurationError, "says nothing about layers"),
            ({"level": "nodes", "nulls": ["degree-preserving"]}, ConfigurationError, "keeping degrees keeps the nodes"),
        ],
    )
    def test_bad_input(self, wrong, error, says):
        circuit = Circuit.from_edges(TINY, ["input->logits"])
        with pytest.raises(error, match=says):
            overlap_tests([circuit, circuit], **wrong)
        with pytest.raises(ConfigurationError, match="at least 2 circuits; got 1"):
            overlap_tests([circuit])


class TestComparable:
    def test_other_granularity_names_the_function_that_maps(self):
        fields = {"family": "llama", "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
        native = Circuit.from_edges(Universe(**fields), ["input->logits"])
        finer = Circuit.from_edges(Universe(**fields, kv_heads="per_query"), ["input->logits"])
        says = r"native and finer .* universes: kv_heads: 'native' against 'per_query'.* analysis\.coarsen"
        for function in (overlap_table, overlap_tests, overlap_matrix):
            with pytest.raises(GraphMismatchError, match=says):
                function({"native": native, "finer": finer})

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("n_layers", 3, "n_layers: 2 against 3.*differ in n_layers"),
            ("family", "qwen2", "family: 'llama' against 'qwen2'.*differ in family"),
            ("block_order", "parallel", "'sequential' against 'parallel'.*order of its blocks"),
        ],
    )
    def test_other_architectures_have_no_edge_in_common(self, field, value, says):
        fields = {"family": "llama", "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
        one, other = (Circuit.from_edges(Universe(**f), ["input->logits"]) for f in (fields, {**fields, field: value}))
        with pytest.raises(GraphMismatchError, match=says):
            overlap_table([one, other], across_checkpoints=True)

    @pytest.mark.parametrize(
        ("mine", "theirs", "says"),
        [
            ({"model": "a"}, {"model": "b"}, "model: 'a' against 'b'"),
            ({"model": "a", "revision": "1"}, {"model": "a", "revision": "2"}, "revision: '1' against '2'"),
            ({"config_hash": "1", "revision": "1"}, {"config_hash": "2", "revision": "1"}, "config_hash: '1' against"),
            ({"model": "a"}, {"model": "b", "revision": "1"}, "model: 'a' against 'b'"),
            # The same weights under two names, and circuits that do not say.
            ({"model": "a", "revision": "1"}, {"model": "b", "revision": "1"}, None),
            ({"model": "a"}, {}, None),
            # Weights decide where they can be compared, over names and revisions.
            (
                {"model": "a", "weights": "1", "dtype": "float32"},
                {"model": "a", "weights": "2", "dtype": "float32"},
                "weights: '1' against '2'",
            ),
            (
                {"model": "a", "revision": "1", "weights": "1", "dtype": "float32"},
                {"model": "b", "revision": "2", "weights": "1", "dtype": "float32"},
                None,
            ),
            (
                {"model": "a", "weights": "1", "dtype": "float32"},
                {"model": "a", "weights": "2", "dtype": "bfloat16"},
                None,
            ),
            ({"model": "a", "weights": "1", "dtype": "float32"}, {"model": "b", "dtype": "float32"}, "model: 'a'"),
        ],
    )
    def test_other_models_need_to_be_allowed(self, mine, theirs, says):
        circuits = [Circuit.from_edges(TINY, ["input->logits"], provenance=p) for p in (mine, theirs)]
        assert overlap_table(circuits, levels=["edges"], across_checkpoints=True)["intersection"].item() == 1
        if says is None:
            assert overlap_table(circuits, levels=["edges"])["intersection"].item() == 1
        else:
            with pytest.raises(GraphMismatchError, match=f"different models: {says}.*across_checkpoints=True"):
                overlap_table(circuits, levels=["edges"])


class TestFamilies:
    def test_holm_by_hand(self):
        table = pd.DataFrame({"log10_p": np.log10([0.01, 0.04, 0.03, 0.005])})
        # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1 lifted to 0.06.
        assert adjust_p_values(table)["p_adjusted"].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert adjust_p_values(pd.DataFrame({"log10_p": np.log10([0.6, 0.7])}))["p_adjusted"].tolist() == [1, 1]

    def test_benjamini_hochberg_is_scipys(self):
        rng = np.random.default_rng(0)
        for n in (1, 2, 20):
            p = rng.random(n) ** 3
            found = adjust_p_values(pd.DataFrame({"log10_p": np.log10(p)}), method="benjamini-hochberg")
            assert found["p_adjusted"].to_numpy() == pytest.approx(false_discovery_control(p))

    @pytest.mark.parametrize("method", ["holm", "benjamini-hochberg"])
    def test_tiny_ones_stay_apart(self, method):
        found = adjust_p_values(pd.DataFrame({"log10_p": [-1000.0, -2000.0]}), method=method)
        assert found["log10_p_adjusted"].tolist() == pytest.approx([-1000, -2000 + math.log10(2)], abs=1e-9)

    def test_families_apart(self):
        table = pd.DataFrame({"null": ["x", "y", "x"], "log10_p": [-2.0, -2.0, -3.0]}, index=[7, 7, 9])
        found = adjust_p_values(table, by="null")
        assert found["family_size"].tolist() == [2, 1, 2] and found.index.tolist() == [7, 7, 9]
        assert found["p_adjusted"].tolist() == pytest.approx([0.01, 0.01, 0.002])
        assert "p_adjusted" not in table

    def test_false_rejections_are_rare(self):
        rng, n = np.random.default_rng(0), 1000
        table = pd.DataFrame({"family": np.repeat(np.arange(n), 5), "log10_p": np.log10(rng.random(5 * n))})
        any_rejected = adjust_p_values(table, by="family").groupby("family")["p_adjusted"].min() <= 0.1
        assert any_rejected.mean() <= 0.1 + 3 * math.sqrt(0.09 / n)
        assert any_rejected.mean() > 0.05

    @pytest.mark.parametrize(
        ("table", "options", "says"),
        [
            ({"log10_p": [-1.0]}, {"method": "holms"}, "did you mean 'holm'"),
            ({"p": [0.1]}, {}, "unknown column 'log10_p'"),
            ({"log10_p": [-1.0]}, {"by": "null"}, "unknown column 'null'"),
            ({"log10_p": [-1.0, 0.5]}, {}, "row 1: expected at most 0; got 0.5"),
            ({"log10_p": [np.nan]}, {}, "row 0: expected at most 0; got nan"),
            ({"log10_p": []}, {}, "the table is empty"),
        ],
    )
    def test_bad_input(self, table, options, says):
        with pytest.raises(ValueError, match=says):
            adjust_p_values(pd.DataFrame(table), **options)


class TestMatrices:
    @pytest.mark.parametrize("measure", ["intersection", "iou", "overlap_coefficient", "containment", "spearman"])
    def test_entries_are_those_of_the_table(self, measure):
        rng = np.random.default_rng(0)
        universe = Universe(family="gpt2", n_layers=3, n_heads=3, n_kv_heads=3)
        n = universe.n_edges
        circuits = {
            name: Circuit.from_edges(universe, rng.random(n) < 0.5, scores=rng.normal(size=n)) for name in "abc"
        }
        matrix = overlap_matrix(circuits, measure=measure)
        assert matrix.index.tolist() == matrix.columns.tolist() == ["a", "b", "c"]
        for a, b in [(a, b) for a in "abc" for b in "abc"]:
            if a == b:
                wanted = len(circuits[a]) if measure == "intersection" else 1
            else:
                row = overlap_table({a: circuits[a], b: circuits[b]}, levels=["edges"]).iloc[0]
                wanted = row["a_in_b" if measure == "containment" else measure]
            assert matrix.loc[a, b] == pytest.approx(wanted)

    def test_undefined_correlations_are_missing(self):
        a, b = (Circuit.from_edges(TINY, {edge: 2.0}) for edge in ("input->logits", "input->logits"))
        matrix = overlap_matrix({"a": a, "b": b}, measure="spearman")
        assert matrix.isna().all(axis=None)
        with pytest.raises(ConfigurationError, match="the similarity of a and a is missing"):
            cluster(matrix)

    def test_clusters_put_likes_together(self):
        circuits = {f"{group}{seed}": crowded_circuit(300, seed=group) for seed in (0, 1) for group in (0, 1, 2)}
        noisy = {}
        for place, (name, circuit) in enumerate(circuits.items()):
            kept = np.random.default_rng(place).random(len(circuit)) < 0.9
            noisy[name] = Circuit.from_edges(circuit.universe, circuit.edge_ids[kept])
        found = cluster(overlap_matrix(noisy))
        assert sorted(found.names) == sorted(noisy)
        assert all(found.names[place][0] == found.names[place + 1][0] for place in (0, 2, 4))
        assert found.matrix.index.tolist() == found.matrix.columns.tolist() == list(found.names)
        assert found.linkage.shape == (5, 4)

    def test_average_linkage_by_hand(self):
        names = ["a", "b", "c"]
        similar = pd.DataFrame([[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]], index=names, columns=names)
        tree = cluster(similar).linkage
        assert tree[:, 2].tolist() == pytest.approx([0.2, (0.9 + 0.8) / 2])
        assert cluster(similar, method="complete").linkage[1, 2] == pytest.approx(0.9)
        assert cluster(similar, method="single").linkage[1, 2] == pytest.approx(0.8)

    def test_one_circuit_and_bad_input(self):
        alone = overlap_matrix(Circuit.from_edges(TINY, ["input->logits"]))
        assert cluster(alone).names == ("circuit 1",)
        with pytest.raises(UnknownNameError, match="unknown measure"):
            overlap_matrix(Circuit.from_edges(TINY, []), measure="jaccard")
        with pytest.raises(UnknownNameError, match="unknown method"):
            cluster(alone, method="ward")
        lopsided = pd.DataFrame([[1, 0.2], [0.4, 1]], index=["a", "b"], columns=["a", "b"])
        with pytest.raises(ConfigurationError, match="expected symmetric similarities"):
            cluster(lopsided)
        with pytest.raises(ConfigurationError, match="same names as index and columns"):
            cluster(lopsided.rename(index={"a": "x"}))
