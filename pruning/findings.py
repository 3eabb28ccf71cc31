"""What a check found: a name, how bad it is, and a sentence with the figures and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "wrong", "doubt"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a check found.

    Attributes:
        name: What it is, such as `same-tokens`; always the same for the same kind.
        severity: `error`: no work is begun; `wrong`: a finished result does not mean what it seems to; `doubt`: it may
            not.
        text: The figures, and what to do.
    """

    name: str
    severity: Severity
    text: str

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)
