"""What is free on a device."""

from __future__ import annotations


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that is free on a device now.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.

    Returns:
        Bytes, or None where it cannot be told.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0]) if torch.cuda.is_available() else None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
