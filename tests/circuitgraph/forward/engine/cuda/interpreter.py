"""Checks of kernels in Triton's interpreter, which a process has from its start or never: one for all of a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence

_EVERY_CASE = """
import json, sys, traceback
def check(case):
{body}
told = []
for case in json.loads(sys.argv[1]):
    try:
        check(case)
        told.append("")
    except Exception:
        told.append(traceback.format_exc())
print(json.dumps(told))
"""


def failures(check: str, cases: Sequence[object]) -> dict[str, str]:
    """Run a check's code, which finds its case as `case`, on every case.

    Returns:
        By each case's JSON what its check raised, empty where it passed.
    """
    ran = subprocess.run(
        [sys.executable, "-c", _EVERY_CASE.format(body=textwrap.indent(check, "    ")), json.dumps(cases)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return dict(zip(map(json.dumps, cases), json.loads(ran.stdout.splitlines()[-1]), strict=True))
