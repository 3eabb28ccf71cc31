"""Effects of single parts: against plain masked runs, a hand calculation, and an exchanged output in Hugging Face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from pruning.evaluation.effects import effects_table, measure_effects
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import load_task
from tests.oracles.cases import as_mistral
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

LENGTHS = [5, 4, 5, 5, 4]
CHOICES = {
    "gpt2": ("tiny_gpt2", {}),
    "gpt2-split-joint": ("tiny_gpt2", {"embeddings": "split", "qkv": "joint"}),
    "llama-gqa": ("tiny_llama", {}),
    "llama-per-query": ("tiny_llama", {"kv_heads": "per_query"}),
    "mistral": ("tiny_llama", {}),
}


def compiled_as(name: str, request: pytest.FixtureRequest) -> CompiledModel:
    fixture, choices = CHOICES[name]
    model = request.getfixturevalue(fixture)(seed=2)
    return compile_model(as_mistral(model) if name == "mistral" else model, verify=False, **choices)


def circuit_of(compiled: CompiledModel, share: float, ablation: str) -> Circuit:
    rng = np.random.default_rng(3)
    kept = rng.random(compiled.universe.n_edges) < share
    return Circuit.from_edges(compiled.universe, kept, scores=rng.normal(size=int(kept.sum())), ablation=ablation)


def plain_kl(teacher: Tensor, other: Tensor) -> float:
    teacher, other = teacher.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((teacher.exp() * (teacher - other)).sum(-1).mean())


class MaskedRuns:
    """KL by prompt of whole masked runs, all prompts in one padded batch."""

    def __init__(self, compiled: CompiledModel, pairs: EncodedPairs, ablation: str) -> None:
        self.compiled = compiled
        self.batch = pairs.batch(range(len(pairs)))
        self.values = compiled.run_with_values(self.batch.corrupted)[1]
        if ablation != "counterfactual":
            self.values = compiled.ablation_values(ablation, [self.batch.clean])
        self.teacher = compiled.logits(self.batch.clean)

    def kl(self, kept: np.ndarray) -> list[float]:
        gates = torch.from_numpy(kept).float()
        logits = self.compiled.masked(gates, self.batch.clean, self.values).logits
        prompts = self.batch.clean.predict_prompt
        return [plain_kl(self.teacher[prompts == i], logits[prompts == i]) for i in range(len(self.batch.index))]

    def change(self, kept: np.ndarray, cut: np.ndarray) -> list[float]:
        return [a - b for a, b in zip(self.kl(kept & ~cut), self.kl(kept), strict=True)]


CASES = [
    ("gpt2", "counterfactual"), ("gpt2-split-joint", "zero"), ("llama-gqa", "counterfactual"),
    ("llama-gqa", "mean"), ("llama-per-query", "counterfactual"), ("mistral", "counterfactual"),
]  # fmt: skip
BATTERY = [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])]


@pytest.mark.parametrize(("name", "ablation"), BATTERY)
def test_effects_are_those_of_masked_runs(name: str, ablation: str, request: pytest.FixtureRequest) -> None:
    compiled = compiled_as(name, request)
    universe, circuit = compiled.universe, circuit_of(compiled, 0.6, ablation)
    pairs = random_prompts(lengths=LENGTHS, n_asked=(1, 2), n_tokens=compiled.shape.d_vocab)
    for clean, corrupted in zip(pairs.clean_ids[:3], pairs.corrupted_ids[:3], strict=True):
        corrupted[:2] = clean[:2]  # nothing can change before the third token
    state = GlobalRandomState()
    found = measure_effects(compiled, circuit, pairs, top=5)
    state.assert_untouched()
    assert found.n == len(LENGTHS) and found.measure == "kl"
    writers = universe.endpoints(np.arange(universe.n_edges))[0]
    names = list(circuit)
    strongest = sorted(range(len(names)), key=lambda place: -abs(circuit.scores[place]))[:5]
    assert {row["part"] for row in found.rows["edges"]} == {names[place] for place in strongest}
    assert {row["part"] for row in found.rows["heads"]} == set(circuit.heads)
    everything = np.ones(universe.n_edges, dtype=bool)
    masked = MaskedRuns(compiled, pairs, ablation)
    for kind, rows in found.rows.items():
        assert rows == sorted(rows, key=lambda row: -row["in_circuit"]["kl"])
        for row in rows:
            if kind == "edges":
                cut = np.arange(universe.n_edges) == universe.edge_index(*row["part"].split("->"))
                assert row["score"] == circuit.scores[names.index(row["part"])]
            else:
                cut = writers == universe.writers.index(row["part"])
                assert row["score"] is None
            for where, mask in (("in_circuit", circuit.mask), ("in_full", everything)):
                expected = masked.change(mask, cut)
                assert row[where]["kl"] == pytest.approx(np.mean(expected), rel=1e-3, abs=3e-6)
                assert min(expected) - 3e-6 <= row[where]["low"] <= row[where]["high"] <= max(expected) + 3e-6


def test_a_silenced_mlp_is_one_whose_output_is_exchanged_in_hugging_face(
    request: pytest.FixtureRequest,
) -> None:
    compiled = compiled_as("llama-gqa", request)
    pairs = random_prompts(lengths=[6, 6, 6], n_tokens=compiled.shape.d_vocab)
    everything = Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool))
    found = {row["part"]: row for row in measure_effects(compiled, everything, pairs, top=0).rows["mlps"]}
    mlp, said = compiled.model.get_submodule("model.layers.1.mlp"), {}
    expected = []
    for clean, corrupted in zip(pairs.clean_ids, pairs.corrupted_ids, strict=True):
        clean, corrupted = torch.from_numpy(clean)[None], torch.from_numpy(corrupted)[None]
        with torch.no_grad():
            teacher = compiled.model(clean).logits[0, -1:]
            hook = mlp.register_forward_hook(lambda _, __, output: said.update(corrupted=output))
            compiled.model(corrupted)
            hook.remove()
            hook = mlp.register_forward_hook(lambda _, __, ___: said["corrupted"])
            other = compiled.model(clean).logits[0, -1:]
            hook.remove()
        expected.append(plain_kl(teacher, other))
    assert found["m1"]["in_full"]["kl"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert found["m1"]["in_circuit"]["kl"] == pytest.approx(np.mean(expected), rel=1e-3)


def test_outputs_that_are_numbers_are_compared_by_squared_error() -> None:
    compiled = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
    pairs = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3}).split("test")
    truth = Circuit.from_edges(compiled.universe, ground_truth_edges("xproportion"), ablation="zero")
    found = measure_effects(compiled, truth, pairs, n=len(pairs))
    # Without the edge into the logits nothing comes out: the error is the proportion of x itself, squared.
    answers = pairs.answer_values
    assert answers is not None
    squares = np.mean([np.mean(np.asarray(values) ** 2) for values in answers])
    last = next(row for row in found.rows["edges"] if row["part"].endswith("->logits"))
    assert found.measure == "mse"
    assert last["in_circuit"]["mse"] == pytest.approx(squares, abs=1e-5)


def test_some_prompts_are_drawn_by_the_seed_alone_and_ticked_off(request: pytest.FixtureRequest) -> None:
    compiled = compiled_as("gpt2", request)
    circuit = circuit_of(compiled, 0.6, "counterfactual")
    pairs = random_prompts(lengths=[5] * 12, n_tokens=compiled.shape.d_vocab)
    ticks: list[tuple[int, int]] = []
    one, again, other = (
        measure_effects(compiled, circuit, pairs, top=2, n=4, seed=seed, tick=lambda *at: ticks.append(at))
        for seed in (0, 0, 1)
    )
    assert one.rows == again.rows != other.rows and one.n == 4
    assert ticks[-1][0] == ticks[-1][1] == 2 * 4 * sum(map(len, one.rows.values()))


def test_a_table_and_a_file_have_the_same_numbers(request: pytest.FixtureRequest) -> None:
    compiled = compiled_as("gpt2", request)
    pairs = random_prompts(lengths=[5] * 3, n_tokens=compiled.shape.d_vocab)
    found = measure_effects(compiled, circuit_of(compiled, 0.6, "zero"), pairs, top=3)
    as_file = found.to_dict("test")
    assert as_file["split"] == "test" and as_file["n"] == 3
    table = effects_table(as_file)
    assert list(table["kind"].unique()) == ["edge", "head", "mlp"]
    assert table["in_circuit"][0] == as_file["edges"][0]["in_circuit"]["kl"]
    assert table["in_full_high"].iloc[-1] == as_file["mlps"][-1]["in_full"]["high"]
    assert table["score"].isna().tolist() == [kind != "edge" for kind in table["kind"]]


def test_an_empty_circuit_has_no_parts(request: pytest.FixtureRequest) -> None:
    compiled = compiled_as("gpt2", request)
    pairs = random_prompts(lengths=[5], n_tokens=compiled.shape.d_vocab)
    empty = Circuit.from_edges(compiled.universe, [])
    assert measure_effects(compiled, empty, pairs).rows == {"edges": [], "heads": [], "mlps": []}


@pytest.mark.parametrize(("top", "n"), [(-1, 4), (4, 0)])
def test_settings_that_mean_nothing_are_refused(top: int, n: int, request: pytest.FixtureRequest) -> None:
    compiled = compiled_as("gpt2", request)
    pairs = random_prompts(lengths=[5], n_tokens=compiled.shape.d_vocab)
    with pytest.raises(ConfigurationError, match="0 edges or more on 1 prompt or more"):
        measure_effects(compiled, circuit_of(compiled, 0.5, "zero"), pairs, top=top, n=n)


def test_the_strongest_edges_are_those_of_the_one_rule(request: pytest.FixtureRequest) -> None:
    """For trained gates a score of -8 is an edge that was nearly cut, not the strongest one."""
    compiled = compiled_as(CASES[0][0], request)
    universe = compiled.universe
    edges = {f"input->{name}": score for name, score in zip(("m0", "m1", "logits"), (-8.0, 2.0, 1.0), strict=True)}
    edges |= {"m0->logits": 0.5, "m1->logits": 0.5}
    circuit = Circuit.from_edges(universe, edges, provenance={"score_meaning": "log-alpha"})
    pairs = random_prompts(lengths=LENGTHS, n_tokens=compiled.shape.d_vocab)
    found = measure_effects(compiled, circuit, pairs, top=2, n=2)
    assert {row["part"] for row in found.rows["edges"]} == {"input->m1", "input->logits"}
