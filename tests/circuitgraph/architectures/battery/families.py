"""All families, and which of them `make test` takes the long way through.

A new family is one entry: in `like_llama.py`, `like_gpt.py`, `mixtures.py` or `encoders.py`. It says where the
model's modules are (`Names`; the defaults are Llama's), sets every understood config field to something that matters,
and names another value for each (`toggles`). From there it enters all tests of this room.
"""

from __future__ import annotations

import pytest

from tests.circuitgraph.architectures.battery.case import GROUPS, HEADS, Case
from tests.circuitgraph.architectures.battery.encoders import ENCODERS
from tests.circuitgraph.architectures.battery.like_gpt import LIKE_GPT
from tests.circuitgraph.architectures.battery.like_llama import LIKE_LLAMA
from tests.circuitgraph.architectures.battery.mixtures import MIXTURES

CASES: dict[str, Case] = {case.name: case for case in (*LIKE_LLAMA, *LIKE_GPT, *MIXTURES, *ENCODERS)}
assert len(CASES) == len(LIKE_LLAMA) + len(LIKE_GPT) + len(MIXTURES) + len(ENCODERS)
assert GROUPS not in (1, HEADS)

QUICK = ("qwen3", "gemma2", "phi")
"""Grouped heads with norms and windows; heads that share a scale; parallel blocks."""

EVERY = [pytest.param(name, id=name) for name in CASES]
LONG_ONES = [pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.full) for name in CASES]
