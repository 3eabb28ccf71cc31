"""`discover` with a disk cache, and `cache`, which shows and clears it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pruning.frozen import keys
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def steady_code(monkeypatch) -> None:
    """The library's files do not change while a test runs, whoever edits them."""
    monkeypatch.setattr(keys, "code_digest", lambda: keys._CODE_AT_IMPORT)


@pytest.fixture(scope="module")
def cold(tmp_path_factory, text_run) -> Path:
    """A folder with a cache that a short run has filled, and the run's result."""
    folder = tmp_path_factory.mktemp("cold")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys, "code_digest", lambda: keys._CODE_AT_IMPORT)
        ended = call(*text_run, "--steps", 4, "--cache-dir", folder / "frozen", "--out", folder / "cold")
    assert ended.code == 0, ended.err
    assert "0 read from disk, 12 run; 12 kept in memory" in ended.err
    return folder


@pytest.fixture
def warm(cold, tmp_path, text_run) -> tuple[tuple[object, ...], Path, Path]:
    """A command line without `--out`, a copy of the cache it has filled, and its result."""
    folder = tmp_path / "frozen"
    shutil.copytree(cold / "frozen", folder)
    return (*text_run, "--steps", 4, "--cache-dir", folder), folder, cold / "cold"


def same_gates(one: Path, other: Path) -> bool:
    return (one / "gates.safetensors").read_bytes() == (other / "gates.safetensors").read_bytes()


class TestDiscover:
    def test_the_second_run_reads_and_gives_the_same_bits(self, warm, tmp_path):
        command, _, cold = warm
        for name, options in (("warm", ()), ("disk", ("--cache-gib", 0))):
            ended = call(*command, *options, "--out", tmp_path / name, "--json")
            assert ended.code == 0, ended.err
            assert "12 read from disk, 0 run" in ended.err
            drawn = ended.json["frozen_runs"]["drawn"]
            assert drawn["computed"] == 0 and drawn["memory" if name == "warm" else "disk"] > 0
            assert same_gates(cold, tmp_path / name)
            assert "Warning" not in ended.err

    def test_another_recipe_and_graph_start_from_the_same_runs(self, warm, tmp_path):
        command, _, _ = warm
        ended = call(
            *command,
            "--recipe",
            "paper-codellama",
            "--qkv",
            "joint",
            "--kv-heads",
            "per_query",
            "--out",
            tmp_path / "other",
        )
        assert ended.code == 0, ended.err
        assert "12 read from disk, 0 run" in ended.err

    def test_zero_keeps_nothing_and_gives_the_same_bits(self, warm, tmp_path, text_run):
        _, folder, cold = warm
        none = tmp_path / "none"
        ended = call(
            *text_run, "--steps", 4, "--cache-dir", none, "--disk-cache-gib", 0, "--out", tmp_path / "bare", "--json"
        )
        assert ended.code == 0, ended.err
        assert ended.json["frozen_runs"]["filled"] == {"memory": 0, "disk": 0, "computed": 12}
        assert not none.exists()
        assert same_gates(cold, tmp_path / "bare")

    def test_a_damaged_cache_is_told_and_mended(self, warm, tmp_path):
        command, folder, cold = warm
        for path in folder.rglob("*.safetensors"):
            os.truncate(path, 100)
        ended = call(*command, "--out", tmp_path / "x")
        assert ended.code == 0, ended.err
        assert ended.err.count("Warning: cache: ") == 1 and "cut short" in ended.err
        assert ".py:" not in ended.err, "told as the command line tells things"
        assert same_gates(cold, tmp_path / "x")
        assert "12 read from disk" in call(*command, "--out", tmp_path / "y").err

    def test_a_cache_that_cannot_be_written(self, text_run, tmp_path):
        (tmp_path / "file").write_text("mine")
        ended = call(*text_run, "--steps", 2, "--cache-dir", tmp_path / "file", "--out", tmp_path / "x")
        assert ended.code == 0, ended.err
        assert "Warning: cache: " in ended.err and "cannot be written" in ended.err
        assert (tmp_path / "file").read_text() == "mine"

    def test_what_will_be_kept_is_told_before(self, text_run, tmp_path):
        ended = call(
            *text_run, "--cache-dir", tmp_path / "c", "--disk-cache-gib", 3, "--out", tmp_path / "x", "--dry-run"
        )
        assert "up to 2.0 GiB in memory, 3.0 GiB in" in ended.err
        ended = call(
            *text_run, "--disk-cache-gib", 0, "--teacher-top-k", 5, "--out", tmp_path / "x", "--dry-run", "--json"
        )
        assert ended.json["disk_cache"] is None and ended.json["teacher_top_k"] == 5
        assert "none on disk; of the full model its 5 likeliest tokens" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_top_k(self, text_run, tmp_path):
        from circuitgraph.circuits.circuit import Circuit

        ended = call(*text_run, "--steps", 3, "--teacher-top-k", 5, "--out", tmp_path / "x")
        assert ended.code == 0, ended.err
        assert Circuit.load(tmp_path / "x" / "circuit.json").provenance["teacher_top_k"] == 5
        whole = call(*text_run, "--steps", 3, "--out", tmp_path / "whole")
        assert whole.code == 0
        ours, theirs = (load_file(tmp_path / name / "gates.safetensors")["log_alpha"] for name in ("x", "whole"))
        assert not (ours == theirs).all(), "another objective"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--teacher-top-k", 5, "--objective", "logit-diff"), "whole vocabulary"),
            (("--teacher-top-k", 0), "teacher-top-k"),
            (("--disk-cache-gib", -1), "disk-cache-gib"),
        ],
    )
    def test_refusals(self, text_run, tmp_path, options, said):
        ended = call(*text_run, *options, "--out", tmp_path / "x")
        assert ended.code == 2 and said in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_a_program_whose_output_is_a_number_has_nothing_to_cut(self, tmp_path):
        ended = call(
            "discover", "--model", "tracr:xproportion", "--task", "tracr-xproportion", "--steps", 2, "--n-random", 0,
            "--teacher-top-k", 5, "--out", tmp_path / "x", "--dry-run",
        )  # fmt: skip
        assert ended.code == 0, ended.err


