"""Every way to run a family's graph is the masked pass: engines, cuts one by one, extracted and saved circuits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.extract import extract_circuit, load_extracted, save_extracted
from circuitgraph.forward import masked
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.cuts import Cut, run_cuts
from circuitgraph.forward.engine.choose import cpu_kernels_installed
from circuitgraph.forward.engine.plain import PlainEngine
from circuitgraph.forward.uncut import UncutRun
from tests.circuitgraph.architectures.battery.case import Made, differs_by, exact, gates_of, made, prompts
from tests.circuitgraph.architectures.battery.families import LONG_ONES
from tests.oracles.uncast import uncast

pytestmark = pytest.mark.slow


def run_masked(own: Made, kept: np.ndarray, values: AblationValues, side: str = "none") -> Tensor:
    """The masked run's logits of the clean prompts."""
    with torch.no_grad():
        return own.compiled.masked(torch.from_numpy(kept).to(own.compiled.dtype), prompts(side=side)[0], values).logits


@pytest.mark.skipif(not cpu_kernels_installed(), reason="no kernels for the CPU here")
@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("cut", [0.0, 0.5, 0.9])
def test_the_kernels_are_the_plain_engine(case: str, cut: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and gradients in float32, which is what the kernels are for."""
    own = made(case)
    assert own.compiled.uses_cpu_kernels
    clean, other = prompts(side="left", seed=4)
    values, found = own.compiled.run_with_values(other)[1], []
    for engine in ("cpu", "plain"):
        gates = gates_of(own.n_edges, cut=cut, seed=4, between=True).requires_grad_()
        if engine == "plain":
            monkeypatch.setattr(masked, "engine_for", lambda device, dtype: PlainEngine())
        logits = own.compiled.masked(gates, clean, values, wanted=torch.ones(own.n_edges, dtype=torch.bool)).logits
        found.append((logits.detach(), torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), gates)[0]))
    (fast, of_fast), (plain, of_plain) = found
    assert differs_by(fast, plain) < 1e-4
    assert float((of_fast - of_plain).abs().max()) < 1e-3 * float(of_plain.abs().max())


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("within", [None, 0.7])
def test_cuts_are_masked_runs(case: str, within: float | None) -> None:
    """Of single edges in the full model; of edges, heads and MLPs in a circuit."""
    own = exact(case)
    universe, (clean, other) = own.compiled.universe, prompts(side="none")
    kept = np.ones(own.n_edges, dtype=bool)
    if within is not None:
        draws = gates_of(own.n_edges, cut=1 - within, seed=6).bool().numpy()
        kept = Circuit.from_edges(universe, draws, ablation="counterfactual").mask
    writers, readers = universe.endpoints(np.arange(own.n_edges))
    edges = np.flatnonzero(kept)[np.random.default_rng(0).permutation(int(kept.sum()))[:24]]
    cuts = [Cut(int(writers[edge]), int(readers[edge])) for edge in edges]
    if within is not None:
        cuts += [Cut(int(writer)) for writer in np.unique(writers[kept])[1::3]]
    with uncast(), torch.no_grad():
        values = own.compiled.run_with_values(other)[1]
        bound, shape = own.compiled.bound, own.compiled.shape
        run = UncutRun(bound, shape, universe, clean, values, kept=None if within is None else kept)
        assert differs_by(run.logits, run_masked(own, kept, values)) < own.case.exact
        moved = 0
        for cut, logits in zip(cuts, run_cuts(run, cuts), strict=True):
            without = kept & ~((writers == cut.writer) & (cut.reader is None or readers == cut.reader))
            theirs = run_masked(own, without, values)
            assert differs_by(logits, theirs) < own.case.exact, (cut, universe.writers[cut.writer])
            moved += differs_by(theirs, run.logits) > 1e-6
        assert moved > 0.3 * len(cuts)


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize(("ablation", "cut"), [("mean", 0.3), ("mean", 0.8), ("zero", 0.5), ("zero", 0.93)])
def test_an_extracted_circuit_is_the_masked_run(case: str, ablation: str, cut: float) -> None:
    own = exact(case)
    clean, other = prompts(side="left")
    draws = gates_of(own.n_edges, cut=cut, seed=8).bool().numpy()
    draws[own.compiled.universe.blocks[-1].edges] |= np.arange(own.compiled.universe.n_writers) % 2 == 0
    circuit = Circuit.from_edges(own.compiled.universe, draws, ablation=ablation)
    with uncast(), torch.no_grad():
        values = own.compiled.ablation_values(ablation, [clean, other])
        theirs = run_masked(own, circuit.mask, values, side="left")
        module = extract_circuit(circuit, own.compiled, values=values, verify=False)
        ours = module(clean.input_ids, clean.attention_mask, at=clean.predict_index)
        assert differs_by(ours, theirs) < own.case.exact
        assert differs_by(theirs, own.compiled.logits(clean)) > 0.01


@pytest.mark.parametrize("case", LONG_ONES)
def test_a_saved_module_runs_as_before(case: str, tmp_path: Path) -> None:
    own = made(case)
    clean, other = prompts(side="left")
    draws = gates_of(own.n_edges, cut=0.5, seed=8).bool().numpy()
    circuit = Circuit.from_edges(own.compiled.universe, draws, ablation="mean")
    values = own.compiled.ablation_values("mean", [clean, other])
    module = extract_circuit(circuit, own.compiled, values=values)  # compared with the masked run
    save_extracted(module, tmp_path / "module")
    with torch.no_grad():
        before = module(clean.input_ids, clean.attention_mask, at=clean.predict_index)
        again = load_extracted(tmp_path / "module")(clean.input_ids, clean.attention_mask, at=clean.predict_index)
    assert torch.equal(again, before)


@pytest.mark.parametrize("case", LONG_ONES)
def test_a_saved_circuit_runs_as_before(case: str, tmp_path: Path) -> None:
    own = made(case)
    clean, other = prompts(side="left")
    circuit = Circuit.from_edges(
        own.compiled.universe, gates_of(own.n_edges, cut=0.4, seed=9).bool().numpy(), ablation="counterfactual"
    )
    circuit.save(tmp_path / "circuit.json")
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert loaded.universe == own.compiled.universe and len(loaded.edges) == len(circuit.edges) > 0.3 * own.n_edges
    values = own.compiled.run_with_values(other)[1]
    before = run_masked(own, circuit.mask, values, side="left")
    assert torch.equal(run_masked(own, loaded.mask, values, side="left"), before)
    assert differs_by(before, own.compiled.logits(clean)) > 0.05
