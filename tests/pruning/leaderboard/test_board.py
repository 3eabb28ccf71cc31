"""A leaderboard: every cell once, kept as it is done, gone on with; the cells that fail leave the others alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import pruning.leaderboard.board
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.models import load_model
from pruning.evaluation.rankings import measure_ranking
from pruning.leaderboard.board import Board, run_leaderboard
from pruning.leaderboard.folder import cell_name
from pruning.methods.eap import EAP
from pruning.runs.rank import rank_edges
from pruning.tasks import load_task

SIZES = (0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A ranking from the seed, and how often it was asked for."""

    scale: float = 1.0
    fails: bool = False

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "a test's own"
    source: ClassVar[str] = "here"
    cost: ClassVar[str] = "nothing"
    direction = "noising"
    estimates = "nothing"
    ablations = ("counterfactual", "zero")
    asked: ClassVar[list[int]] = []

    def default_objective(self, pairs, of_task):
        return of_task or "kl"

    def require(self, objective):
        pass

    def score(self, probe, *, seed=0):
        self.asked.append(seed)
        if self.fails:
            raise ConfigurationError("not today")
        return self.scale * np.random.default_rng(seed).normal(size=probe.compiled.universe.n_edges)


@pytest.fixture(scope="module")
def setting():
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    return compiled, load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})


def run(setting, out, methods, **how) -> Board:
    compiled, task = setting
    return run_leaderboard(compiled, {"one": task}, methods, out=out, sizes=SIZES, **how)


def test_a_cell_is_the_method_alone_measured(setting, tmp_path) -> None:
    compiled, task = setting
    found = run(setting, tmp_path / "x", {"eap": EAP()})
    alone = rank_edges(compiled, task, "eap")
    table = measure_ranking(compiled, alone, task.split("test"), sizes=SIZES, orders=("signed", "size"))
    assert found.table["kl"].tolist() == pytest.approx(table["kl"].tolist(), abs=1e-7)
    assert (
        found.table[["order", "size", "n_edges"]].values.tolist() == table[["order", "size", "n_edges"]].values.tolist()
    )
    kept = EdgeScores.load(tmp_path / "x" / "scores" / cell_name("eap", "one", 0))
    assert np.allclose(kept.values, alone.values)
    cost = found.costs.iloc[0]
    assert cost["objective"] == "cross-entropy" and cost["seconds"] > 0 and cost["forward_passes"] > 0


def test_it_goes_on_with_what_is_missing(setting, tmp_path) -> None:
    Fixed.asked.clear()
    first = run(setting, tmp_path / "x", {"fixed": Fixed()}, seeds=(0,))
    assert Fixed.asked == [0]
    more = run(setting, tmp_path / "x", {"fixed": Fixed(), "twice": Fixed(scale=2.0)}, seeds=(0, 1))
    assert Fixed.asked == [0, 0, 1, 1] and len(more.costs) == 4
    same = more.table.query("method == 'fixed' and seed == 0").reset_index(drop=True)
    pd.testing.assert_frame_equal(same, first.table, check_dtype=False)


def test_a_cell_of_other_prompts_or_settings_is_not_replaced(setting, tmp_path) -> None:
    compiled, task = setting
    run(setting, tmp_path / "x", {"fixed": Fixed()})
    kept = (tmp_path / "x" / "cells" / "fixed--one--0.json").read_bytes()
    Fixed.asked.clear()
    with pytest.raises(ConfigurationError, match="fixed--one--0.json is of other settings: .*scale"):
        run(setting, tmp_path / "x", {"new": Fixed(), "fixed": Fixed(scale=3.0)})
    others = replace(task, data_hash="0" * 64)
    with pytest.raises(ConfigurationError, match="fixed--one--0.json is of other prompts"):
        run((compiled, others), tmp_path / "x", {"new": Fixed(), "fixed": Fixed()})
    assert Fixed.asked == [] and (tmp_path / "x" / "cells" / "fixed--one--0.json").read_bytes() == kept


def test_a_damaged_cell_is_made_again(setting, tmp_path) -> None:
    Fixed.asked.clear()
    run(setting, tmp_path / "x", {"fixed": Fixed()})
    (tmp_path / "x" / "cells" / f"{cell_name('fixed', 'one', 0)}.json").write_text('{"format_version": 1,')
    again = run(setting, tmp_path / "x", {"fixed": Fixed()})
    assert Fixed.asked == [0, 0] and len(again.costs) == 1


def test_a_cell_that_fails_leaves_the_others(setting, tmp_path) -> None:
    found = run(setting, tmp_path / "x", {"bad": Fixed(fails=True), "fixed": Fixed()})
    assert set(found.table["method"]) == {"fixed"}
    assert list(found.failed) == ["bad--one--0"] and "not today" in found.failed["bad--one--0"]


def test_stopped_in_the_middle_keeps_what_is_done(setting, tmp_path, monkeypatch) -> None:
    plain, calls = pruning.leaderboard.board.rank_edges, []

    def interrupted(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*given, **named)

    monkeypatch.setattr(pruning.leaderboard.board, "rank_edges", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(setting, tmp_path / "x", {"fixed": Fixed()}, seeds=(0, 1, 2))
    Fixed.asked.clear()
    assert len(run(setting, tmp_path / "x", {"fixed": Fixed()}, seeds=(0, 1, 2)).costs) == 3
    assert Fixed.asked == [1, 2]


def test_other_settings_and_other_folders_are_refused(setting, tmp_path) -> None:
    run(setting, tmp_path / "x", {"fixed": Fixed()})
    with pytest.raises(ConfigurationError, match="objective is None there and 'kl' here"):
        run(setting, tmp_path / "x", {"fixed": Fixed()}, objective="kl")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="no leaderboard"):
        run(setting, tmp_path / "y", {"fixed": Fixed()})
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds mine.txt"):
        run(setting, tmp_path / "x", {"fixed": Fixed()}, overwrite=True)
    for nothing in ({"methods": {}}, {"methods": {"fixed": Fixed()}, "seeds": ()}):
        with pytest.raises(ConfigurationError, match="at least"):
            run(setting, tmp_path / "z", **nothing)
    with pytest.raises(ConfigurationError, match="each seed once"):
        run(setting, tmp_path / "z", {"fixed": Fixed()}, seeds=(1, 1))


def test_tasks_that_would_be_kept_under_one_name_are_refused(setting, tmp_path) -> None:
    compiled, task = setting
    two = {"jsonl:a b.jsonl": task, "jsonl:a_b.jsonl": task}
    with pytest.raises(ConfigurationError, match=r"would both be kept as fixed--jsonl_a_b\.jsonl--0"):
        run_leaderboard(compiled, two, {"fixed": Fixed()}, out=tmp_path / "x", sizes=(0.5,))
    assert not (tmp_path / "x").exists()


def test_a_task_without_prompts_fails_and_says_so(setting, tmp_path) -> None:
    compiled, task = setting
    bare = replace(task, splits={**task.splits, "train": task.split("train").subset([])})
    found = run_leaderboard(compiled, {"bare": bare}, {"fixed": Fixed()}, out=tmp_path / "x", sizes=(0.5,))
    assert "no train prompts" in found.failed["fixed--bare--0"]


def test_names_of_cells_are_names_of_files() -> None:
    assert cell_name("eap", "jsonl:../../x y", 3) == "eap--jsonl_.._.._x_y--3"
