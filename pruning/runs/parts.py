"""The later parts of a result: each may fail, or be left out, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from circuitgraph.errors import why
from circuitgraph.stopping import Stop

Made = TypeVar("Made")

NOT_MADE_YET, LEFT_OUT = "not made yet", "left out"
"""What the reasons of parts that were not tried begin with."""


class Parts:
    """Makes the parts of a result one after another, and knows which are missing and why.

    Args:
        stop: Who asked the run to stop.
        planned: The parts to make; all are missing at first.

    Attributes:
        missing: Why a part is not there, by part, in the order planned.
        errors: What was raised, by part, of those that failed.
    """

    def __init__(self, stop: Stop, planned: Iterable[str]) -> None:
        self.stop = stop
        self.missing = dict.fromkeys(planned, NOT_MADE_YET)
        self.errors: dict[str, Exception] = {}

    def attempt(self, part: str, make: Callable[[], Made], *, cheap: bool = False) -> Made | None:
        """Make a part, unless the run was asked to stop.

        Args:
            part: Its name.
            make: Makes it.
            cheap: Whether it takes moments; then it is made, and made to its end, also when asked to stop.

        Returns:
            What `make` gives, or None; `missing` has the reason then.

        Raises:
            KeyboardInterrupt: The run was asked to stop a second time.
        """
        try:
            if cheap:
                made = make()
            else:
                with self.stop.open():
                    made = make()
        except KeyboardInterrupt as error:
            self.stop.note(error)
            self.missing[part] = f"{LEFT_OUT}: the run was ended by {self.stop.name}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest of the result is not lost by it
            self.errors[part] = error
            self.missing[part] = why(error)
        else:
            self.missing.pop(part, None)
            return made
        return None


def was_tried(reason: str) -> bool:
    """Whether a part is missing because it failed, and not because its turn never came.

    Args:
        reason: Why it is missing, as `Parts.missing` has it.

    Examples:
        >>> was_tried("left out: the run was ended by SIGTERM"), was_tried("out of memory")
        (False, True)
    """
    return not reason.startswith((NOT_MADE_YET, LEFT_OUT))
