"""Lanes: parts of a batch run side by side on a CPU, a share of its threads each.

A masked step is made of many small operators, most of them too small to be worth dividing among threads one by one.
Dividing the batch instead keeps every thread busy with operators of its own. What each lane computes depends on its
part alone, and results are taken in the order of the parts, so a seed gives the same bits each time.

Lanes need much memory in turns, so they share a heap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from pruning.execution.heap import share_heap

Part = TypeVar("Part")
Done = TypeVar("Done")

_TOKENS_A_LANE = 112


def lanes_for(device: torch.device, tokens: int) -> int:
    """How many lanes pay for a batch: one off the CPU; else a lane a thread, as long as each has enough to do.

    Args:
        device: Where the model lies.
        tokens: Of a batch.

    Examples:
        >>> lanes_for(torch.device("cuda"), 4096)
        1
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), tokens // _TOKENS_A_LANE))


class Lanes:
    """Runs jobs side by side, or one after the other where there is one lane.

    Args:
        n: How many; each gets an equal share of the threads that torch has now, at least one.

    Examples:
        >>> list(Lanes(2).map(lambda part: part * part, [3, 4, 5]))
        [9, 16, 25]
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool: ThreadPoolExecutor | None = None

    def map(self, job: Callable[[Part], Done], parts: Sequence[Part]) -> Generator[Done]:
        """Do a job for every part.

        Args:
            job: Runs in a lane, with gradients on or off as they are here.
            parts: What it is given.

        Yields:
            What it gives back, in the order of the parts. Where a job fails, or the caller stops asking, no other is
            begun, and those that run are waited for.
        """
        if self.n == 1 or len(parts) < 2:
            yield from map(job, parts)
            return
        gradients = torch.is_grad_enabled()

        def with_mode(part: Part) -> Done:
            with torch.set_grad_enabled(gradients):
                return job(part)

        pool = self._pool = self._pool or _pool(self.n)
        futures = [pool.submit(with_mode, part) for part in parts]
        try:
            for place in range(len(futures)):
                yield futures[place].result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def _pool(n: int) -> ThreadPoolExecutor:
    """Threads that have their share of torch's; the caller keeps all of its own."""
    all_threads = torch.get_num_threads()
    share_heap()
    begun = threading.Barrier(n)

    def begin() -> None:
        torch.set_num_threads(max(1, all_threads // n))
        torch.get_num_threads()  # the first look in a thread takes the process's number, which is not this one's later
        begun.wait()

    pool = ThreadPoolExecutor(n, thread_name_prefix="lane", initializer=begin)
    wait([pool.submit(int) for _ in range(n)])
    torch.set_num_threads(all_threads)  # what a lane sets is the default of every thread to come
    return pool
