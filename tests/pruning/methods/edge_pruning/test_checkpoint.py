"""Checkpoints on disk: whole or passed over, of this run or refused, and never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import pruning.methods.edge_pruning.checkpoint
from circuitgraph.errors import CheckpointError, CheckpointWarning, OutputError
from pruning.execution.batch_run import RunnerState
from pruning.execution.replay import ReplayState
from pruning.methods.edge_pruning.checkpoint import Checkpoints, first_difference
from pruning.methods.edge_pruning.state import StepRecord, TrainingState
from pruning.prompts.batch_order import OrderState
from tests.pruning.methods.edge_pruning.test_state import same

REQUEST = {"model": "tiny", "seed": 0, "recipe": {"steps": 400, "learning_rate": 0.1, "keep": "target"}}


def state_after(steps: int, *, n: int = 7) -> TrainingState:
    """A state with a number of every kind in it."""
    draws = torch.Generator().manual_seed(steps)
    alpha = torch.randn(n, generator=draws)
    records = tuple(
        StepRecord(
            step=step, seconds=step / 3, loss=1 / (step + 3), objective=0.1 + step, sparsity=0.1, target=0.7,
            lambda1=-0.1, lambda2=1e-17, live_heads=step, live_mlps=2, undecided=2**40,
        )
        for step in range(steps)
    )  # fmt: skip
    held = {"step": torch.tensor(float(steps)), "exp_avg": alpha / 3, "exp_avg_sq": alpha**2}
    return TrainingState(
        seconds=steps / 3,
        records=records,
        parameters=(alpha, alpha[:2].clone()),
        optimiser=(held, {}),
        multipliers=torch.tensor([0.1, -0.0]),
        ascent={},
        generator=draws.get_state(),
        order=OrderState(
            queue=(np.array([4, 1]), np.array([], dtype=np.int64), np.array([3])),
            generator=np.random.default_rng(steps).bit_generator.state,
        ),
        runner=RunnerState(
            micro_batch=2, most_sparse=None, recompute=True,
            replays=ReplayState(
                works=True, planned=alpha.numpy() > 0, missed=None, age=3, keys=((4, 2), (5, 1))
            ),
        ),
        counts={"filled": {"memory": 0, "disk": 1, "computed": 2}, "drawn": {"memory": 3, "disk": 4, "computed": 5}},
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the states after 4 and 8 steps."""
    checkpoints = Checkpoints(tmp_path, REQUEST)
    for steps in (4, 8):
        checkpoints.keep(state_after(steps))
    return tmp_path


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    for steps in (0, 1, 5):
        state = state_after(steps)
        folder = tmp_path / "deep" / str(steps)
        Checkpoints(folder, REQUEST).keep(state)
        found = Checkpoints(folder, REQUEST).newest()
        assert found is not None and same(found, state) and found.records == state.records
        assert found.order.generator == state.order.generator and found.runner.micro_batch == 2
        assert [batch.tolist() for batch in found.order.queue] == [[4, 1], [], [3]]
        assert str(float(found.multipliers[1])) == "-0.0" and found.optimiser[1] == {} == found.ascent


def test_no_folder_and_an_empty_one_hold_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, REQUEST).newest() is None
    assert Checkpoints(tmp_path / "not there", REQUEST).newest() is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, REQUEST)
    for steps in (2, 4, 9, 100):
        checkpoints.keep(state_after(steps))
    stems = ("step-00000009", "step-00000100")
    assert names(tmp_path) == [f"{stem}{suffix}" for stem in stems for suffix in (".json", ".safetensors")]
    found = Checkpoints(tmp_path, REQUEST).newest()
    assert found is not None and found.steps == 100


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "gone", "pickle"])
@pytest.mark.parametrize("which", ["json", "safetensors"])
def test_a_damaged_one_gives_way_to_the_one_before(two: Path, which: str, harm: str) -> None:
    path = two / f"step-00000008.{which}"
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        at = content.index(b'"micro_batch": 2') + 15 if which == "json" else len(content) - 3
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        harms = {"cut": content[: len(content) // 2], "empty": b"", "flip": flipped, "pickle": pickle.dumps({"a": 1})}
        path.write_bytes(harms[harm])
    checkpoints = Checkpoints(two, REQUEST)
    if (which, harm) == ("json", "gone"):  # the JSON makes a checkpoint: there is none without
        found = checkpoints.newest()
    else:
        with pytest.warns(CheckpointWarning, match=r"passed over \(.*step-00000008.json: .*going on from step 4"):
            found = checkpoints.newest()
    assert found is not None and same(found, state_after(4))
    checkpoints.keep(state_after(6))
    assert {name.partition(".")[0] for name in names(two) if name.endswith("json")} == {
        "step-00000004", "step-00000006",
    }  # fmt: skip
    again = Checkpoints(two, REQUEST).newest()
    assert again is not None and again.steps == 6


def test_where_none_is_whole_it_is_an_error(two: Path) -> None:
    for path in two.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole .*do not match.*remove that folder"):
        Checkpoints(two, REQUEST).newest()


def test_a_newer_version_is_passed_over(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pruning.methods.edge_pruning.checkpoint, "FORMAT_VERSION", 9)
        Checkpoints(two, REQUEST).keep(state_after(10))
    with pytest.warns(CheckpointWarning, match="of version 9; this circuitgraph reads 1"):
        found = Checkpoints(two, REQUEST).newest()
    assert found is not None and found.steps == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"recipe": {**REQUEST["recipe"], "steps": 300}, "seed": 1}, "seed is 0 there and 1 here"),
        ({"recipe": {**REQUEST["recipe"], "steps": 300}}, "recipe.steps is 400 there and 300 here"),
        ({"objective": "kl"}, "objective is not set there and 'kl' here"),
        ({"seed": True}, "seed is 0 there and True here"),
        ({"recipe": None}, "recipe is {'steps': 400, .*} there and None here"),
    ],
)
def test_one_of_another_run_is_refused(two: Path, change: dict, said: str) -> None:
    before = names(two)
    with pytest.raises(CheckpointError, match=f"is of another run: {said}; give the settings"):
        Checkpoints(two, {**REQUEST, **change}).newest()
    assert names(two) == before


