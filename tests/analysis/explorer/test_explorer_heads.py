"""What heads do, in the explorer: what the page is told, what is refused, and what a click on a head shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.explorer import page_contents
from analysis.explorer.heads import MOST_NUMBERS
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe
from tests.analysis.small_circuits import random_circuit

UNIVERSE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
EDGES = ["input->a0.h1<q>", "a0.h1->a1.h2<q>", "a1.h2->logits", "input->m0", "m0->logits", "input->a1.h3<q>"]
CIRCUIT = Circuit.from_edges(UNIVERSE, [*EDGES, "a1.h3->logits"], provenance={"model": "small", "config_hash": "1"})
HOSTILE = "</script><img src=x onerror=\"window.hacked = 'token'\">"
TOKENS = [" The", " cat", "\n", HOSTILE]
LAST = [0.1, 0.7, 0.004, 0.196]


def example(tokens: list[str] = TOKENS, last: list[float] = LAST) -> dict[str, Any]:
    """A prompt in which each position sees itself alone, and the last, which is asked, what is said here."""
    n = len(tokens)
    rows = [[float(at == seen) for seen in range(n)] for at in range(n - 1)] + [last]
    return {
        "tokens": tokens, "asked": [n - 1], "attention": {"a0.h1": rows, "a1.h2": rows},
        "says": {"a0.h1": [[[" dog", 0.5]]], "a1.h2": [[[HOSTILE, 2.25], [" cat", 1.0]]]},
    }  # fmt: skip


def heads(*examples: dict[str, Any], **changed: Any) -> dict[str, Any]:
    rows = [
        {"head": "a0.h1", "roles": "", "direct": None, "rank": None},
        {"head": "a1.h2", "roles": "induction, mover", "direct": 1.23456, "rank": 2.5},
        {"head": "a1.h0", "roles": "mover", "direct": 9.0, "rank": 1.0},  # has no edge of the circuit
    ]
    told = {"format_version": 1, "model": "small", "config_hash": "1", "universe": UNIVERSE.to_dict(), "heads": rows}
    about = {"n_prompts": 1200, "split": "test", "task": "ioi", "examples": list(examples or [example()])}
    return {**told, **about, **changed}


def test_a_head_of_the_circuit_comes_with_roles_attention_and_words() -> None:
    told = page_contents(CIRCUIT, heads=heads())["heads"]
    assert list(told["of"]) == ["a0.h1", "a1.h2"]
    assert told["of"]["a1.h2"] == {
        "roles": ["induction", "mover"], "direct": 1.2346, "rank": 2.5,
        "attention": [[[100], [0, 100], [0, 0, 100], [10, 70, 0, 20]]],
        "says": [[[[HOSTILE, 2.25], [" cat", 1.0]]]],
    }  # fmt: skip
    assert told["of"]["a0.h1"]["roles"] == [] and told["of"]["a0.h1"]["direct"] is None
    assert told["prompts"] == [{"tokens": TOKENS, "asked": [3]}]
    assert (told["about"], told["left_out"]) == ("1,200 test prompts of ioi", "")
    assert page_contents(CIRCUIT)["heads"] is None


def test_it_is_read_from_a_folder_and_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "heads.json").write_text(json.dumps(heads()))
    by_hand = page_contents(CIRCUIT, heads=heads())
    assert page_contents(CIRCUIT, heads=tmp_path) == page_contents(CIRCUIT, heads=tmp_path / "heads.json") == by_hand


def test_what_does_not_fit_is_left_out_and_told() -> None:
    def of(n: int) -> dict[str, Any]:
        return example([f" {place}" for place in range(n)], [1.0] + [0.0] * (n - 1))

    # Two heads with 64 · 65 / 2 shares each: so many prompts fit.
    fitting = MOST_NUMBERS // (2 * 64 * 65 // 2)
    told = page_contents(CIRCUIT, heads=heads(of(65), *[of(64)] * (fitting + 3), of(2)))["heads"]
    assert [len(prompt["tokens"]) for prompt in told["prompts"]] == [64] * fitting + [2]
    assert told["left_out"] == ("Prompts left out: 1 longer than 64 tokens, 3 for which the page would be too large.")
    assert len(told["of"]["a1.h2"]["attention"]) == fitting + 1


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"format_version": 2}, "format_version"),
        ({"universe": {"family": "llama"}}, "universe cannot be read"),
        ({"heads": [{"roles": "mover"}]}, "KeyError: 'head'"),
        ({"examples": [{"tokens": ["a"]}]}, "KeyError: 'attention'"),
    ],
)
def test_what_is_no_such_file_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"circuitgraph heads --out DIR.*" + said):
        page_contents(CIRCUIT, heads=heads(**changed))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for text in (None, "{", "[]"):
        if text is not None:
            (tmp_path / "heads.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"heads\.json: expected what `circuitgraph heads"):
            page_contents(CIRCUIT, heads=tmp_path)


def test_heads_of_another_model_are_refused() -> None:
    larger = Universe(family="llama", n_layers=3, n_heads=4, n_kv_heads=2)
    with pytest.raises(GraphMismatchError, match="n_layers: 3 against 2"):
        page_contents(CIRCUIT, heads=heads(universe=larger.to_dict()))
    with pytest.raises(GraphMismatchError, match="config_hash: '2' against '1'"):
        page_contents(CIRCUIT, heads=heads(config_hash="2"))
    assert page_contents(CIRCUIT, heads=heads(config_hash="2"), across_checkpoints=True)["heads"]["of"]
    # Granularity is no matter: the heads are the same.
    finer = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2, kv_heads="per_query")
    assert page_contents(CIRCUIT, heads=heads(universe=finer.to_dict()))["heads"]["of"]


@pytest.fixture(scope="module")
def page(kept_open):
    return kept_open(CIRCUIT, heads=heads(example(), example([" One", " two"], [0.25, 0.75])))


@pytest.mark.browser
@pytest.mark.slow
class TestInTheBrowser:
    def shares(self, page) -> list[str]:
        return page.page.eval_on_selector_all(
            "#head .token", "all => all.map(token => token.style.getPropertyValue('--share'))"
        )

    def test_a_click_on_a_head_shows_what_it_attends_to(self, page) -> None:
        page.start_over()
        page.page.evaluate("document.querySelector('aside').scrollTop = 500")
        page.click_node("a1.h2")
        assert page.page.evaluate("document.querySelector('aside').scrollTop") == 0
        assert page.text("#head .roles") == "induction, mover"
        assert (
            "gets 1.235 next to" in page.text("#head")
            and "number 2.5 of all" in page.text("#head")
            and "1,200 test prompts of ioi" in page.text("#head")
        )
        assert page.page.eval_on_selector_all("#head .token", "all => all.map(one => one.textContent)") == [
            " The", " cat", "⏎", HOSTILE,
        ]  # fmt: skip
        assert self.shares(page) == ["7.5%", "52.5%", "0%", "15%"]
        assert (
            page.text("#looks-at")
            == f"From “{HOSTILE}” (3) it looks at “ cat” (1) 70 %, “{HOSTILE}” (3) 20 %, “ The” (0) 10 %."
        )
        assert page.text("#says").startswith(f"Says most: “{HOSTILE}” +2.25, “ cat” +1 ")
        assert page.page.evaluate("window.hacked") is None
        assert page.text("#announcer").endswith("Roles: induction, mover.")

    def test_a_click_on_a_token_looks_from_there_and_arrows_go_on(self, page) -> None:
        page.start_over().click_node("a1.h2")
        page.page.click("#head .token >> nth=1")
        assert self.shares(page) == ["0%", "75%", "0%", "0%"] and page.page.query_selector("#says") is None
        page.page.keyboard.press("ArrowLeft")
        assert page.text("#looks-at") == "From “ The” (0) it looks at “ The” (0) 100 %."
        page.page.keyboard.press("ArrowLeft")  # there is nothing before it
        assert page.text("#head .token.from") == " The"

    def test_another_prompt_and_another_head(self, page) -> None:
        page.start_over().click_node("a1.h2")
        page.choose("#prompt", 1)
        assert page.text("#looks-at") == "From “ two” (1) it looks at “ two” (1) 75 %, “ One” (0) 25 %."
        page.page.keyboard.press("Escape")
        page.click_node("a0.h1")
        assert page.text("#head .roles") == "no role" and page.page.input_value("#prompt") == "1"
        assert page.text("#says").startswith("Says most: “ dog” +0.5")

    def test_what_was_not_looked_at_says_so_and_other_nodes_nothing(self, page) -> None:
        page.start_over().click_node("a1.h3")
        assert page.text("#head") == "What this head does was not looked at."
        page.page.keyboard.press("Escape")
        page.click_node("m0")
        assert page.page.query_selector("#head") is None

    def test_without_heads_the_panel_is_as_it_was(self, explore) -> None:
        shown = explore(random_circuit("gqa", 2))
        shown.search("a1.h3")
        shown.page.press("#query", "Enter")
        assert shown.page.query_selector("#head") is None and shown.text("#selection h2") == "a1.h3"
