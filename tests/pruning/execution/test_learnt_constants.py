"""Optimal ablation: constants trained with gates and for a circuit, beside other ablations and the exact gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.constants import about_constants, constants_file, load_constants, save_constants
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.forward.constants import constants_of_values, values_of_constants
from pruning.evaluation.effects import measure_effects
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.masks import evaluate_masks
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.learning import learn_constants
from pruning.execution.learnt_constants import LearntConstants, output_spreads
from pruning.execution.objectives import kl_divergence, objective_named
from pruning.frozen.constants import mean_constants
from pruning.frozen.runs import FrozenRuns
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4, 5, 4, 4, 4, 5], n_asked=(1,))


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


@pytest.fixture(scope="module")
def circuit(compiled: CompiledModel) -> Circuit:
    kept = np.random.default_rng(0).random(compiled.universe.n_edges) < 0.3
    return Circuit.from_edges(compiled.universe, kept, ablation="optimal")


@pytest.fixture(scope="module")
def learnt(compiled: CompiledModel, circuit: Circuit):
    return learn_constants(compiled, PROMPTS, circuit, steps=150)


def kl(compiled: CompiledModel, circuit: Circuit, ablation: str, data=None) -> float:
    found = evaluate_masks(
        compiled, {"c": circuit}, PROMPTS, ablation=ablation, ablation_data=data, intervals=False
    )  # fmt: skip
    return found["c"]["kl"]


def resample_kl(compiled: CompiledModel, circuit: Circuit) -> float:
    """Cut edges carry what they say on another prompt of the same length, averaged over all of them."""
    gates, total, n = torch.from_numpy(circuit.mask.copy()).float(), 0.0, 0
    for length in (4, 5):
        members = np.flatnonzero(PROMPTS.lengths == length)
        clean = PROMPTS.batch(members).clean
        teacher = compiled.logits(clean)
        for shift in range(1, len(members)):
            values = compiled.run_with_values(PROMPTS.batch(np.roll(members, shift)).clean)[1]
            with torch.no_grad():
                logits = compiled.masked(gates, clean, values).logits
            total += float(kl_divergence(logits, teacher).sum()) * len(clean.input_ids) / len(logits)
            n += len(clean.input_ids)
    return total / n


def test_learnt_constants_beat_every_other_constant(compiled: CompiledModel, circuit: Circuit, learnt) -> None:
    optimal = kl(compiled, circuit, "optimal", learnt)
    others = {name: kl(compiled, circuit, name) for name in ("zero", "mean")}
    others["resample"] = resample_kl(compiled, circuit)
    assert optimal < 0.9 * min(others.values()), (optimal, others)


def test_never_worse_than_the_means(compiled: CompiledModel, circuit: Circuit) -> None:
    """Steps that are far too large lead nowhere; the means are given back then, and so they are without steps."""
    means = constants_of_values(compiled.runnable, mean_constants(compiled, PROMPTS))
    for how in ({"steps": 2, "rate": 1e4}, {"steps": 0}):
        found = learn_constants(compiled, PROMPTS, circuit, **how)
        assert torch.equal(constants_of_values(compiled.runnable, found), means)


def test_gradients_of_a_batch_in_parts_and_draws(compiled: CompiledModel) -> None:
    """What the runner adds up over shares and parts is the gradient of the mean objective, by one pass each."""
    frozen = FrozenRuns(compiled, PROMPTS, ablation="optimal", ablation_data=mean_constants(compiled, PROMPTS))
    constants = LearntConstants(compiled, frozen.constant, PROMPTS)
    objective = objective_named("kl")
    runner = BatchRunner(compiled, frozen, objective, micro_batch=2, constants=constants)
    members, generator = frozen.by_length[4], torch.Generator().manual_seed(0)
    gates = [torch.rand(compiled.universe.n_edges, generator=generator) for _ in range(2)]
    nothing = torch.zeros(compiled.universe.n_edges, dtype=torch.bool)
    shares = [Share(prompts=members[:3], gates=gates[0], wanted=nothing),
              Share(prompts=members[3:5], gates=gates[1], wanted=nothing)]  # fmt: skip
    ran = runner.run(shares)
    loss = torch.zeros(())
    for share in shares:
        for prompt in share.prompts:
            one = frozen.batch(np.array([prompt]))
            values = values_of_constants(compiled.runnable, constants.numbers)
            logits = compiled.masked(share.gates, one.pairs.clean, values).logits
            loss = loss + objective(logits, one.teacher, one.pairs) / 5
    (truth,) = torch.autograd.grad(loss, constants.numbers)
    assert truth.abs().max() > 1e-4
    torch.testing.assert_close(ran.constants, truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max()))


def test_steps_are_adams(compiled: CompiledModel) -> None:
    """As torch's own, in standard deviations of what each writer says."""
    start = mean_constants(compiled, PROMPTS)
    ours = LearntConstants(compiled, start, PROMPTS)
    scale, begun = output_spreads(compiled, PROMPTS).float(), ours.numbers.detach().clone()
    theirs = torch.zeros_like(begun).requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        theirs.grad = torch.randn(begun.shape, generator=generator)
        ours.step(theirs.grad, 0.1)
        optimiser.step()
    torch.testing.assert_close(ours.numbers.detach(), begun + scale * theirs.detach())


