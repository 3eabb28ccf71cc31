"""Regimes compared: the yardstick and its exchange test, differences, the case study's table, drawings, the report."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from analysis import compare_regimes, write_comparison
from analysis.drawing.membership import membership_to_dot
from analysis.drawing.render import render
from analysis.regimes.case_study import case_study_latex, case_study_markdown, case_study_table
from analysis.regimes.circuits import regime_circuits
from analysis.regimes.differences import edge_differences, module_differences
from analysis.regimes.overlaps import pairwise_overlap, within_and_across
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from tests.analysis.small_circuits import UNIVERSES

UNIVERSE = UNIVERSES["gqa"]
HOSTILE = 'a"b<script>\\_%$&{x}\n|'


def drawn(seed: int, core: np.ndarray) -> Circuit:
    """A core with edges left out and others put in; zero ablation, under which little dangles."""
    rng = np.random.default_rng(seed)
    kept = np.zeros(UNIVERSE.n_edges, dtype=bool)
    kept[core] = True
    flipped = rng.random(UNIVERSE.n_edges) < 0.15
    return Circuit.from_edges(UNIVERSE, kept ^ flipped, ablation="zero", provenance={"seed": seed % 10})


def made(n_seeds: int, names: tuple[str, ...] = ("ask", "show")) -> dict[str, list[Circuit]]:
    rng = np.random.default_rng(7)
    cores = [rng.permutation(UNIVERSE.n_edges)[:40] for _ in names]
    return {
        name: [drawn(10 * place + seed, cores[place]) for seed in range(n_seeds)] for place, name in enumerate(names)
    }


def iou(a: Circuit, b: Circuit) -> float:
    one, other = set(a.edge_ids.tolist()), set(b.edge_ids.tolist())
    return len(one & other) / len(one | other)


def difference(ask: list[Circuit], show: list[Circuit]) -> float:
    """Mean IoU within less across, pairs of different seeds alone, by loops."""
    n, within, across = len(ask), [], []
    for i in range(n):
        for j in range(n):
            if i < j:
                within += [iou(ask[i], ask[j]), iou(show[i], show[j])]
            if i != j:
                across.append(iou(ask[i], show[j]))
    return float(np.mean(within) - np.mean(across))


class TestYardstick:
    @pytest.mark.parametrize("n_seeds", [2, 3, 4])
    def test_against_all_exchanges_by_hand(self, n_seeds):
        circuits = made(n_seeds)
        row = within_and_across(pairwise_overlap(regime_circuits(circuits))).iloc[0]
        found = difference(circuits["ask"], circuits["show"])
        assert row["difference"] == pytest.approx(found)
        assert (row["n_within"], row["n_across"]) == (n_seeds * (n_seeds - 1), n_seeds * (n_seeds - 1))
        reached = []
        for swaps in product([False, True], repeat=n_seeds):
            pairs = list(zip(circuits["ask"], circuits["show"], strict=True))
            ask = [pair[swap] for pair, swap in zip(pairs, swaps, strict=True)]
            show = [pair[not swap] for pair, swap in zip(pairs, swaps, strict=True)]
            reached.append(difference(ask, show) >= found - 1e-12)
        assert row["p"] == pytest.approx(np.mean(reached))
        assert row["smallest_p"] == 1 / 2 ** (n_seeds - 1)
        assert row["across_same_seed"] == pytest.approx(
            np.mean([iou(a, b) for a, b in zip(circuits["ask"], circuits["show"], strict=True)])
        )

    def test_jackknife_over_seeds(self):
        circuits = made(4)
        row = within_and_across(pairwise_overlap(regime_circuits(circuits))).iloc[0]
        value = difference(circuits["ask"], circuits["show"])
        without = [difference(*(one[:seed] + one[seed + 1 :] for one in circuits.values())) for seed in range(4)]
        error = np.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))
        assert row["high"] - value == pytest.approx(3.182446 * error, rel=1e-5)  # Student's t, 3 degrees of freedom

    def test_regimes_alike_are_no_different(self):
        circuits = made(3)
        same = {"one": circuits["ask"], "other": circuits["ask"]}
        row = within_and_across(pairwise_overlap(regime_circuits(same))).iloc[0]
        assert row["difference"] == pytest.approx(0) and row["p"] == 1 and row["across_same_seed"] == 1

    def test_one_seed_says_nothing_of_the_yardstick(self):
        table = within_and_across(pairwise_overlap(regime_circuits(made(1))))
        assert table["within"].isna().all() and table["p"].isna().all()
        assert set(table["note"]) == {"a comparison needs two seeds of at least one regime"}

    def test_seeds_of_their_own_are_dealt_anew(self):
        circuits = made(3)
        given = {"ask": dict(enumerate(circuits["ask"])), "show": dict(enumerate(circuits["show"], 10))}
        row = within_and_across(pairwise_overlap(regime_circuits(given))).iloc[0]
        assert (row["n_within"], row["n_across"]) == (6, 9)
        assert row["smallest_p"] == row["p"] == 1 / 10


class TestDifferences:
    def test_counts_and_fishers_test(self):
        circuits = regime_circuits(made(3))
        table = edge_differences(circuits)
        a, b = (set(circuits.consensus[name].edge_ids.tolist()) for name in ("ask", "show"))
        _, readers = UNIVERSE.endpoints(np.arange(UNIVERSE.n_edges))
        for kind in ("q", "k", "v", "mlp", "logits"):
            here = {edge for edge in range(UNIVERSE.n_edges) if UNIVERSE.reader_kinds[readers[edge]] == kind}
            row = table[(table["by"] == "reader_kind") & (table["stratum"] == kind)].iloc[0]
            x, y = len((a - b) & here), len((b - a) & here)
            assert (row["shared"], row["only_a"], row["only_b"]) == (len(a & b & here), x, y)
            assert row["n_universe"] == len(here)
            # Fisher's two-sided p: all tables with these margins that are at most as likely.
            for name, found, drawn, others in (
                ("leaning_p", x, len(a - b), x + y),
                ("private_p", x + y, len(a ^ b), len((a | b) & here)),
            ):
                law = hypergeom(len(a ^ b) if name == "leaning_p" else len(a | b), drawn, others)
                likelihoods = law.pmf(np.arange(others + 1))
                expected = likelihoods[likelihoods <= law.pmf(found) * (1 + 1e-9)].sum()
                assert row[name] == pytest.approx(expected)
        family = table[table["by"] == "reader_kind"]
        assert (family["leaning_p_adjusted"] >= family["leaning_p"]).all()
        assert family[["shared", "only_a", "only_b"]].to_numpy().sum() == len(a | b)

    def test_modules(self):
        circuits = regime_circuits(made(2))
        table = module_differences(circuits).set_index("module")
        for module, row in table.iterrows():
            for name, by_seed in circuits.by_seed.items():
                uses = [any(edge.startswith(f"{module}->") for edge in circuit) for circuit in by_seed.values()]
                assert row[f"seeds: {name}"] == sum(uses)
        assert table["spread"].is_monotonic_decreasing


def metrics(names: tuple[str, str] = ("ask", "show")) -> pd.DataFrame:
    rows = []
    for regime in names:
        rows.append(("full", "", "", None, regime, 100, 0.0, 1.0))
        for seed, kl in (("0", 0.25), ("1", 0.75)):
            rows.append(("circuit", names[0], seed, None, regime, 10, kl, 0.5))
            for draw in (0, 1):
                rows.append(("random", names[0], seed, draw, regime, 10, 2 * kl + draw, 0.0))
        rows.append(("circuit", names[0], "consensus", None, regime, 12, 0.125, 0.5))
    columns = ["role", "of", "seed", "draw", "regime", "n_edges", "kl", "accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(n_universe=100).astype({"draw": "Int64"})


class TestCaseStudy:
    def test_means_over_seeds_and_draws(self):
        table = case_study_table(metrics()).set_index("circuit")
        assert table.loc["ask", "show: kl"] == 0.5 and table.loc["ask", "percent"] == 10
        assert table.loc["ask", "show: kl sd"] == pytest.approx(np.sqrt(0.125))
        assert table.loc["random, as ask", "ask: kl"] == 1.5  # seeds 1.0 and 2.0, of two draws each
        assert case_study_table(metrics(), over="consensus").set_index("circuit").loc["ask", "edges"] == 12

    def test_exports_escape_names(self):
        table = metrics((HOSTILE, "show"))
        latex, text = case_study_latex(table, caption=HOSTILE), case_study_markdown(table)
        assert r"\_" in latex and r"\textless{}script" in latex and "<script" not in latex
        assert all(line.endswith(r"\\") for line in latex.splitlines() if " & " in line)
        assert {line.count(" | ") for line in text.splitlines()} == {text.splitlines()[0].count(" | ")}
        assert r"0.500 $\pm$ 0.354" in latex and "0.500 ± 0.354" in text


class TestDrawings:
    def test_every_edge_is_drawn_once_in_its_colour(self):
        circuits = regime_circuits(made(1)).consensus
        for side_by_side in (False, True):
            dot = membership_to_dot(circuits, max_edges=10_000, side_by_side=side_by_side)
            a, b = (set(circuit) for circuit in circuits.values())
            for title, edges in (("shared by all", a & b), ("only ask", a - b), ("only show", b - a)):
                assert f"{title}: {len(edges)} edges" in dot
                lines = [line for line in dot.splitlines() if line.rstrip("];").endswith(f'  {title}"')]
                assert {line.partition('tooltip="')[2].partition("  ")[0] for line in lines} == edges
                assert len(lines) == len(edges)

    def test_hostile_names(self):
        circuits = dict(zip((HOSTILE, "<b>"), regime_circuits(made(1)).consensus.values(), strict=True))
        svg = render(membership_to_dot(circuits, max_edges=30, side_by_side=True, title=HOSTILE), "svg")
        root = ElementTree.fromstring(svg)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert "<script>" in "".join(root.itertext())


@pytest.mark.slow
class TestWhole:
    def test_everything_is_written(self, tmp_path):
        found = compare_regimes(made(2), metrics(), n_samples=9)
        assert write_comparison(found, tmp_path / "out") == []
        report = (tmp_path / "out" / "report.md").read_text()
        assert "not a test that was passed" in report and "smallest possible p is 0.5" in report
        for link in report.split("](<")[1:]:
            assert (tmp_path / "out" / link.partition(">)")[0]).stat().st_size > 500
        for name, table in found.tables.items():
            assert len(pd.read_csv(tmp_path / "out" / "tables" / f"{name}.csv")) == len(table)
        assert Circuit.load(tmp_path / "out" / "drawings" / "shared.json") == found.shared

    def test_hostile_regimes(self, tmp_path):
        write_comparison(compare_regimes(made(1, (HOSTILE, "b")), metrics((HOSTILE, "b")), n_samples=0), tmp_path)
        report = (tmp_path / "report.md").read_text()
        assert report.count("<script") == report.count("\\<script") > 0  # Markdown shows an escaped one as it is
        assert report.splitlines()[2].startswith("Circuits of two regimes share on average 0.")

    def test_refusals(self):
        circuits = made(1)
        with pytest.raises(ConfigurationError, match="at least two"):
            compare_regimes({"ask": circuits["ask"]})
        other = Circuit.from_edges(UNIVERSES["mha"], ["input->logits"])
        with pytest.raises(GraphMismatchError, match="ask, seed 0 and show, seed 0"):
            compare_regimes({"ask": circuits["ask"], "show": other})
