"""Several seeds summed up, from a folder made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.seeds import stability_table
from analysis.sweep import sweep_stability, sweep_summary, write_sweep
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, UnknownNameError
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
SPARSITIES = (0.5, 0.9)
KL = {0.5: (0.1, 0.2, 0.6), 0.9: (1.0, 3.0, 2.0)}


def circuit(seed: int, sparsity: float) -> Circuit:
    scores = np.random.default_rng(100 * seed).permutation(UNIVERSE.n_edges)
    return Circuit.from_edges(UNIVERSE, np.argsort(-scores)[: round((1 - sparsity) * UNIVERSE.n_edges)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows, trainings = [], []
    for seed in range(3):
        place = tmp_path / f"seed-{seed}"
        place.mkdir()
        for at in SPARSITIES:
            one = circuit(seed, at)
            one.save(place / f"circuit-{at}.json")
            rows.append({"which": "seed", "seed": seed, "sparsity": at, "kl": KL[at][seed], "n_edges": len(one)})
        verdicts = ["It is <no> better than random."] if seed == 1 else []
        files = {f"circuit-{at}.json": at for at in SPARSITIES}
        trainings.append({"seed": seed, "folder": place.name, "files": files, "steps_taken": 4, "verdicts": verdicts})
    rows += [{"which": "averaged", "seed": None, "sparsity": at, "kl": 0.05, "n_edges": 9} for at in SPARSITIES]
    pd.DataFrame(rows).assign(split="test", n=40).to_csv(tmp_path / "front.csv", index=False)
    about = {
        "finished": True, "seeds": [0, 1, 2], "sparsities": SPARSITIES, "trainings": trainings, "task": "ioi",
        "model": "m", "recipe": {"name": "nested"}, "ranks_for_all": True, "split": "test",
    }  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    return tmp_path


def test_the_tables(folder: Path) -> None:
    tables = write_sweep(folder)
    row = tables.summary.set_index(["which", "sparsity", "measure"]).loc[("seed", 0.5, "kl")]
    # By hand: the mean of 0.1, 0.2, 0.6 is 0.3, their variance (0.04 + 0.01 + 0.09) / 2 = 0.07; t is 4.3027 for 2.
    reach = 4.302653 * math.sqrt(0.07 / 3)
    assert row[["mean", "min", "max", "sd", "low", "high"]].astype(float).tolist() == pytest.approx(
        [0.3, 0.1, 0.6, math.sqrt(0.07), 0.3 - reach, 0.3 + reach], rel=1e-6
    )
    averaged = tables.summary.set_index(["which", "sparsity", "measure"]).loc[("averaged", 0.9, "kl")]
    assert (averaged["mean"], averaged["n"]) == (0.05, 1) and pd.isna(averaged["low"])
    assert pd.read_csv(folder / "summary.csv")["mean"].tolist() == pytest.approx(tables.summary["mean"].tolist())
    for at in SPARSITIES:
        expected = stability_table([circuit(seed, at) for seed in range(3)]).set_index("measure")
        mine = tables.stability[tables.stability["sparsity"] == at].set_index("measure")
        assert set(mine.index) == {"mean_pairwise_iou", "chance_corrected"}
        for name in mine.index:
            assert float(mine.loc[name, "value"]) == float(expected.loc[name, "value"])
    sets = [set(circuit(seed, 0.9)) for seed in range(3)]
    pairs = [(sets[0], sets[1]), (sets[0], sets[2]), (sets[1], sets[2])]
    iou = sum(len(a & b) / len(a | b) for a, b in pairs if a | b) / sum(bool(a | b) for a, b in pairs)
    found = tables.stability.set_index(["sparsity", "measure"])["value"]
    assert float(found[(0.9, "mean_pairwise_iou")]) == pytest.approx(iou)


def test_the_report_and_the_figure(folder: Path) -> None:
    write_sweep(folder)
    report = (folder / "report.md").read_text()
    assert report.startswith("# ioi in m: 3 seeds (0, 1, 2)\n") and "3 trainings by the recipe `nested`" in report
    assert "| 0.5 | one seed | 0.300 (-0.357 to 0.957) |" in report and "| 0.9 | averaged scores | 0.050 |" in report
    assert "- `seed-1`: It is \\<no\\> better than random." in report and "40 test prompts" in report
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_says_nothing_of_agreement() -> None:
    assert sweep_stability({0.5: [circuit(0, 0.5)]}).empty
    with pytest.raises(UnknownNameError, match="which"):
        sweep_summary(pd.DataFrame({"kl": [1.0], "sparsity": [0.5]}))


def test_what_is_not_finished_or_no_such_folder(folder: Path) -> None:
    about = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**about, "finished": False}))
    with pytest.raises(CircuitFormatError, match="not all of its trainings are done"):
        write_sweep(folder)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(CircuitFormatError, match="no complete JSON"):
        write_sweep(folder)
    with pytest.raises(CircuitFormatError, match="expected what discover --seeds leaves"):
        write_sweep(folder / "seed-0")
