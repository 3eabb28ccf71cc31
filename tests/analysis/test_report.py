"""The report and the curve's figure, from plain data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.report import write_report
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import OutputError
from circuitgraph.graph.universe import Universe
from tests.analysis.random_circuits import crowded_circuit, reverse_circuit

HOSTILE = "a|b <script>alert(1)</script> `code` [x](y) \n # heading \ud800"
UNIVERSE = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)


def metrics() -> dict[str, Any]:
    row = {"n": 512, "kl": 0.25, "accuracy": 0.955, "logit_diff": 3.0, "exact_match": 0.91}
    return {
        "splits": {
            "validation": {"circuit": {"n": 64, "kl": 0.125}},
            "test": {
                "circuit": {**row, "agreement_right": 0.5},
                "full": {**row, "kl": 0.0, "exact_match": 1.0},
                "empty": {**row, "kl": 4.5, "logit_diff": None},
                "complement": {**row, "kl": 3.5},
                "random": {**row, "kl": 4.25, "kl_sd": 0.0625},
            },
        },
        "seconds": 801.4,
        "peak_rss_bytes": 3 * 2**30,
    }


def curve(n: int = 300) -> pd.DataFrame:
    step = np.arange(n)
    return pd.DataFrame(
        {
            "step": step,
            "seconds": step * 1.5,
            "loss": 1.0,
            "kl": np.random.default_rng(0).gamma(4, 0.05, n) * (1 + step / 40),
            "sparsity": np.minimum(step / n, 0.97),
            "target": np.minimum(step / n, 1) * 1.02,
            "live_heads": 270 - step // 2,
            "live_mlps": 30,
            "undecided": np.maximum(3, 70_000 - 300 * step),
        }
    )


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def cells(text: str) -> dict[str, list[str]]:
    """Rows of the section's table by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_a_whole_report(tmp_path: Path) -> None:
    scores = {
        "input->a0.kv1<v>": 1.5,
        "a0.h3->m0": -2.0,
        "m0->logits": 0.5,
        "a0.h2->logits": 1.0,
        "a0.h0->m0": 9.0,
    }
    circuit = Circuit.from_edges(
        UNIVERSE,
        scores,
        provenance={"model": "tiny", "task": "ioi", "recipe": {"name": "quick", "steps": 5}, "seed": 7},
    )
    path = write_report(
        tmp_path / "report.md",
        circuit,
        metrics(),
        command="circuitgraph discover --model tiny --task ioi",
        picture=tmp_path / "circuit.png",
        curve_picture=tmp_path / "curve (1).png",
        curve=curve(),
        diagnoses=["target 0.99 not reached: 0.97"],
    )
    text = path.read_text()
    assert text.startswith("# Circuit of tiny for ioi\n")
    assert "The circuit keeps 4 of 19 edges (78.95 % are cut), in 2 heads and 1 MLP." in text
    assert "On the test split (512 prompts): KL (nats) 0.250, accuracy 95.5 %, exact match 91.0 %." in text
    asked = section(text, "What was asked")
    assert "`circuitgraph discover --model tiny --task ioi`" in asked
    assert (cells(asked)["recipe"], cells(asked)["seed"]) == (["quick"], ["7"])
    assert cells(asked)["recipe settings"] == ["steps 5"]
    assert "- target 0.99 not reached: 0.97" in section(text, "Diagnoses")
    size = cells(section(text, "Size"))
    assert size["edges kept (raw)"] == ["5", "19", "73.68 %"]
    assert size["edges kept (effective)"] == ["4", "19", "78.95 %"]
    assert size["heads"] == ["2", "4", "50.00 %"]
    assert size["… into value"] == ["1", "2", "50.00 %"]
    heads = cells(section(text, "Heads by the scores of their edges"))
    # a0.kv1<v> feeds both heads: 1.5 + 2.0 and 1.5 + 1.0.
    assert heads["`a0.h3`"] == ["3.500", "1", "1", "`input->a0.kv1<v>`", "`a0.h3->m0`"]
    assert heads["`a0.h2`"] == ["2.500", "1", "1", "`input->a0.kv1<v>`", "`a0.h2->logits`"]
    edges = [line for line in section(text, "Strongest edges").splitlines() if line.startswith("| `")]
    assert edges[0] == "| `a0.h3->m0` | MLP | -2.0000 |"
    assert len(edges) == 4
    assert "![the circuit](<circuit.png>)" in text
    assert "(<curve (1).png>)" in text
    rows = cells(section(text, "Curve"))
    assert list(rows)[2:] == ["0", "75", "150", "224", "299"]
    assert "The run took 801 seconds and a peak of 3.00 GiB of memory." in text