def test_the_order_of_settings_does_not_matter(two: Path) -> None:
    turned = dict(reversed(REQUEST.items())) | {"recipe": dict(reversed(REQUEST["recipe"].items()))}
    found = Checkpoints(two, turned).newest()
    assert found is not None and found.steps == 8
    assert first_difference({"a": [1, 2]}, {"a": [1, 3]}) == "a is [1, 2] there and [1, 3] here"


def test_other_conditions_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    Checkpoints(tmp_path, REQUEST, conditions={"threads": 2, "versions": {"torch": "2.8"}}).keep(state_after(3))
    for conditions in ({"threads": 2, "versions": {"torch": "2.8"}}, {"threads": 2, "versions": {"torch": "2.9"}}):
        found = Checkpoints(tmp_path, REQUEST, conditions=conditions, say=said.append).newest()
        assert found is not None and found.steps == 3
    assert len(said) == 1 and said[0].startswith("note: versions.torch is '2.8' there and '2.9' here")


def test_a_run_that_begins_anew_clears_them(two: Path) -> None:
    checkpoints = Checkpoints(two, {**REQUEST, "seed": 5})
    checkpoints.clear()
    assert checkpoints.newest() is None and not two.exists()


# ---------------------------------------------------------------- when


def test_every_so_many_steps(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, REQUEST, every_seconds=None, every_steps=3)
    written = []
    for steps in range(1, 11):
        checkpoints.after_step(state_after(steps))
        written.append(checkpoints.written)
    assert written == [None, None, 3, 3, 3, 6, 6, 6, 9, 9]


def test_by_the_clock_but_never_much_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pruning.methods.edge_pruning.checkpoint.time, "perf_counter", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, REQUEST, every_seconds=10)
    write = checkpoints._write

    def slow(state: TrainingState) -> None:
        now[0] += takes
        write(state)

    monkeypatch.setattr(checkpoints, "_write", slow)
    written, takes = [], 0.05
    for steps in range(1, 42):
        now[0] += 1.0
        if steps == 21:
            takes = 0.15
        checkpoints.after_step(state_after(steps))
        if checkpoints.written == steps:
            written.append(steps)
    # After a write of 0.15 s the next is not before 15 s later.
    assert written == [10, 20, 30] and checkpoints.seconds == pytest.approx(0.05 * 2 + 0.15)


def test_what_is_there_is_not_written_again(two: Path) -> None:
    checkpoints = Checkpoints(two, REQUEST)
    assert checkpoints.newest() is not None
    before = [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(two.iterdir())]
    checkpoints.keep(state_after(8))
    assert before == [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(two.iterdir())]


def test_a_disk_that_fails_does_not_end_the_run(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(two, REQUEST, every_steps=1, say=said.append)
    assert checkpoints.newest() is not None

    def full(path: Path, content: object) -> Path:
        raise OutputError(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pruning.methods.edge_pruning.checkpoint, "write_atomically", full)
        for _ in range(3):
            checkpoints.after_step(state_after(9))
    assert len(said) == 1 and "no checkpoint could be written (cannot write" in said[0] and "goes on" in said[0]
    checkpoints.after_step(state_after(10))
    found = Checkpoints(two, REQUEST).newest()
    assert found is not None and found.steps == 10


@pytest.mark.parametrize("at", ["safetensors", "json"])
def test_killed_while_writing(two: Path, at: str) -> None:
    """What `kill -9` leaves there: the other file is there or not, and half of this one under a hidden name."""
    Checkpoints(two, REQUEST).keep(state_after(9))
    path = two / f"step-00000009.{at}"
    (two / f".{path.name}.0a1b2c3d.tmp").write_bytes(path.read_bytes()[:100])
    path.unlink()
    if at == "safetensors":
        (two / "step-00000009.json").unlink()
    old = time.time() - 10
    os.utime(two / f".{path.name}.0a1b2c3d.tmp", (old, old))
    checkpoints = Checkpoints(two, REQUEST)
    checkpoints.tidy()
    assert not any(name.startswith(".") for name in names(two))
    found = checkpoints.newest()
    assert found is not None and same(found, state_after(8))
    checkpoints.keep(state_after(9))
    again = Checkpoints(two, REQUEST).newest()
    assert again is not None and same(again, state_after(9))


def test_the_json_is_strict(two: Path) -> None:
    for path in two.glob("*.json"):
        text = path.read_text()
        json.loads(text, parse_constant=lambda word: pytest.fail(word))
        assert json.loads(text)["state"]["micro_batch"] == 2
