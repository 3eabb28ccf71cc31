"""`steer`, `suppress` and `run --with`: what they write, that it is applied, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.interventions.positions import PositionChange
from circuitgraph.models import load_model
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow

MODEL = ("--model", "induction-neox", "--no-verify")
TASK = ("--task", "induction", "--train-size", 16, "--validation-size", 8, "--test-size", 8)


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    out = tmp_path_factory.mktemp("steer") / "steer.json"
    ended = call(
        "steer",
        *MODEL,
        *TASK,
        "--steps",
        40,
        "--learning-rate",
        0.05,
        "--sparsity",
        0,
        "--strengths=-1,0,1",
        "--out",
        out,
        "--json",
    )
    assert ended.code == 0, ended.err
    return out, ended.json


def test_it_writes_an_intervention_that_turns_the_answer(steered):
    """The model is sure of its answers, so that only the way towards wrong ones is open to it."""
    out, told = steered
    rows = {row["strength"]: row for row in told["judged"]}
    assert rows[-1]["logit_difference"] < 0.5 * rows[0]["logit_difference"]
    assert rows[-1]["right_wins"] < rows[0]["right_wins"] == 1
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    read = Intervention.load(out)
    assert read.provenance["task"] == "induction" and len(read) == told["n_edges"] > 0
    assert json.loads(out.read_text())["provenance"]["settings"]["unit"] == "writers"


def test_it_is_applied_to_a_prompt(steered):
    out, _ = steered
    prompt = "a b c d a b c"
    as_it_is = call("run", "--with", out, "--strength", 0, "--prompt", prompt, "--no-verify", "--json")
    assert as_it_is.code == 0, as_it_is.err
    assert as_it_is.json["positions"][0]["kl"] == pytest.approx(0, abs=1e-5)
    changed = call("run", "--with", out, "--strength=-2", "--prompt", prompt, "--no-verify", "--json").json
    assert changed["positions"][0]["kl"] > 0.01
    assert changed["strength"] == -2 and changed["intervention"] == str(out)
    table = call("run", "--with", out, "--prompt", prompt, "--no-verify")
    assert table.code == 0 and "changed model" in table.out


def test_a_change_at_one_position_is_applied_to_a_prompt(tmp_path):
    """The last layer's heads, cut at the last token alone, are those that answer; cut at the first they are nothing."""
    compiled = compile_model(load_model("induction-neox"), verify=False)
    told = {}
    for place in ("first", "last"):
        cut = [PositionChange(writer=f"a1.h{head}", positions=place, change=-1) for head in range(4)]
        about = {**compiled.identity, "task": "induction"}
        file = Intervention.from_positions(compiled.universe, cut, provenance=about).save(tmp_path / f"{place}.json")
        ended = call("run", "--with", file, "--prompt", "a b c d a b c", "--no-verify", "--json")
        assert ended.code == 0, ended.err
        told[place] = ended.json["positions"][0]
    assert told["first"]["kl"] == pytest.approx(0, abs=1e-6) and told["last"]["kl"] > 1
    assert told["last"]["circuit"][0]["token"] != told["last"]["full"][0]["token"] == "d"
    fifth = Intervention.from_positions(
        compiled.universe, [PositionChange(writer="m0", positions=50, change=-1)], provenance=about
    ).save(tmp_path / "far.json")
    refused = call("run", "--with", fifth, "--prompt", "a b c", "--no-verify")
    assert refused.code == 2 and "m0 is changed at position 50, and prompt 0 of the batch has 4 tokens" in refused.err