def test_spreads_of_outputs(compiled: CompiledModel) -> None:
    """The standard deviations over real tokens, of the embeddings together and of the last MLP."""
    values = [compiled.run_with_values(PROMPTS.batch([prompt]).clean)[1] for prompt in range(len(PROMPTS))]
    found, width = output_spreads(compiled, PROMPTS).float(), compiled.shape.d_model
    mlp = torch.cat([one.mlps[1][0] for one in values])
    both = torch.cat([sum(part[0] for part in one.embeddings) for one in values])
    for ours, said in ((found[-width:], mlp), (found[:width], both)):
        torch.testing.assert_close(ours, said.std(0, correction=0))


def test_a_file_gives_the_same_numbers(compiled: CompiledModel, circuit: Circuit, learnt, tmp_path) -> None:
    path = save_constants(compiled, learnt, tmp_path / constants_file(circuit), {"steps": 150})
    again = load_constants(compiled, path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.tensors, learnt.tensors, strict=True))
    about = about_constants(path)
    assert about["steps"] == 150 and about["weights"] == compiled.identity["weights"]
    assert path.name == f"optimal-{circuit.digest[:16]}.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CircuitFormatError, match="cannot be read as learnt constants"):
        load_constants(compiled, path)
    with pytest.raises(ConfigurationError, match="got values of kind 'zero'"):
        save_constants(compiled, compiled.ablation_values("zero"), path)


def test_every_evaluation_takes_them_and_none_makes_them_up(compiled: CompiledModel, circuit: Circuit, learnt) -> None:
    found = evaluate(compiled, circuit, PROMPTS, ablation_data=learnt, n_random=1).metrics
    assert found["circuit"]["kl"] == pytest.approx(kl(compiled, circuit, "optimal", learnt), rel=1e-5)
    effects = measure_effects(compiled, circuit, PROMPTS, top=3, n=4, ablation_data=learnt)
    assert len(effects.table)
    for data in (None, PROMPTS):
        with pytest.raises(ConfigurationError, match="constants that were learnt: .*learn_constants"):
            evaluate(compiled, circuit, PROMPTS, ablation_data=data)
    with pytest.raises(ConfigurationError, match="are of kind 'optimal', and cut edges are to carry 'mean'"):
        evaluate(compiled, circuit, PROMPTS, ablation="mean", ablation_data=learnt)


def test_constants_for_no_one_circuit(compiled: CompiledModel, circuit: Circuit) -> None:
    """Learnt for sets of edges drawn at random, they serve circuits that they were not learnt for."""
    found = learn_constants(compiled, PROMPTS, steps=60, seed=1)
    assert kl(compiled, circuit, "optimal", found) < kl(compiled, circuit, "mean")
    again = learn_constants(compiled, PROMPTS, steps=60, seed=1)
    assert torch.equal(again.mlps[0], found.mlps[0])


def test_what_cannot_be_learnt_is_refused(compiled: CompiledModel, circuit: Circuit) -> None:
    with pytest.raises(ConfigurationError, match="steps must be 0 or more"):
        learn_constants(compiled, PROMPTS, circuit, rate=0.0)
    with pytest.raises(ConfigurationError, match="got none"):
        learn_constants(compiled, PROMPTS.subset([]), circuit)
    other = Circuit.from_edges(replace(compiled.universe, qkv="joint"), [], ablation="optimal")
    with pytest.raises(ConfigurationError, match="of another universe"):
        learn_constants(compiled, PROMPTS, other)