def test_the_table_of_faithfulness(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.md", reverse_circuit(), metrics()).read_text()
    faithful = section(text, "How faithful it is")
    assert faithful.index("### test, 512 prompts") < faithful.index("### validation, 64 prompts")
    table = cells(faithful.split("### validation")[0])
    assert table["circuit"] == ["0.250", "95.5 %", "3.000", "91.0 %", "50.0 %"]
    assert table["full model"] == ["0.000", "95.5 %", "3.000", "100.0 %", "–"]
    assert table["empty circuit"][2] == "–"
    assert table["random circuits of that size"][0] == "4.250 ± 0.062"


def change(kl: float, low: float, high: float) -> dict[str, float]:
    return {"kl": kl, "low": low, "high": high}


def test_verdicts_come_first_and_provenance_last_and_effects_stand_beside_scores(tmp_path: Path) -> None:
    figures = metrics()
    test = figures["splits"]["test"]
    test["circuit"] |= {"n_edges": 4, "intervals": {"kl": [0.2, 0.3], "accuracy": [0.9, 0.98]}}
    test["random"] |= {"n_edges": 3.5, "n_edges_min": 3, "n_edges_max": 4, "n_missing": 0.5}
    test["random"]["difference"] = {"kl": {"mean": -4.0, "low": -4.5, "high": -3.5}}
    test["empty"]["n_undefined"] = 2
    part = {
        "part": "a0.h3",
        "score": None,
        "in_circuit": change(0.5, 0.25, 0.75),
        "in_full": change(0.0, -0.125, 0.125),
    }
    edge = {**part, "part": "a0.h3->m0", "score": -2.0}
    effects = {"split": "test", "measure": "kl", "n": 8, "edges": [edge], "heads": [part], "mlps": []}
    verdicts = [{"name": "few-prompts", "severity": "doubt", "text": "few <b>prompts</b>"}]
    circuit = Circuit.from_edges(UNIVERSE, {"input->a0.h3<q>": 1.0, "a0.h3->m0": -2.0, "m0->logits": 1.0})
    circuit = circuit.with_provenance({"method": "edge-pruning", "model": "tiny"})
    path = write_report(tmp_path / "r.md", circuit, {**figures, "effects": effects, "verdicts": verdicts})
    text = path.read_text()
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[:3] == ["Verdicts", "How faithful it is", "What single parts are worth"]
    assert headings[-2:] == ["What was asked", "Cost"]
    assert "- **doubt**: few " in section(text, "Verdicts") and "<b>" not in text
    assert "KL (nats) 0.250 [0.200, 0.300], accuracy 95.5 % [90.0, 98.0]" in text.split("## Verdicts")[0]
    table = cells(section(text, "How faithful it is").split("### validation")[0])
    assert table["circuit"][:2] == ["4", "0.250 [0.200, 0.300]"]
    assert table["random circuits of that size"][0] == "4 (3 to 4), 0.5 too few"
    assert "circuit minus random circuits, paired by prompt: KL (nats) -4.000 [-4.500, -3.500]" in text
    assert "left out of every mean: empty circuit: 2." in text
    worth = section(text, "What single parts are worth")
    assert cells(worth)["`a0.h3`"] == ["0.500 [0.250, 0.750]", "0.000 [-0.125, 0.125]"]
    assert cells(worth)["`a0.h3->m0`"][2] == "-2.0000" and "log α" in worth


def test_scores_of_trained_gates_are_ranked_by_the_rule_of_strength(tmp_path: Path) -> None:
    # log(1 + exp(score)): 0.0003 for -8, which is a gate that was nearly cut; 1.3133 for 1 and 0.3133 for -1.
    scores = {"input->a0.kv1<v>": 1.0, "a0.h3->m0": -8.0, "m0->logits": 1.0, "a0.h2->logits": -1.0}
    circuit = Circuit.from_edges(UNIVERSE, scores, provenance={"method": "edge-pruning"})
    text = write_report(tmp_path / "r.md", circuit, {}).read_text()
    rows = [line for line in section(text, "Strongest edges").splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[2].strip(" |") for row in rows] == ["1.0000", "1.0000", "-1.0000", "-8.0000"]
    heads = cells(section(text, "Heads by the scores of their edges"))
    assert [heads[name][0] for name in ("`a0.h2`", "`a0.h3`")] == ["1.627", "1.314"]
    assert list(heads)[-2:] == ["`a0.h2`", "`a0.h3`"]


def test_an_empty_circuit_without_figures(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.md", Circuit.from_edges(UNIVERSE, []), {}).read_text()
    for sentence in ("Not evaluated.", "has no heads", "The circuit is empty", "Nothing to report"):
        assert sentence in text
    assert "nan" not in text.lower()
    assert "## Curve" not in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    circuit = reverse_circuit().with_provenance({"model": HOSTILE, "task": HOSTILE})
    text = write_report(
        tmp_path / "r.md", circuit, {}, command=HOSTILE, diagnoses=[HOSTILE], picture="a<b>.pdf"
    ).read_text()
    outside_code = re.sub(r"(`+) .*? \1|`[^`\n]*`", "", text)
    assert not re.search(r"(?<!\\)<script", outside_code)
    assert "\n # heading" not in text
    assert "[the circuit](<" in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in section(text, "What was asked").splitlines()[4:] if line}
    assert widths == {3}


def test_the_curve_may_be_a_file(tmp_path: Path) -> None:
    curve(10).to_csv(tmp_path / "curve.csv", index=False)
    text = write_report(tmp_path / "r.md", crowded_circuit(60), {}, curve=tmp_path / "curve.csv").read_text()
    assert "| 9 | " in section(text, "Curve")


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_report(tmp_path / "missing" / "r.md", reverse_circuit(), {})


def test_the_figures_before_training_have_names_that_people_know(tmp_path: Path) -> None:
    seen = {"n": 40, "n_undefined": 0, "choice": True, "accuracy": 0.5, "metric": "kl", "cut": 0.25, "other_spacing": 0}
    circuit = Circuit.from_edges(UNIVERSE, {"input->logits": 1.0})
    found = {**metrics(), "preflight": {"ablation": "counterfactual", "behaviour": seen}}
    text = write_report(tmp_path / "report.md", circuit, found).read_text()
    assert cells(section(text, "Before training")) == {
        "value": [],
        ":---": [":---"],
        "prompts that it was run on": ["40"],
        "accuracy (share of prompts)": ["0.5"],
        "KL (nats) between its outputs on the prompt and on the counterfactual": ["0.25"],
    }