def test_heads_to_cut_are_named(tmp_path):
    out = tmp_path / "cut.json"
    ended = call("suppress", *MODEL, *TASK, "--steps", 4, "--keep", 50, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["heads"] == [] and ended.json["method"] == "suppression"
    assert ended.json["random_heads"] == []  # nothing to compare with
    assert len(Intervention.load(out)) == 0


def test_it_says_that_nothing_tempts_the_model(tmp_path):
    ended = call("suppress", *MODEL, *TASK, "--steps", 1, "--keep", 50, "--out", tmp_path / "cut.json")
    assert "right answer wins on 100 % of the test prompts. There is hardly a wrong answer" in ended.err


def test_as_many_heads_drawn_at_random_are_cut_beside(tmp_path, monkeypatch):
    """The model is tempted by nothing, so the search is told what to find."""
    from pruning.steering import suppression

    def found(compiled, *_, **__):
        heads = ("a0.h1", "a1.h2")
        cut = Intervention.from_writers(compiled.universe, dict.fromkeys(heads, -1.0))
        return suppression.Suppression(heads=heads, intervention=cut, loss=0.0, numbers=np.zeros(8))

    monkeypatch.setattr(suppression, "find_suppression", found)
    ended = call("suppress", *MODEL, *TASK, "--n-random", 3, "--out", tmp_path / "cut.json")
    assert ended.code == 0, ended.err
    draws = Intervention.load(tmp_path / "cut.json").provenance["random_heads"]
    assert [row["draw"] for row in draws] == [0, 1, 2]
    assert {len(row["heads"].split()) for row in draws} == {2}
    assert "2 heads drawn at random, 3 times" in ended.out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("run", "--prompt", "a b"), "nothing to run: give a circuit file, or an intervention with --with FILE"),
        (("run", "missing.json", "--prompt", "a b"), "missing.json"),
        (("run", "--with", "missing.json", "--prompt", "a b"), "missing.json: cannot be read"),
        (("steer", *MODEL, *TASK, "--unit", "heads", "--out", "x.json"), "unit must be one of"),
        (("steer", *MODEL, *TASK, "--strengths", "much", "--out", "x.json"), "expected numbers separated by commas"),
        (("steer", *MODEL, *TASK, "--strengths", "0,nan", "--out", "x.json"), "expected numbers separated by commas"),
        (("steer", *MODEL, *TASK, "--test-size", 0, "--out", "x.json"), "there are no test prompts"),
        (("suppress", *MODEL, *TASK, "--validation-size", 0, "--out", "x.json"), "there are no validation prompts"),
        (("suppress", *MODEL, *TASK, "--steps", 0, "--out", "x.json"), "steps must be at least 1"),
        (("suppress", *MODEL, *TASK, "--n-random", -1, "--out", "x.json"), "--n-random must be at least 0; got -1"),
        (
            ("steer", "--model", "tracr:reverse", "--task", "tracr-reverse", "--no-verify", "--out", "x.json"),
            "needs wrong answers",
        ),
    ],
)
def test_refusals_name_what_is_wrong(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call(*given)
    assert ended.code == 2 and told in ended.err and "training prompts" not in ended.err, ended.err
    assert list(tmp_path.iterdir()) == []


def test_outputs_without_a_likeliest_token_are_no_table(steered):
    ended = call("run", "--with", steered[0], "--strength", "1e300", "--prompt", "a b c a", "--no-verify")
    assert ended.code == 2 and "outputs are NaN or infinite" in ended.err and ended.out == ""


def test_a_file_is_not_replaced_unasked(steered):
    out, _ = steered
    before = out.read_text()
    ended = call("steer", *MODEL, *TASK, "--out", out)
    assert ended.code == 2 and "--overwrite" in ended.err and out.read_text() == before


def test_a_circuit_of_another_ablation_is_refused(steered, tmp_path):
    from circuitgraph import Circuit

    out, _ = steered
    change = Intervention.load(out)
    circuit = Circuit.from_edges(change.universe, ["input->logits"], provenance=change.provenance)
    file = circuit.save(tmp_path / "circuit.json")
    ended = call("run", file, "--with", out, "--prompt", "a b", "--corrupted", "a c", "--no-verify")
    assert ended.code == 2 and "found under counterfactual ablation" in ended.err
    alone = call("run", file, "--strength", 2, "--prompt", "a b", "--corrupted", "a c", "--no-verify")
    assert alone.code == 2 and "--strength is that of an intervention" in alone.err
