"""Lanes: parts side by side give what they give one after the other, to the bit."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import pruning.methods.edge_pruning.train
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.batch_run import Share
from pruning.execution.lanes import Lanes, lanes_for
from pruning.execution.threads import threads
from pruning.methods.edge_pruning.loop import train
from pruning.methods.gate_gradients import GatePath, gate_importance
from tests.pruning.execution.test_memory_saving import Cramped, trainer
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, curve, learnt


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2().double(), verify=False)


@pytest.fixture
def four_threads():
    with threads(4):
        yield


class TestLanes:
    def test_results_come_in_order_whichever_is_done_first(self) -> None:
        first_waits = threading.Event()

        def job(part: int) -> int:
            if part == 0:
                assert first_waits.wait(10)
            else:
                first_waits.set()
            return part

        assert list(Lanes(2).map(job, [0, 1, 2])) == [0, 1, 2]

    @pytest.mark.parametrize("n", [2, 4])
    def test_each_has_its_share_of_the_threads(self, n: int, four_threads: None) -> None:
        lanes = Lanes(n)
        together = threading.Barrier(n)

        def job(part: int) -> tuple[int, int]:
            together.wait(10)
            return threading.get_ident(), torch.get_num_threads()

        seen = list(lanes.map(job, range(n)))
        assert len({ident for ident, _ in seen}) == n
        assert [threads for _, threads in seen] == [4 // n] * n
        assert torch.get_num_threads() == 4
        newcomer = []
        other = threading.Thread(target=lambda: newcomer.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert newcomer == [4]

    def test_gradients_are_on_or_off_as_they_are_here(self) -> None:
        lanes = Lanes(2)
        with torch.no_grad():
            assert list(lanes.map(lambda part: torch.is_grad_enabled(), range(3))) == [False] * 3
        assert list(lanes.map(lambda part: torch.is_grad_enabled(), range(3))) == [True] * 3

    def test_a_failure_is_told_after_all_others_are_done(self) -> None:
        running = []

        def job(part: int) -> None:
            if part == 0:
                raise KeyError("part 0")
            time.sleep(0.05)
            running.append(part)

        with pytest.raises(KeyError, match="part 0"):
            list(Lanes(2).map(job, range(20)))
        then = list(running)
        time.sleep(0.15)
        assert running == then and len(then) < 19

    def test_one_lane_stays_in_this_thread(self) -> None:
        here = threading.get_ident()
        assert set(Lanes(1).map(lambda part: threading.get_ident(), range(3))) == {here}
        assert set(Lanes(2).map(lambda part: threading.get_ident(), [0])) == {here}

    def test_how_many_pay(self, four_threads: None) -> None:
        cpu = torch.device("cpu")
        assert [lanes_for(cpu, tokens) for tokens in (0, 68, 223, 224, 447, 448, 10_000)] == [1, 1, 1, 2, 3, 4, 4]
        assert lanes_for(torch.device("meta"), 10_000) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [LAGRANGIAN, BUDGET])
def test_training_in_lanes_is_training_in_these_parts(compiled: CompiledModel, recipe) -> None:
    apart, beside = trainer(compiled, recipe, micro_batch=2), trainer(compiled, recipe, lanes=2)
    first, again = train(apart), train(beside)
    assert beside.runner.lanes == 2
    for a, b in zip(learnt(first), learnt(again), strict=True):
        assert torch.equal(a, b)
    assert curve(first) == curve(again)


@pytest.mark.parametrize(
    ("micro_batch", "lanes", "n", "sizes"),
    [
        (4, 1, 8, [4, 4]),
        (4, 2, 8, [2, 2, 2, 2]),
        (4, 2, 5, [2, 1, 1, 1]),
        (1, 2, 3, [1, 1, 1]),
        (8, 3, 2, [1, 1]),
        (3, 2, 4, [1, 1, 1, 1]),
    ],
)
def test_parts(compiled: CompiledModel, micro_batch: int, lanes: int, n: int, sizes: list[int]) -> None:
    runner = trainer(compiled, LAGRANGIAN, lanes=lanes).runner
    runner.micro_batch = micro_batch
    parts = runner._parts(np.arange(n), lanes, micro_batch)
    assert [len(part) for part in parts] == sizes
    assert np.concatenate(parts).tolist() == list(range(n))


@pytest.mark.parametrize(("one_more", "whole"), [(False, True), (True, False)])
def test_sparse_gates_run_whole(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, one_more: bool, whole: bool
) -> None:
    runner = trainer(compiled, LAGRANGIAN, lanes=2).runner
    n_edges = compiled.universe.n_edges
    gates = torch.zeros(n_edges, dtype=torch.float64)
    gates[: (n_edges - 1) // 30 + one_more] = 1  # the most that are fewer than a thirtieth, and one more
    share = Share(prompts=np.arange(4), gates=gates, wanted=torch.ones(n_edges, dtype=torch.bool))
    ran: list[tuple[int, bool]] = []
    run_part = runner._run_part

    def watched(part: Share, n_prompts: int):
        ran.append((len(part.prompts), threading.current_thread() is threading.main_thread()))
        return run_part(part, n_prompts)

    monkeypatch.setattr(runner, "_run_part", watched)
    runner.run([share])
    assert ran == ([(4, True)] if whole else [(2, False), (2, False)])


@pytest.mark.parametrize(("names", "at_once"), [(["input->m0", "m0->logits"], 4), (["input->m1"], 6), ([], 6)])
def test_more_prompts_run_at_once_where_few_nodes_do(compiled: CompiledModel, names: list[str], at_once: int) -> None:
    """A prompt of 5 tokens, 1 asked of 29: 5 (30 × 12 + 4 × 6 × 4 + 2 × 48 + 168) + 6 × 29 = 3,774 numbers, of which
    5 × 168 are ablation values. 4 nodes, one an MLP, are 5 (48 + 48 + 168) + 174 = 1,494: 2 prompts for 1. None are
    1,014: 3 for 1. An edge that dangles is none."""
    runner = trainer(compiled, LAGRANGIAN, micro_batch=2).runner
    gates = torch.zeros(compiled.universe.n_edges)
    gates[[compiled.universe.edge_index(*name.split("->")) for name in names]] = 1
    share = Share(prompts=np.arange(4), gates=gates, wanted=torch.zeros(len(gates), dtype=torch.bool))
    assert runner._at_once(share) == at_once
    assert runner._at_once(replace(share, wanted=~share.wanted)) == 2, "all of them"
    assert runner._at_once(replace(share, prompts=np.arange(2))) == 2, "no more are there"


@pytest.mark.slow
def test_a_lane_that_runs_out_of_memory_halves_what_all_take(compiled: CompiledModel) -> None:
    said: list[str] = []
    cramped = trainer(compiled, LAGRANGIAN, say=said.append, lanes=2)
    cramped.runner.compiled = Cramped(compiled, 1)  # type: ignore[assignment]
    run = train(cramped)
    assert said == ["memory ran out: going on with 2 prompts at once, the same batches"]
    assert not run.stopped_by
    for a, b in zip(learnt(run), learnt(train(trainer(compiled, LAGRANGIAN, micro_batch=1))), strict=True):
        assert torch.equal(a, b)


def test_the_warm_start_in_lanes(compiled: CompiledModel) -> None:
    apart, beside = (trainer(compiled, LAGRANGIAN, **how).runner for how in ({"micro_batch": 2}, {"lanes": 2}))
    first, again = (gate_importance(runner, GatePath(batch_size=4), seed=1) for runner in (apart, beside))
    assert torch.equal(first, again) and bool(first.any())


@pytest.mark.parametrize(
    ("changes", "micro_batch", "tokens"), [({}, None, 20), ({}, 3, 15), ({"draws": 2}, None, 10), ({"draws": 4}, 3, 5)]
)
def test_what_runs_at_once_decides_on_lanes(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], micro_batch: int, tokens: int
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        pruning.methods.edge_pruning.train, "lanes_for", lambda device, tokens: seen.append(tokens) or 1
    )
    trainer(compiled, replace(LAGRANGIAN, batch_size=4, **changes), micro_batch=micro_batch)
    trainer(compiled, LAGRANGIAN, lanes=2)
    assert seen == [tokens]


def test_every_draw_is_counted(compiled: CompiledModel) -> None:
    beside = trainer(compiled, LAGRANGIAN, lanes=4)
    train(beside)
    assert beside.runner.frozen.drawn.total == 4 * LAGRANGIAN.steps
