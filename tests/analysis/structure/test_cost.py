"""Everything about structure on a circuit of 5,000 edges in CodeLlama-13B's universe: seconds, and little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COST = """
import json, re, sys, tempfile, time
from pathlib import Path
from tests.analysis.small_circuits import CODELLAMA_13B, large_circuit
import circuitgraph.graph.build

def refuse(*_, **__):
    raise AssertionError("the universe's graph was built")

circuitgraph.graph.build.build_graph = refuse
circuit, other = large_circuit(0), large_circuit(1)
start = time.process_time()
import analysis
for by in ("weakest", "lowest", "product"):
    assert len(analysis.strongest_paths(circuit, 20, by=by)) == 20
assert analysis.count_paths(circuit, through=circuit.heads[len(circuit.heads) // 2]) > 0
assert len(analysis.path_counts(circuit)) == len(circuit.nodes)
for by in ("count", "score"):
    assert len(analysis.minimum_edge_cut(circuit, by=by)) > 10
assert len(analysis.minimum_node_cut(circuit, targets=circuit.mlps[-1])) > 1
analysis.hubs(circuit), analysis.reachability(circuit)
for length in ("inverse", "hops"):
    assert analysis.betweenness(circuit, length=length)["betweenness"].max() > 0
analysis.betweenness(circuit, between="ends")
analysis.composition(circuit), analysis.composition_counts(circuit)
assert analysis.communities(circuit).n_communities > 1
assert len(analysis.motifs(circuit, n_samples=100)) == 13
for by in ("module", "sublayer", "layer", "kind"):
    analysis.coarse_graph(circuit, by)
for query in ("a5.*<q> <- m*", "input -> * -> logits", "** -> a{10..30}.* -> ** -> logits"):
    found = analysis.find(circuit, query)
    found.table, found.graph, found.circuit
analysis.compare_checkpoints(circuit, other).counts()
analysis.coarsen(circuit, CODELLAMA_13B, scores="sum")
with tempfile.TemporaryDirectory() as folder:
    for suffix in (".graphml", ".gexf", ".json", ".cyjs"):
        analysis.write_graph(circuit, folder + "/c" + suffix)
seconds = time.process_time() - start
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"edges": len(circuit), "seconds": seconds, "bytes": peak, "torch": "torch" in sys.modules}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_structure_of_5000_edges_takes_seconds() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COST], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert cost["edges"] > 5000
    assert cost["seconds"] < 60
    assert cost["bytes"] < 500e6
    assert not cost["torch"]