class TestCache:
    def test_shown(self, warm, text_model):
        _, folder, _ = warm
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        shown = call("cache", "--cache-dir", folder, "--json").json
        assert (shown["folder"], shown["files"], shown["bytes"]) == (str(folder), 2, size)
        assert {row["kind"]: (row["prompts"], row["model"], row["dtype"]) for row in shown["runs"]} == {
            "teacher": (12, str(text_model), "float32"), "values": (12, str(text_model), "float32"),
        }  # fmt: skip
        table = call("cache", "--cache-dir", folder).out
        assert "teacher" in table and "2 files" in table and str(folder) in table.replace("\n", "")

    def test_cleared(self, warm, tmp_path):
        command, folder, _ = warm
        (folder / "mine.txt").write_text("mine")
        ended = call("cache", "--cache-dir", folder, "--clear", "--json")
        assert ended.json["removed_files"] == 2 and ended.json["removed_bytes"] > 0
        assert [path.name for path in folder.iterdir()] == ["mine.txt"]
        assert "0 read from disk, 12 run" in call(*command, "--out", tmp_path / "again").err
        assert "Removed 2 files" in call("cache", "--cache-dir", folder, "--clear").out

    def test_the_usual_folder(self, tmp_path, monkeypatch, text_run, text_model):
        monkeypatch.setenv("CIRCUITGRAPH_FROZEN_CACHE", str(tmp_path / "runs"))
        assert call("cache").out == f"0 files, 0 MiB, in {tmp_path / 'runs'}\n"
        ended = call(*text_run, "--steps", 2, "--ablation", "zero", "--out", tmp_path / "x")
        assert ended.code == 0, ended.err
        (row,) = call("cache", "--json").json["runs"]
        assert (row["model"], row["kind"]) == (str(text_model), "teacher"), "zeros need not be kept"

    def test_files_of_no_known_kind_are_shown_too(self, warm):
        _, folder, _ = warm
        for path in folder.rglob("*.safetensors"):
            path.write_bytes(b"")
        (place,) = (path for path in folder.iterdir() if path.is_dir())
        (place / f".values-{0:032x}.{1:032x}.tmp").write_bytes(b"12345")
        shown = call("cache", "--cache-dir", folder).out
        assert "unknown" in shown and "unfinished" in shown

    def test_it_is_quick_because_it_loads_no_torch(self, warm):
        _, folder, _ = warm
        code = (
            f"import sys; from circuitgraph.cli import main; command = ['cache', '--cache-dir', {str(folder)!r}]; "
            "main(command); main([*command, '--clear']); assert 'torch' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Removed 2 files" in done.stdout
