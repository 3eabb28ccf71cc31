"""Portions: prompts that run at once, fewer of them from where memory runs out on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from circuitgraph.errors import out_of_memory

Result = TypeVar("Result")


@runtime_checkable
class Buffers(Protocol):
    """A model that keeps memory from one pass to the next, and can give it back."""

    def free_buffers(self) -> None:
        """Give the memory back."""


class Portions:
    """Runs prompts, halving how many run at once whenever memory runs out. Nothing else may run in the model meanwhile.

    Args:
        compiled: The model that they run through; its buffers are given back before a job is tried again.
        most: Prompts at once, at least one.

    Attributes:
        most: Prompts at once, as of now.
    """

    def __init__(self, compiled: Buffers, most: int) -> None:
        self.compiled, self.most = compiled, most

    def run(self, job: Callable[[np.ndarray], Result], prompts: np.ndarray) -> list[Result]:
        """Do a job for prompts, all at once unless there are too many.

        Args:
            job: Is given some of them, in order.
            prompts: Any.

        Returns:
            What it gives back for each portion, in order.

        Raises:
            Exception: What the job raises, also where memory runs out with one prompt.
        """
        results: list[Result] = []
        done = 0
        while done < len(prompts):
            part = prompts[done : done + self.most]
            found = self._try(lambda part=part: job(part), len(part))
            if found is not None:
                results.append(found[0])
                done += len(part)
        return results

    def repeat(self, job: Callable[[int], Result]) -> Result:
        """Do a job anew, with fewer prompts at once, until memory does not run out.

        Args:
            job: Is given how many prompts may run at once.

        Returns:
            What it gives back.

        Raises:
            Exception: What the job raises, also where memory runs out with one prompt.
        """
        while True:
            found = self._try(lambda: job(self.most), self.most)
            if found is not None:
                return found[0]

    def _try(self, job: Callable[[], Result], n: int) -> tuple[Result] | None:
        """What a job gives back, or None where memory ran out with so many prompts; fewer run at once then."""
        try:
            return (job(),)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or n == 1:
                raise
        # Outside of the handler, whose traceback holds what was being computed.
        self.most = (n + 1) // 2
        self.compiled.free_buffers()
        return None
