"""What is found before a run, on tiny random models and prompts whose faults are put there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, PromptFormatError
from circuitgraph.models import LoadedModel
from pruning import (
    PromptPair,
    compare_faithfulness,
    discover,
    evaluate,
    evaluate_masks,
    preflight,
    task_from_pairs,
)
from pruning.evaluation.effects import measure_effects
from pruning.evaluation.sampled import sampled_prompts
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.checking.behaviour import behaviour, sample_of
from pruning.runs.checking.duration import Timed, estimate_duration
from pruning.runs.checking.preflight import Preflight
from pruning.tasks import TaskData
from tests.pruning.prompts.small_prompts import random_prompts
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer, word_tokenizer

RECIPE = recipe_named("quick").changed(steps=3)


def task_of(**splits: EncodedPairs) -> TaskData:
    return TaskData(name="t", splits=splits, notes=(), provenance={}, data_hash="", objective="kl")


def looked_at(compiled: CompiledModel, task: TaskData, **options: object) -> Preflight:
    return preflight(compiled, task, RECIPE, estimate_time=False, **options)  # type: ignore[arg-type]


def names(found: Preflight, severity: str) -> set[str]:
    return {one.name for one in found.findings if one.severity == severity}


@pytest.fixture
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(vocab_size=29, n_positions=16), verify=False)


@pytest.fixture
def prompts() -> dict[str, EncodedPairs]:
    sizes = {"train": 24, "validation": 20, "test": 20}
    return {
        name: random_prompts(lengths=[6, 8] * (n // 2), n_tokens=29, wrong=True, seed=n + place)
        for place, (name, n) in enumerate(sizes.items())
    }


def test_what_is_counted_is_the_plain_models(compiled: CompiledModel, prompts: Mapping[str, EncodedPairs]) -> None:
    found = looked_at(compiled, task_of(**prompts), sample=1000)
    model, right, kl, probability = compiled.model, [], [], []
    with torch.no_grad():
        for pairs in prompts.values():
            for index in range(len(pairs)):
                clean, corrupted = (
                    model(torch.tensor(ids[index][None])).logits[0, -1].log_softmax(-1)
                    for ids in (pairs.clean_ids, pairs.corrupted_ids)
                )
                kl.append(float((clean.exp() * (clean - corrupted)).sum()))
                assert pairs.answer_ids is not None and pairs.correct_ids is not None and pairs.wrong_ids is not None
                probability.append(float(clean[pairs.answer_ids[index][0]].exp()))
                right.append(
                    float(clean[pairs.correct_ids[index]].logsumexp(0) > clean[pairs.wrong_ids[index]].logsumexp(0))
                )
    seen = found.behaviour
    assert seen is not None and seen.n == 64 and seen.choice and seen.metric == "kl"
    assert seen.accuracy == pytest.approx(np.mean(right)) and seen.n_accuracy == 64
    assert seen.cut == pytest.approx(np.mean(kl), rel=1e-4)
    assert seen.answer_probability == pytest.approx(np.mean(probability), rel=1e-5)
    assert found.splits["train"].n == 24 and (found.splits["train"].shortest, found.splits["train"].longest) == (6, 8)
    assert not found.errors


def test_a_rotary_model_runs_longer_prompts_than_it_was_made_for(tiny_llama, prompts) -> None:
    compiled = compile_model(tiny_llama(vocab_size=29, n_positions=7), verify=False)
    found = looked_at(compiled, task_of(**prompts))
    assert not found.errors
    (doubt,) = (one for one in found.doubts if one.name == "prompts-stretched" and "test prompts" in one.text)
    assert "10 test prompts are longer than the 7 tokens the model was made for" in doubt.text


def test_prompts_that_repeat_others_are_said(compiled, prompts) -> None:
    twice = prompts["test"].subset([*range(10), *range(10)])
    found = looked_at(compiled, task_of(**{**prompts, "test": twice}), sample=0)
    (doubt,) = (one for one in found.doubts if one.name == "repeated-prompts")
    assert "20 test prompts are 10 different ones" in doubt.text


def test_a_sample_is_spread_over_the_splits(prompts: Mapping[str, EncodedPairs]) -> None:
    assert {name: len(pairs) for name, pairs in sample_of(prompts, 16).items()} == {
        "train": 6, "validation": 5, "test": 5,
    }  # fmt: skip


@pytest.mark.parametrize("split", ["train", "validation", "test"])
class TestPromptsThatCannotRun:
    """In every split, from Python, before any work; `IndexError` after training, once."""

    def test_too_long(self, compiled, prompts, split) -> None:
        prompts[split] = random_prompts(lengths=[8] * 20 + [17], n_tokens=29)
        found = looked_at(compiled, task_of(**prompts))
        assert names(found, "error") == {"prompts-too-long"} and found.behaviour is None
        (error,) = found.errors
        assert (
            f"1 {split} prompt is too long" in error.text and "17 tokens" in error.text and "at most 16" in error.text
        )
        with pytest.raises(ConfigurationError, match="takes at most 16"):
            discover(compiled, task_of(**prompts), RECIPE, n_random=0)

    @pytest.mark.parametrize("column", ["clean_ids", "corrupted_ids", "answer_ids", "wrong_ids", "correct_ids"])
    def test_ids_beyond_the_vocabulary(self, compiled, prompts, split, column) -> None:
        pairs = prompts[split]
        rows = [ids.copy() for ids in getattr(pairs, column)]
        rows[3][0] = 29
        prompts[split] = replace(pairs, **{column: tuple(rows)})
        found = looked_at(compiled, task_of(**prompts))
        assert names(found, "error") == {"ids-beyond-vocabulary"}
        assert "has token 29" in found.errors[0].text and "'prompt 3'" in found.errors[0].text


def test_every_way_to_run_prompts_refuses_them(compiled: CompiledModel) -> None:
    long = random_prompts(lengths=[17], n_tokens=29)
    with pytest.raises(ConfigurationError, match="takes at most 16"):
        FrozenRuns(compiled, long, ablation="counterfactual")
    with pytest.raises(ConfigurationError, match="takes at most 16"):
        evaluate(compiled, Circuit.from_edges(compiled.universe, ["input->logits"]), long, n_random=0)


@pytest.mark.parametrize("objective", ["mse", "position-kl"])
def test_an_objective_that_does_not_fit(compiled, prompts, objective) -> None:
    assert "use kl, kl-top1, logit-diff" in looked_at(compiled, task_of(**prompts), objective=objective).errors[0].text
    numbers = {
        name: replace(
            pairs,
            answer_ids=None,
            correct_ids=None,
            wrong_ids=None,
            answer_values=tuple(np.ones(1) for _ in range(len(pairs))),
        )
        for name, pairs in prompts.items()
    }
    with pytest.raises(ConfigurationError, match="answers are numbers"):
        discover(compiled, task_of(**numbers), RECIPE, objective="kl")


def test_a_logit_difference_without_wrong_answers(compiled, prompts) -> None:
    prompts["train"] = replace(prompts["train"], wrong_ids=None)
    assert names(looked_at(compiled, task_of(**prompts), objective="logit-diff"), "error") == {"objective-does-not-fit"}


def test_no_training_prompts_and_no_split(compiled, prompts) -> None:
    assert names(looked_at(compiled, task_of(test=prompts["test"]), splits=("test",)), "error") == {
        "no-training-prompts"
    }
    assert names(looked_at(compiled, task_of(train=prompts["train"])), "error") == {"no-prompts"}


def test_too_much_memory(compiled, prompts) -> None:
    assert names(looked_at(compiled, task_of(**prompts), memory_bytes=1000), "error") == {"does-not-fit"}


def test_pairs_of_the_same_tokens(compiled, prompts) -> None:
    test = prompts["test"]
    some = (*test.clean_ids[:2], *test.corrupted_ids[2:])
    prompts["test"] = replace(test, corrupted_ids=some)
    found = looked_at(compiled, task_of(**prompts))
    assert "same-tokens" in names(found, "doubt")
    assert any("2 of 20 test prompts have the same tokens" in one.text for one in found.doubts)
    assert found.splits["test"].n_same == 2
    assert "same-tokens" not in names(looked_at(compiled, task_of(**prompts), ablation="zero"), "doubt")
    prompts["test"] = replace(test, corrupted_ids=test.clean_ids)
    assert names(looked_at(compiled, task_of(**prompts)), "error") == {"same-tokens"}
    with pytest.raises(ConfigurationError, match="every test prompt has the same tokens"):
        discover(compiled, task_of(**prompts), RECIPE)
    seen = looked_at(compiled, task_of(**prompts))
    with pytest.raises(ConfigurationError, match="every test prompt has the same tokens"):
        discover(compiled, task_of(**prompts), RECIPE, preflight=seen)


def test_every_way_to_measure_refuses_pairs_of_the_same_tokens(compiled, prompts) -> None:
    """Else the empty circuit agrees fully with the model."""
    same = replace(prompts["test"], corrupted_ids=prompts["test"].clean_ids)
    circuit = Circuit.from_edges(compiled.universe, ["input->logits"])
    measures = (
        lambda ablation: evaluate(compiled, circuit, same, n_random=0, ablation=ablation),
        lambda ablation: evaluate_masks(compiled, {"one": circuit}, same, ablation=ablation),
        lambda ablation: compare_faithfulness(compiled, {"a": circuit, "b": circuit}, same, ablation=ablation),
        lambda ablation: measure_effects(compiled, circuit, same, n=2, ablation=ablation),
    )
    for measure in measures:
        with pytest.raises(PromptFormatError, match="all 20 prompts have the same tokens as their counterfactual"):
            measure("counterfactual")
        measure("zero")


def test_prompts_in_two_splits(compiled, prompts) -> None:
    prompts["test"] = replace(
        prompts["test"], clean_ids=(prompts["train"].clean_ids[0], *prompts["test"].clean_ids[1:])
    )
    found = looked_at(compiled, task_of(**prompts))
    assert any("1 of 20 test prompts are also train prompts" in one.text for one in found.doubts)
    same = dict.fromkeys(prompts, prompts["train"])  # all inputs in every split, as Tracr's tasks have
    assert "shared-between-splits" not in names(looked_at(compiled, task_of(**same)), "doubt")


def test_a_counterfactual_that_hardly_changes_anything(compiled, prompts) -> None:
    embeddings = compiled.model.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(embeddings, nn.Embedding)
    with torch.no_grad():
        embeddings.weight[:] = embeddings.weight[:1]
    assert "nothing-to-explain" in names(looked_at(compiled, task_of(**prompts)), "doubt")


def test_outputs_that_are_no_numbers(compiled, prompts) -> None:
    token = int(prompts["test"].clean_ids[0][0])
    n_bad = sum(bool((clean == token).any()) for pairs in prompts.values() for clean in pairs.clean_ids)
    with torch.no_grad():
        compiled.model.transformer.wte.weight[token] = torch.nan  # type: ignore[union-attr,index]
    seen = looked_at(compiled, task_of(**prompts), sample=1000).behaviour
    # The embeddings are the output head as well: a column of NaN in every prompt's logits.
    assert seen is not None and n_bad and seen.n_undefined == 64
    with pytest.raises(ConfigurationError, match="not finite numbers"):
        discover(compiled, task_of(**prompts), RECIPE)


class TestText:
    """Doubts that need a tokenizer."""

    cities = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo", "Peru": "Lima", "Cuba": "Havana"}

    def pairs(self, answer: str = " {}", **more: object) -> list[PromptPair]:
        return [
            PromptPair(clean=f"The capital of {a} is", corrupted=f"The capital of {b} is", answer=answer.format(city),
                       split=("train", "test", "validation")[place % 3])
            for place, (a, city) in enumerate(self.cities.items())
            for b in list(self.cities) if b != a
        ][:: 1]  # fmt: skip

    def test_an_answer_without_its_space(self, tiny_gpt2) -> None:
        told = " ".join(["The capital of is", *self.cities, *self.cities.values()]) + " ".join(self.cities.values())
        tokenizer = piece_tokenizer([told] * 50, vocabulary=600)
        lima = tokenizer(" Lima")["input_ids"]
        model = tiny_gpt2(vocab_size=len(tokenizer))
        model.lm_head = nn.Linear(model.config.n_embd, len(tokenizer), bias=False)  # its own, not the embeddings'
        model.config.tie_word_embeddings = False
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.transformer.ln_f.weight.zero_()
            model.transformer.ln_f.bias.fill_(1.0)
            model.lm_head.weight[lima[0]] = 1.0  # " Lima" is the likeliest token everywhere
        compiled = compile_model(LoadedModel(model=model, tokenizer=tokenizer, name="m"), verify=False)
        for answer, doubted in (("{}", True), (" {}", False)):
            pairs = [replace(one, answer=answer.format("Lima")) for one in self.pairs()]
            task = task_from_pairs(pairs, tokenizer)
            found = {one.name: one for one in looked_at(compiled, task).findings}
            assert ("missing-space" in found) == doubted
            if doubted:
                assert "' Lima'" in found["missing-space"].text and "answer 'Lima'" in found["missing-space"].text

    def test_unknown_words(self, tiny_gpt2) -> None:
        told = ["The capital of is", " France Italy Spain Egypt Peru", " Paris Rome Madrid Cairo Lima Havana"]
        tokenizer = word_tokenizer(told)
        compiled = compile_model(
            LoadedModel(model=tiny_gpt2(vocab_size=len(tokenizer)), tokenizer=tokenizer, name="m"), verify=False
        )
        found = looked_at(compiled, task_from_pairs(self.pairs(), tokenizer))
        said = [one.text for one in found.doubts if one.name == "unknown-tokens"]
        assert any("words in the prompt" in text for text in said)


def test_the_result_is_json_and_can_be_looked_at(compiled, prompts) -> None:
    found = preflight(compiled, task_of(**prompts), RECIPE)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["splits"]["train"]["n"] == 24 and values["duration"]["total"] > 0 and values["memory"]["fits"]
    assert "Preflight of t" in repr(found) and "KL(clean ‖ corrupted)" in repr(found)
    html = found._repr_html_()
    assert "Preflight of t" in html and "<script" not in html
    found.require(strict=True)
    prompts["test"] = prompts["test"].subset(range(3))
    prompts["validation"] = prompts["validation"].subset(range(3))
    doubtful = looked_at(compiled, task_of(**prompts), sample=0)
    doubtful.require()
    with pytest.raises(ConfigurationError, match="3 validation, 3 test prompts to measure on"):
        doubtful.require(strict=True)


@pytest.mark.slow
def test_a_discovery_keeps_it(compiled, prompts) -> None:
    said: list[str] = []
    prompts["train"] = prompts["train"].subset(range(10))
    found = discover(compiled, task_of(**prompts), RECIPE, n_random=1, say=said.append)
    assert found.metrics["preflight"]["task"] == "t" and isinstance(found.metrics["verdicts"], list)
    assert any(line.startswith("doubt (") for line in said)
    before = preflight(compiled, task_of(**prompts), RECIPE, sample=0, estimate_time=False)
    again = discover(compiled, task_of(**prompts), RECIPE, n_random=1, preflight=before)
    assert again.metrics["preflight"] == before.to_dict()


def test_the_duration_is_counted_by_hand() -> None:
    timed = Timed(fill=0.5, warm=2.0, steps=((0.0, 4.0), (0.98, 2.0)), circuit_pass=0.125, circuit=0.25, complement=1.0)
    recipe = recipe_named("paper-gpt2").changed(steps=2, ramp_steps=1)
    lengths = np.repeat([7, 9], [17, 2])  # 17 of one length are two passes, 2 of another a third
    ran = estimate_duration(timed, recipe, n_train=10, evaluated=[lengths], n_random=2, n_random_prompts=3, n_kept=0)
    assert (ran.filling, ran.warm_start) == (5.0, 0.0)
    # The first step is asked for no sparsity, the second for all of it.
    from pruning.runs.checking.duration import EFFECTS, EVALUATED, TRAINED

    assert ran.training == pytest.approx(6.0 * TRAINED)
    n_lengths = len(set(lengths[sampled_prompts(19, 3, seed=0)]))
    on_all = 19 * (0.5 + 1.0) + 2 * (3 * 0.125 + 19 * 0.25)
    assert ran.evaluation == pytest.approx((on_all + 2 * (n_lengths * 0.125 + 3 * 0.25)) * EVALUATED)
    assert ran.effects == pytest.approx(0.375 * EFFECTS)


def test_behaviour_of_numbers() -> None:
    from circuitgraph.models import load_model
    from pruning import load_task

    program = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
    task = load_task("tracr-xproportion", program.tokenizer, options={"max_length": 2})
    seen = behaviour(program, {"test": task.split("test")}, ablation="zero")
    assert (seen.metric, seen.accuracy, seen.answer_probability, seen.wrong_tokens) == ("mse", 1.0, None, ())
