"""A folder's place belongs to one run; a dead one's is taken over; what killed runs left is swept."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from circuitgraph.errors import OutputError
from circuitgraph.files.atomic_file import hidden_beside, leftovers, sweep, write_atomically
from circuitgraph.files.reservation import Holder, lock_of, reserved
from pruning.runs.result_folder import ResultFolder


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def hold(path, **changed):
    values = {"host": Holder.me().host, "pid": os.getpid(), "born": Holder.me().born, "since": "2026-01-01 00:00:00"}
    lock_of(path).write_text(json.dumps({**values, **changed}))


def test_a_second_run_is_refused_and_the_first_gives_it_back(tmp_path):
    with (
        reserved(tmp_path / "x"),
        pytest.raises(OutputError, match=f"reserved by another run .process {os.getpid()}"),
        reserved(tmp_path / "x"),
    ):
        pytest.fail("reserved twice")
    with reserved(tmp_path / "x") as note:
        assert note == ""
    assert list(tmp_path.iterdir()) == []


def test_parents_are_made_and_go_when_nothing_was_put_into_them(tmp_path):
    with reserved(tmp_path / "a" / "b" / "x"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", ["no such process", "a new process with its number"])
def test_a_dead_runs_reservation_is_taken_over_with_a_sentence(tmp_path, changed):
    if changed == "no such process":
        hold(tmp_path / "x", pid=dead_pid())
    elif Holder.me().born is None:
        pytest.skip("this system does not say when a process began")
    else:
        hold(tmp_path / "x", born=1)
    with reserved(tmp_path / "x") as note:
        assert "has ended without giving it back" in note and "taken over" in note
    assert list(tmp_path.iterdir()) == []


def test_of_another_machine_nothing_is_known_and_the_file_is_named(tmp_path):
    hold(tmp_path / "x", host="elsewhere", pid=1)
    with pytest.raises(OutputError, match=r"on elsewhere.*remove .*\.x\.lock"), reserved(tmp_path / "x"):
        pytest.fail("taken over")


def test_one_that_is_being_written_is_left_and_an_old_empty_one_is_not(tmp_path):
    lock_of(tmp_path / "x").touch()
    with pytest.raises(OutputError, match="just reserving"), reserved(tmp_path / "x"):
        pytest.fail("taken over")
    os.utime(lock_of(tmp_path / "x"), (0, 0))
    with reserved(tmp_path / "x") as note:
        assert "an unknown process" in note


def test_leftovers_of_killed_runs_are_swept_and_others_files_are_not(tmp_path):
    dead = hidden_beside(tmp_path / "x")
    dead.mkdir()
    (dead / "circuit.dot").write_text("half")
    (tmp_path / "x").mkdir()
    (tmp_path / ".x.mine.tmp").write_text("mine")
    (tmp_path / ".xy.00000000.tmp").write_text("of another")
    assert sweep(tmp_path / "x") == [], "it may be somebody's who still writes"
    with ResultFolder.opened(tmp_path / "x", overwrite=True):
        assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.mine.tmp", ".xy.00000000.tmp", "x"]


def test_a_run_that_died_while_replacing_a_result_left_one_that_is_put_back(tmp_path):
    older = hidden_beside(tmp_path / "x", ".old")
    older.mkdir()
    (older / "circuit.json").write_text("old")
    with (
        pytest.raises(OutputError, match="exists"),
        ResultFolder.opened(tmp_path / "x"),
    ):
        pytest.fail("opened")
    assert (tmp_path / "x" / "circuit.json").read_text() == "old"
    assert leftovers(tmp_path / "x", ".old") == []


def test_long_names(tmp_path):
    name = "n" * 250
    assert write_atomically(tmp_path / name, "text").read_text() == "text"
    with pytest.raises(OutputError, match="name too long"):
        write_atomically(tmp_path / ("n" * 300), "text")
    with reserved(tmp_path / ("m" * 250)):
        assert len(list(tmp_path.iterdir())) == 2


def test_the_older_result_stays_until_the_new_one_settles(tmp_path):
    place = tmp_path / "x"
    place.mkdir()
    (place / "circuit.json").write_text("old")
    with ResultFolder.opened(place, overwrite=True) as folder:
        folder.write("circuit.json", "new")
        assert (place / "circuit.json").read_text() == "old"
        folder.settle()
        assert (place / "circuit.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
