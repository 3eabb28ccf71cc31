"""Where the results of executed pages are kept, and what their kernels find in their environment.

A page's results are reused while its code cells stay the same *and* the library does: jupyter-cache looks at
the cells alone, so each state of the library's source has a cache folder of its own, and only the newest is kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

PACKAGES = ("circuitgraph", "pruning", "analysis")


def source_digest(root: Path) -> str:
    """A digest of what pages run: the three packages' files and the pinned versions.

    Args:
        root: The folder of the repository.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256(sys.version.encode())
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*")) if path.is_file()]
    for path in [*files, root / "constraints.txt"]:
        if "__pycache__" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def execution_cache(root: Path) -> Path:
    """The folder for results of this state of the library; those of other states are removed.

    Args:
        root: The folder of the repository.

    Returns:
        A folder under `.cache`, which git ignores.
    """
    here = root / ".cache" / "docs" / source_digest(root)
    here.mkdir(parents=True, exist_ok=True)
    for other in here.parent.iterdir():
        if other != here:
            shutil.rmtree(other, ignore_errors=True)
    return here


def kernel_environment() -> dict[str, str]:
    """Environment of the pages' kernels: the tool on the path, as many threads as it has cores, no network.

    Returns:
        Variables to set; those that the user has set stay.
    """
    bin_folder = str(Path(sys.executable).parent)
    defaults = {
        "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 2)),
        "HF_HUB_OFFLINE": "1",
        "CIRCUITGRAPH_PROGRESS": "0",
    }
    values = {name: os.environ.get(name, value) for name, value in defaults.items()}
    return {**values, "PATH": bin_folder + os.pathsep + os.environ.get("PATH", "")}
