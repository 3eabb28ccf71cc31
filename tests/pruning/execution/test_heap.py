"""Threads share a heap where nobody said else."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pruning.execution.heap import share_heap

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
HEAPS_OF_FOUR_THREADS = """
import ctypes, sys, threading
from pruning.execution.heap import share_heap
if sys.argv[1] == "shared":
    assert share_heap()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)
def take():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
told = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(told))
libc.fclose(ctypes.c_void_p(told))
"""


def heaps(how: str, path: str) -> int:
    """How many heaps glibc has once four threads have asked it for memory."""
    subprocess.run([sys.executable, "-c", HEAPS_OF_FOUR_THREADS, how, path], check=True)
    with open(path, encoding="ascii") as told:
        return told.read().count("<heap nr=")


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_threads_to_come_share_the_heaps_that_there_are(tmp_path, monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert heaps("own", str(tmp_path / "own.xml")) > 1
    assert heaps("shared", str(tmp_path / "shared.xml")) == 1


def test_the_environment_goes_first(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not share_heap()
