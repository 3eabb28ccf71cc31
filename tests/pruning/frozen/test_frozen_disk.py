"""Kept runs on disk: what is damaged, foreign or full is noticed, and the folder stays within its bounds."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from circuitgraph.errors import CacheWarning, ConfigurationError
from pruning.frozen import disk as disk_module
from pruning.frozen import folder as files
from pruning.frozen.disk import DiskCache, Place
from pruning.frozen.rows import Rows

N = 5


def rows_of(seed: int, width: int = 6) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "heads.0": torch.randn(3, N, width, generator=generator),
        "mlps.0": torch.randn(N, width, generator=generator).bfloat16(),
        "ids.0": torch.randint(0, 9, (N, 2), generator=generator),
        "shared.0": torch.randn(1, 2, generator=generator),
    }
    axes = {"heads.0": 1, "mlps.0": 0, "ids.0": 0, "shared.0": None}
    return Rows(tensors=tensors, axes=axes, form={"heads": 1, "mlps": 1, "ids": -1, "shared": 1, "none": None})


def place_of(index: int, *, model: int = 0) -> Place:
    return Place(model=f"{model:032x}", kind="values", key=f"{index:032x}")


def written(cache: DiskCache, index: int, **options: int) -> Path:
    place = place_of(index, **options)
    assert cache.write(place, rows_of(index), N, {"model": f"m{index}", "prompts": N}) is not None
    (path,) = (cache.folder / place.model).glob(f"values-{place.key}-*.safetensors")
    return path


def assert_rows(stored: disk_module.StoredRows | None, rows: Rows) -> None:
    assert stored is not None
    for index in ([0, 1, 2, 3, 4], [3, 1]):
        taken, expected = stored.take(torch.tensor(index)), rows.take(torch.tensor(index))
        assert (taken.axes, taken.form) == (expected.axes, dict(expected.form))
        assert list(taken.tensors) == list(expected.tensors)
        for name, tensor in taken.tensors.items():
            assert tensor.dtype == expected.tensors[name].dtype and tensor.is_contiguous()
            assert torch.equal(tensor, expected.tensors[name])
    assert torch.equal(stored.head(2).tensors["heads.0"], rows.tensors["heads.0"][:, :2])


@pytest.fixture
def cache(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "frozen", budget_bytes=1 << 20, spare_bytes=0)


class TestFiles:
    def test_what_is_read_is_what_was_written(self, cache):
        rows = rows_of(1)
        assert cache.read(place_of(1), N) is None
        assert_rows(cache.write(place_of(1), rows, N, {}), rows)
        assert_rows(DiskCache(cache.folder).read(place_of(1), N), rows)
        assert cache.read(place_of(2), N) is None
        assert cache.read(place_of(1, model=1), N) is None

    def test_tensors_that_share_memory(self, cache):
        both = torch.randn(2 * N, 4)
        tensors = {"a.0": both[:N], "b.0": both[N:], "c.0": both[:N]}
        rows = Rows(tensors=tensors, axes=dict.fromkeys(tensors, 0))
        stored = cache.write(place_of(1), rows, N, {})
        assert stored is not None
        assert all(torch.equal(stored.first.tensors[name], tensor) for name, tensor in tensors.items())

    def test_only_the_rows_that_are_taken_are_read(self, cache):
        """In the file the rows are the first axis of every tensor, so a prompt's are together."""
        written(cache, 1)
        stored = cache.read(place_of(1), N)
        assert stored is not None
        for name, tensor in stored.first.tensors.items():
            assert tensor.is_contiguous() and (name == "shared.0" or tensor.shape[0] == N)

    def test_rows_handed_out_do_not_hang_on_the_file(self, cache):
        path = written(cache, 1)
        stored = cache.read(place_of(1), N)
        assert stored is not None
        taken = stored.take(torch.arange(N))
        for tensor in taken.tensors.values():
            tensor.zero_()
        path.unlink()
        assert_rows(stored, rows_of(1))

    def test_writing_again_leaves_one_file(self, cache):
        first = written(cache, 1)
        assert written(cache.for_run(), 1) == first
        assert [entry.path for entry in files.entries(cache.folder)] == [first]

    def test_nothing_is_there_until_all_is_written(self, cache, monkeypatch):
        def half(tensors: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(disk_module, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            cache.write(place_of(1), rows_of(1), N, {})
        assert files.entries(cache.folder) == []

    def test_sizes_below_zero(self):
        with pytest.raises(ConfigurationError, match="0 or more"):
            DiskCache(budget_bytes=-1)

    def test_the_usual_folder_is_not_the_users_own_in_tests(self):
        assert DiskCache().folder == Path(os.environ["CIRCUITGRAPH_FROZEN_CACHE"])
        assert not DiskCache().folder.is_relative_to(Path.home() / ".cache")


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 300)


def renamed_to_its_content(path: Path) -> Path:
    """A file whose name tells its content truly, whatever that is."""
    found = files.ENTRY.fullmatch(path.name)
    assert found is not None
    return path.rename(path.with_name(path.name.replace(found.group(3), disk_module._content(path))))


def garbage_with_its_hash(path: Path) -> None:
    garbage(path)
    renamed_to_its_content(path)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    renamed_to_its_content(path)


def header_promises_more(path: Path) -> None:
    replaced(path, b'"shape":[5,3,6]', b'"shape":[5,3,9]')


def metadata_gone(path: Path) -> None:
    replaced(path, rb"\"axes\"", rb"\"axis\"")


def from_another_model(path: Path) -> None:
    """Another model's file of the same shape, put under this one's name."""
    other = DiskCache(path.parents[1], spare_bytes=0)
    theirs = written(other, 2, model=3)
    mine, found = files.ENTRY.fullmatch(path.name), files.ENTRY.fullmatch(theirs.name)
    assert mine is not None and found is not None
    shutil.copy(theirs, path.with_name(f"values-{mine.group(2)}-{found.group(3)}.safetensors"))
    theirs.unlink()
    path.unlink()


def of_other_prompts(path: Path) -> None:
    """As many rows as others have, under the right key."""
    place = place_of(1)
    path.unlink()
    rows = rows_of(1).head(3)
    assert DiskCache(path.parents[1], spare_bytes=0).write(place, rows, 3, {}) is not None


DAMAGES = [
    cut_short, emptied, garbage, garbage_with_its_hash, header_promises_more, metadata_gone, from_another_model,
    of_other_prompts, lambda path: one_bit(path, -1), lambda path: one_bit(path, 20), lambda path: one_bit(path, 2),
]  # fmt: skip


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_it_is_noticed_and_the_file_goes(self, cache, damage: Callable[[Path], None]):
        damage(written(cache, 1))
        fresh = cache.for_run()
        with pytest.warns(CacheWarning, match="prompts are run again"):
            assert fresh.read(place_of(1), N) is None
        assert files.entries(cache.folder) == []
        assert_rows(fresh.write(place_of(1), rows_of(1), N, {}), rows_of(1))
        assert_rows(cache.for_run().read(place_of(1), N), rows_of(1))

    def test_a_folder_of_damage_is_told_once(self, cache):
        for index in range(4):
            cut_short(written(cache, index))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert all(cache.read(place_of(index), N) is None for index in range(4))
        assert [warning.category for warning in told] == [CacheWarning]

    def test_a_file_that_cannot_be_read_is_told_and_stays(self, cache, monkeypatch):
        path = written(cache, 1)

        def refuse(path: Path) -> str:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(disk_module, "_content", refuse)
        with pytest.warns(CacheWarning, match="Permission denied"):
            assert cache.read(place_of(1), N) is None
        assert path.exists()

    def test_a_file_that_another_run_removed_meanwhile(self, cache, monkeypatch):
        path = written(cache, 1)
        real = disk_module._content

        def overtaken(at: Path) -> str:
            path.unlink()
            return real(at)

        monkeypatch.setattr(disk_module, "_content", overtaken)
        assert cache.read(place_of(1), N) is None  # and no warning: nothing is wrong


class TestFullDisks:
    def test_a_disk_that_fills_up(self, cache):
        """A real failure of a real write: the process may not write files of more than 200 bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with pytest.warns(CacheWarning, match="cannot be written"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
            try:
                assert cache.write(place_of(1), rows_of(1), N, {}) is None
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert files.entries(cache.folder) == []
        assert not cache.could_hold(1)
        assert cache.write(place_of(1), rows_of(1), N, {}) is None  # and no second warning
        assert cache.for_run().could_hold(1)

    def test_a_disk_with_little_left(self, tmp_path):
        cache = DiskCache(tmp_path, spare_bytes=1 << 60)
        with pytest.warns(CacheWarning, match="stay free"):
            assert cache.write(place_of(1), rows_of(1), N, {}) is None
        assert files.entries(tmp_path) == []

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        cache = DiskCache(tmp_path / "file" / "frozen", spare_bytes=0)
        assert cache.read(place_of(1), N) is None
        with pytest.warns(CacheWarning, match="cannot be written"):
            assert cache.write(place_of(1), rows_of(1), N, {}) is None
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_that_may_only_be_read(self, cache, monkeypatch):
        written(cache, 1)

        def refuse(*arguments: object, **options: object) -> None:
            raise PermissionError(errno.EROFS, "Read-only file system")

        for name in ("mkdir", "unlink", "replace"):
            monkeypatch.setattr(Path, name, refuse)
        monkeypatch.setattr(os, "utime", refuse)
        fresh = cache.for_run()
        assert_rows(fresh.read(place_of(1), N), rows_of(1))
        with pytest.warns(CacheWarning, match="Read-only file system"):
            assert fresh.write(place_of(2), rows_of(2), N, {}) is None

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_permission(self, cache):
        path = written(cache, 1)
        path.parent.chmod(0o500)
        try:
            fresh = cache.for_run()
            assert_rows(fresh.read(place_of(1), N), rows_of(1))
            with pytest.warns(CacheWarning, match="Permission denied"):
                assert fresh.write(place_of(2), rows_of(2), N, {}) is None
        finally:
            path.parent.chmod(0o700)


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def three(tmp_path) -> tuple[Path, list[Path]]:
    """A folder with three files, the second of which was used longest ago."""
    folder = tmp_path / "frozen"
    paths = [written(DiskCache(folder, spare_bytes=0), index, model=index % 2) for index in range(3)]
    for path, age in zip(paths, (100, 300, 200), strict=True):
        aged(path, age)
    return folder, paths


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class TestBounds:
    def budget(self, paths: list[Path], gone: int) -> int:
        """Room for a fourth file if so many of the three go."""
        size = max(path.stat().st_size for path in paths)
        return (3 - gone) * size + rows_of(9).n_bytes + disk_module._HEADER

    @pytest.mark.parametrize(("gone", "left"), [(0, [0, 1, 2]), (1, [0, 2]), (2, [0]), (3, [])])
    def test_the_ones_used_longest_ago_go_first(self, three, gone, left):
        folder, paths = three
        budget = self.budget(paths, gone)
        cache = DiskCache(folder, budget_bytes=budget, spare_bytes=0)
        new = written(cache, 9)
        assert {entry.path for entry in files.entries(folder)} == {*(paths[i] for i in left), new}
        assert total(folder) <= budget

    def test_reading_is_using(self, three):
        folder, paths = three
        assert DiskCache(folder).read(place_of(1, model=1), N) is not None
        assert [entry.path for entry in files.entries(folder)] == [paths[2], paths[0], paths[1]]

    def test_what_this_run_uses_stays(self, three):
        folder, paths = three
        cache = DiskCache(folder, budget_bytes=self.budget(paths, 1), spare_bytes=0)
        for index in range(3):
            assert cache.read(place_of(index, model=index % 2), N) is not None
        assert not cache.could_hold(rows_of(9).n_bytes)
        assert cache.write(place_of(9), rows_of(9), N, {}) is None
        assert all(path.exists() for path in paths)
        written(cache.for_run(), 9)

    def test_the_oldest_stays_where_this_run_uses_it(self, three):
        folder, paths = three
        cache = DiskCache(folder, budget_bytes=self.budget(paths, 1), spare_bytes=0)
        assert cache.read(place_of(1, model=1), N) is not None
        aged(paths[1], 999)
        written(cache, 9)
        assert [path.exists() for path in paths] == [True, True, False]

    def test_nothing_goes_for_what_cannot_fit(self, three):
        folder, paths = three
        cache = DiskCache(folder, budget_bytes=disk_module._HEADER, spare_bytes=0)
        assert cache.write(place_of(9), rows_of(9), N, {}) is None
        size = total(folder)
        assert not files.make_room(folder, size, budget_bytes=size, keep={paths[0]})
        assert all(path.exists() for path in paths)

    def test_strangers_are_neither_counted_nor_touched(self, three):
        folder, paths = three
        strangers = [folder / "notes.txt", folder / f"{0:032x}" / "thesis.safetensors", folder / "mine" / "a.tmp"]
        strangers[2].parent.mkdir()
        for path in strangers:
            path.write_bytes(b"x" * 100_000)
        written(DiskCache(folder, budget_bytes=self.budget(paths, 1), spare_bytes=0), 9)
        assert files.clear(folder)[0] == 3
        assert all(path.exists() for path in strangers)

    def test_unfinished_files_count_and_go_when_abandoned(self, three):
        folder, paths = three
        beside = paths[0].parent / f".values-{7:032x}.{8:032x}.tmp"
        shutil.copy(paths[0], beside)
        kept = {*paths}
        budget = total(folder)
        assert not files.make_room(folder, 1, budget_bytes=budget, keep=kept), "it may be written right now"
        aged(beside, 7200)
        assert files.make_room(folder, 1, budget_bytes=budget, keep=kept)
        assert not beside.exists() and all(path.exists() for path in paths)

    def test_a_file_that_cannot_be_removed_is_not_counted_as_gone(self, three, monkeypatch):
        folder, paths = three
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path == paths[1]:
                raise PermissionError
            real(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        size = paths[1].stat().st_size
        assert files.make_room(folder, size, budget_bytes=3 * size, keep=())
        assert [path.exists() for path in paths] == [True, True, False]

    def test_clear(self, three):
        folder, paths = three
        size = total(folder)
        assert files.clear(folder) == (3, size)
        assert not folder.exists()
        assert files.clear(folder) == (0, 0)


class TestShowing:
    def test_what_a_file_says_of_itself(self, three):
        folder, paths = three
        told = {entry.path: entry.about for entry in files.entries(folder)}
        assert told[paths[2]] == {"model": "m2", "prompts": N}

    @pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0[]      ", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"])
    def test_files_that_say_nothing(self, three, content):
        folder, paths = three
        paths[0].write_bytes(content)
        assert next(entry for entry in files.entries(folder) if entry.path == paths[0]).about == {}
