"""`leaderboard`: what it writes, that it goes on, and what it refuses before anything is loaded."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.circuitgraph.cli.conftest import call

TASK = ("leaderboard", "--model", "tracr:reverse", "--task", "tracr-reverse", "--no-verify")


@pytest.mark.slow
def test_it_writes_a_page_and_goes_on(tmp_path):
    out = tmp_path / "board"
    first = call(*TASK, "--methods", "eap", "--out", out, "--json")
    assert first.code == 0 and first.json["cells"] == 1 and first.json["failed"] == {}, first.err
    again = call(*TASK, "--methods", "eap,gate-importance", "--out", out)
    assert again.code == 0 and "gate-importance on tracr-reverse" in again.err and "eap on" not in again.err
    assert {"leaderboard.md", "summary.csv", "table.csv", "curves-tracr-reverse.png"} <= {p.name for p in out.iterdir()}
    assert set(pd.read_csv(out / "summary.csv")["method"]) == {"eap", "gate-importance"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "eapp"), "unknown method 'eapp'"),
        (("--methods", ","), "--methods: expected a name"),
        (("--methods", "eap", "--reference", "nested"), "--reference nested is none of the methods: eap"),
        (("--methods", "eap", "--objective", "kll"), "unknown objective 'kll'"),
        (("--methods", "eap", "--seeds", "0,0"), "seed"),
    ],
)
def test_refusals_come_before_the_model(options, told, tmp_path):
    ended = call(*TASK, *options, "--out", tmp_path / "x")
    assert ended.code == 2 and told in ended.err and "loading" not in ended.err
    assert not (tmp_path / "x").exists()


def test_what_is_there_of_one_that_was_ended(tmp_path, monkeypatch):
    def ended(*_given, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("pruning.leaderboard.board.rank_edges", ended)
    none = call(*TASK, "--methods", "eap", "--out", tmp_path / "board")
    assert none.code == 130 and "Interrupted; no cell was done." in none.err
    (tmp_path / "board" / "cells" / "random--tracr-reverse--0.json").write_text("{}")
    some = call(*TASK, "--methods", "eap", "--out", tmp_path / "board")
    assert some.code == 130 and "1 cells are in" in some.err and "goes on with the rest" in some.err
