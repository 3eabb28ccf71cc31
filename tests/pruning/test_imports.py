"""`pruning` has to be importable where parts of Python's library are missing, as on Windows."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNIX_ONLY = ("resource", "fcntl", "termios", "pwd", "grp")


@pytest.mark.slow
def test_without_the_modules_of_unix_everything_is_imported() -> None:
    """A fresh process in which none of these modules can be imported, as on Windows."""
    code = (
        "import sys\n"
        "import psutil\n"  # transformers' own need, which has another form on Windows
        f"sys.modules.update(dict.fromkeys({UNIX_ONLY}))\n"  # None: importing it is an ImportError
        "import pruning, circuitgraph, analysis\n"
        "from pruning import *\n"
        "from circuitgraph import *\n"
        "from circuitgraph.memory.peak import peak_rss_bytes\n"
        "print(pruning.discover.__name__, peak_rss_bytes())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["discover", "None"], ran.stderr


def test_the_largest_memory_of_this_process_is_counted() -> None:
    from circuitgraph.memory.peak import peak_rss_bytes

    peak = peak_rss_bytes()
    assert peak is None or 1 << 24 < peak < 1 << 40
