"""The analysis layer where torch cannot be imported, and its cost on large circuits, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.random_circuits import crowded_circuit
from tests.analysis.small_circuits import CODELLAMA_13B

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import importlib, importlib.abc, pkgutil, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "pruning"):
            raise ModuleNotFoundError(f"refused: {name}")

sys.meta_path.insert(0, Refuse())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch was imported after all")

import analysis
for module in pkgutil.walk_packages(analysis.__path__, "analysis."):
    importlib.import_module(module.name)
for name in analysis.__all__:
    getattr(analysis, name)
"""

USE_IT = """
import pandas as pd
from pathlib import Path
from circuitgraph import Circuit, Universe
from circuitgraph.errors import CircuitFormatError, ConfigurationError

universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
one = {"input->a0.h1<v>": 3.0, "a0.h1->m1": 2.0, "m1->logits": 1.0, "input->m1": 0.5}
other = {"input->a0.h1<v>": 1.0, "a0.h1->m1": 2.0, "m1->logits": 4.0, "input->logits": 0.5}
folder = Path(sys.argv[1])
for name, edges in (("a", one), ("b", other)):
    Circuit.from_edges(universe, edges, provenance={"task": name}).save(folder / f"{name}.json")
loaded = {name: Circuit.load(folder / f"{name}.json") for name in "ab"}
a, b = loaded["a"], loaded["b"]

assert len(analysis.sparsity_table(loaded)) and len(analysis.block_density(loaded))
assert len(analysis.score_concentration(loaded))
assert analysis.overlap_table(loaded)["intersection"].tolist() == [3, 5, 1, 2]
tests = analysis.overlap_tests(loaded, nulls=["hypergeometric", "stratified", "degree-preserving"], n_samples=9)
assert len(analysis.adjust_p_values(tests)) == 3
assert analysis.overlap_matrix(loaded).loc["a", "b"] == 0.6
assert len(analysis.union(a, b)) == 5 and len(analysis.intersection(a, b)) == 3
assert len(analysis.difference(a, b)) == 0 and len(analysis.symmetric_difference(a, b)) == 1
assert len(analysis.complement(a)) > 10 and len(analysis.consensus(loaded)) == 5
assert len(analysis.inclusion_frequency(loaded)) == 5 and len(analysis.stability_table(loaded))
curve = pd.DataFrame({"sparsity": [0.0, 0.5], "kl": [0.0, 1.0]})
assert analysis.area_under_curves(curve)["mean"].item() == 0.5
assert analysis.pareto_front(curve, maximise="sparsity", minimise="kl")["on_front"].all()
assert analysis.seed_intervals(curve, "kl")["n"].item() == 2
assert "a0.h1" in analysis.circuit_to_dot(a)

# What a type checker would have caught, said in words.
try:
    analysis.overlap_table([a, "b.json"])
except ConfigurationError as error:
    assert "circuit 2: expected a Circuit; got str" in str(error), error
else:
    raise SystemExit("a path passed for a circuit")
text = (folder / "a.json").read_text()
(folder / "cut.json").write_text(text[: len(text) // 2])
(folder / "newer.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
(folder / "unknown.json").write_text(text.replace('"m1", "target": "logits"', '"m7", "target": "logits"'))
for name, says in (("cut", "truncated"), ("newer", "newer"), ("unknown", "m7")):
    try:
        Circuit.load(folder / f"{name}.json")
    except CircuitFormatError as error:
        assert says in str(error) and f"{name}.json" in str(error), error
    else:
        raise SystemExit(f"{name}.json was read")
print("ok")
"""

USE_COMMANDS = """
import contextlib, io
from pathlib import Path
from circuitgraph import Circuit, Universe
from circuitgraph.cli import main

folder = Path(sys.argv[1])
universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
edges = ["input->a0.h1<v>", "a0.h1->m1", "m1->logits", "input->logits"]
a, b = (str(Circuit.from_edges(universe, edges[:n]).save(folder / f"{n}.json")) for n in (3, 4))
commands = [
    ["sparsity", a, b, "--by", "all", "--by", "block", "--by", "score"],
    ["compare", a, b, "--null", "all", "--samples", "9", "--matrix", "iou", "--across-checkpoints", "--coarsen"],
    ["paths", b, "--through", "m1"],
    ["find", b, "* -> m1", "--save", str(folder / "part.json")],
    ["combine", a, b, "--op", "union", "--out", str(folder / "union.json")],
    ["combine", a, "--op", "complement", "--out", str(folder / "others.json")],
    ["export", a, "--out", str(folder / "a.gexf")],
    ["draw", a, "--out", str(folder / "a.dot")],
]
for command in commands:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = main([*command, "--json"])
    assert code == 0 and told.getvalue().startswith("{"), command
assert main(["discover", "--model", "m", "--task", "ioi", "--out", str(folder / "x")]) != 0
assert not {"torch", "transformers", "pruning"} & set(sys.modules)
print("ok")
"""

COST = """
import json, re, sys, time
from pathlib import Path
start = time.process_time()
import numpy as np
import analysis
from circuitgraph import Circuit, Universe
stored = np.load(sys.argv[1])
universe = Universe(family="llama", n_layers=40, n_heads=40, n_kv_heads=40)
circuits = {name: Circuit.from_edges(universe, stored[name], scores=stored[name + "_scores"]) for name in "ab"}
a, b = circuits.values()
analysis.sparsity_table(circuits), analysis.block_density(circuits, kinds=True), analysis.score_concentration(circuits)
analysis.overlap_table(circuits)
for level in ("edges", "nodes", "heads"):
    analysis.overlap_tests(circuits, level=level, alternative="two-sided")
analysis.overlap_matrix(circuits), analysis.overlap_matrix(circuits, measure="spearman")
analysis.inclusion_frequency(circuits), analysis.consensus(circuits), analysis.stability_table(circuits)
for operation in (analysis.union, analysis.intersection, analysis.difference, analysis.symmetric_difference):
    operation(a, b)
analysis.complement(a)
seconds = time.process_time() - start
# Not ru_maxrss, which counts what the parent held when it started this process.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
start = time.process_time()
analysis.overlap_tests(circuits, nulls=["degree-preserving"], n_samples=50)
sampling = (time.process_time() - start) * 1000 / 51
print(json.dumps({"sizes": [len(a), len(b)], "seconds": seconds, "bytes": peak, "sampling": sampling}))
"""


def run(code: str, *arguments: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_module_and_public_name_without_torch() -> None:
    run(WITHOUT_TORCH)


@pytest.mark.slow
def test_it_works_without_torch(tmp_path: Path) -> None:
    assert run(WITHOUT_TORCH + USE_IT, str(tmp_path)).strip() == "ok"


@pytest.mark.slow
def test_commands_on_saved_circuits_without_torch(tmp_path: Path) -> None:
    assert run(WITHOUT_TORCH + USE_COMMANDS, str(tmp_path)).strip() == "ok"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_circuits_of_5000_edges_in_3_9_million(tmp_path: Path) -> None:
    stored = {}
    for name, seed in (("a", 0), ("b", 1)):
        circuit = crowded_circuit(5000, universe=CODELLAMA_13B, seed=seed)
        stored |= {name: circuit.edge_ids, f"{name}_scores": circuit.scores}
    np.savez(tmp_path / "circuits.npz", **stored)
    cost = json.loads(run(COST, str(tmp_path / "circuits.npz")))
    assert min(cost["sizes"]) >= 5000
    # Of processor time: other processes may be busy.
    assert cost["seconds"] < 5
    assert cost["bytes"] < 500e6
    assert cost["sampling"] < 60
