"""What is free on a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that is free on a device now; on the host also within the limits of a container or a cluster's job.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.

    Returns:
        Bytes, or None where it is not known.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0]) if torch.cuda.is_available() else None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        free = int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return min([free, *group_rooms()])


def group_rooms(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What is left to this process's control groups, version 1 and 2, those with a limit; file caches count as free.

    Args:
        groups: The file that names them.
        mounted: Where they are.

    Yields:
        Bytes, for each group and those above it.
    """
    for folder, names in _group_folders(groups, mounted):
        try:
            limit, used = (int((folder / name).read_text()) for name in names[:2])
            fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(fields.get(names[2], 0))
        except (OSError, ValueError):  # no such group here, or no limit: "max"
            continue
        yield max(0, limit - used + cached)


def _group_folders(groups: Path, mounted: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of groups that may limit memory, with the files that hold the limit and the use, and a line's name."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = mounted, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = mounted / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        here = Path(path.lstrip("/"))
        for folder in (here, *here.parents):
            yield root / folder, names
