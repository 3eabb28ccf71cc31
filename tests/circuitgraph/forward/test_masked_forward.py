"""What a masked pass puts out, against the definition evaluated reader by reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.masked import MaskedPass
from tests.circuitgraph.forward.situations import ABLATIONS, WAYS, BothWays, Edits, Situation, mix_by, situations
from tests.oracles import definition as oracle
from tests.oracles.cases import BATTERY, ModelMakers

# Sums of a few dozen float64 terms, through two layers of norms: 1e-14 is seen, 1e-9 is asked.
EXACT = 1e-9

PLAIN = Situation("mixture", 0.3, 0.5, "counterfactual", "left", (5, 3), 2, 3)


@pytest.fixture(scope="module", params=BATTERY)
def exact(request: pytest.FixtureRequest, tiny_gpt2: Callable[..., nn.Module], tiny_llama) -> BothWays:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64)
    return BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)


def check_logits(both: BothWays, gates: Tensor, same: Tensor) -> None:
    """The executor's, and the definition's by the same gates come by in another way."""
    torch.testing.assert_close(both.executor(gates), both.definition(same), atol=EXACT, rtol=EXACT)


@given(situation=situations())
@example(situation=replace(PLAIN, gates="zeros"))
@example(situation=replace(PLAIN, gates="ones"))
@example(situation=replace(PLAIN, gates="undecided"))
@example(situation=replace(PLAIN, gates="single", side="right"))
@example(situation=replace(PLAIN, gates="zeros", ablation="zero"))
@example(situation=replace(PLAIN, gates="zeros", ablation="mean"))
@example(situation=replace(PLAIN, kept=0.05, ablation="optimal"))
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_logits_equal_the_definition(exact: BothWays, situation: Situation) -> None:
    both = replace(exact, situation=situation)
    check_logits(both, both.gates, both.gates)


def check_edited_logits(both: BothWays, edits: Edits) -> None:
    """Of an edited graph."""
    compiled = both.compiled
    edited = edits.made_to(compiled.universe)
    gate_map = compiled.with_graph(edited.edit(compiled.universe, compiled.graph)).gate_map
    gates = torch.from_numpy(gate_map.expand(both.gates[edited.trained].numpy()))
    check_logits(both, gates, edited.gates(both.gates))


@pytest.mark.full
@given(situation=situations())
@settings(max_examples=300, deadline=None, database=None)
def test_logits_equal_the_definition_in_many_situations(exact: BothWays, situation: Situation) -> None:
    both = replace(exact, situation=situation)
    check_logits(both, both.gates, both.gates)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "tracr-both-ways"])
def test_float32_rounds_no_worse_than_the_definition_does(case: str, ablation: str, tiny_gpt2, tiny_llama) -> None:
    """The definition in float64 is the truth, and in float32 it tells how much rounding the model amplifies.

    The executor adds the same terms in another order, so its error is of the same size: eight times the
    definition's own error, plus 32 roundings of the largest logit where that error happens to be small.
    """
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    side = "none" if ablation == "mean-positional" else "left"
    lengths = (5, 5) if side == "none" else (6, 3)
    for seed in range(4):
        situation = Situation("mixture", 0.3, 0.6, ablation, side, lengths, 2, seed)
        both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
        narrow = replace(both, plain=oracle.plain_model(compiled.model, torch.float32))
        truth = both.definition(both.gates)
        noise = (narrow.definition(both.gates.float()).double() - truth).abs().max()
        allowed = 8 * noise + 32 * torch.finfo(torch.float32).eps * truth.abs().max()
        ours = both.executor(both.gates.float())
        assert ours.dtype == torch.float32
        assert (ours.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_bfloat16_is_as_near_as_the_models_own(case: str, tiny_gpt2, tiny_llama) -> None:
    """With undecided gates no model in bfloat16 says what is right, so the yardstick is the definition there."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.bfloat16)
    both = BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)
    truth = both.definition(both.gates)
    narrow = replace(both, plain=oracle.plain_model(compiled.model, torch.bfloat16))
    noise = (narrow.definition(both.gates.bfloat16()).double() - truth).square().mean().sqrt()
    ours = both.executor(both.gates.float())
    assert ours.dtype == torch.bfloat16
    # Root mean squares, as single logits scatter; in bfloat16 the definition rounds its gates as well.
    assert (ours.double() - truth).square().mean().sqrt() <= 2 * noise


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_mixing_is_the_definition(exact: BothWays, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mix_by(way, monkeypatch)
    torch.testing.assert_close(exact.executor(exact.gates), exact.definition(exact.gates), atol=EXACT, rtol=EXACT)


def test_gates_beyond_0_and_1_follow_the_same_formula(exact: BothWays) -> None:
    gates = 3 * exact.gates - 1
    torch.testing.assert_close(exact.executor(gates), exact.definition(gates), atol=EXACT, rtol=EXACT)


def test_what_padding_holds_does_not_matter(exact: BothWays) -> None:
    clean, corrupted = exact.batches
    values = exact.compiled.run_with_values(corrupted)[1]
    before = exact.compiled.masked(exact.gates, clean, values).logits
    ids = torch.where(clean.attention_mask.bool(), clean.input_ids, 5)
    after = exact.compiled.masked(exact.gates, replace(clean, input_ids=ids), values).logits
    assert torch.equal(before, after)


def test_nothing_is_recorded_without_gradients(exact: BothWays) -> None:
    gates = exact.gates.requires_grad_()
    with torch.no_grad():
        logits = exact.executor(gates)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, exact.executor(gates).detach(), atol=EXACT, rtol=EXACT)


def run_kept(both: BothWays, gates: torch.Tensor) -> MaskedPass:
    return both.compiled.masked(gates, both.batches[0], both.values())


def test_an_empty_circuit_runs_nothing_and_a_full_one_runs_everything(exact: BothWays) -> None:
    universe = exact.compiled.universe
    empty = run_kept(exact, torch.zeros(universe.n_edges, dtype=torch.float64))
    assert (empty.live_heads, empty.live_mlps) == (0, 0)
    full = run_kept(exact, torch.ones(universe.n_edges, dtype=torch.float64))
    assert full.live_heads == universe.n_layers * universe.n_heads
    assert full.live_mlps == universe.n_layers


def test_gates_of_another_length_are_refused(exact: BothWays) -> None:
    with pytest.raises(ConfigurationError, match="one entry for each"):
        exact.executor(exact.gates[:-1])
