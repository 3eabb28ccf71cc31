"""How much memory this process has taken at most."""

from __future__ import annotations

import sys


def peak_rss_bytes() -> int | None:
    """The process's largest resident memory so far.

    Returns:
        Bytes, or None on a system that does not count it for Python (Windows).
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
