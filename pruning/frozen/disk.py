"""Kept runs on disk: memory-mapped safetensors in a bounded folder, checked when they are opened.

Whatever goes wrong with a file or the folder (cut short, changed, from elsewhere, read-only, full), what
was looked up is not there, a `CacheWarning` gives the reason, and the caller runs the model instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuitgraph.errors import CacheWarning, ConfigurationError
from circuitgraph.files.cache_folder import frozen_folder
from pruning.frozen import folder as files
from pruning.frozen.rows import Rows

_HEADER = 64 << 10  # at most this much of a file is not tensors


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is kept.

    Attributes:
        model: The model's key.
        kind: What is kept.
        key: The run's key.
    """

    model: str
    kind: str
    key: str


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Rows of a file, mapped into memory: only what is taken is read.

    Attributes:
        first: The tensors as they lie in the file, rows along the first axis.
        axes: Where the rows belong, see `Rows`.
    """

    first: Rows
    axes: dict[str, int | None]

    def take(self, index: Tensor) -> Rows:
        """Copy some rows.

        Args:
            index: Which, on the CPU.
        """
        return self._natural(self.first.take(index), copied=True)

    def head(self, count: int) -> Rows:
        """The first rows as views of the file, not to be handed out."""
        return self._natural(self.first.head(count), copied=False)

    def _natural(self, rows: Rows, *, copied: bool) -> Rows:
        def turned(tensor: Tensor, axis: int | None) -> Tensor:
            if axis is None:
                return tensor.clone()
            return tensor.movedim(0, axis).contiguous() if copied else tensor.movedim(0, axis)

        tensors = {name: turned(tensor, self.axes[name]) for name, tensor in rows.tensors.items()}
        return replace(rows, tensors=tensors, axes=self.axes)


class DiskCache:
    """A bounded folder of kept runs. The files of a run stay until it ends; others make room, oldest used first.

    Args:
        folder: Where; by default `$CIRCUITGRAPH_FROZEN_CACHE`, else `frozen` in circuitgraph's cache folder.
        budget_bytes: How large the folder may be, other runs' files included.
        spare_bytes: What must stay free on the disk.

    Raises:
        ConfigurationError: A negative size.

    Examples:
        >>> DiskCache("/scratch/frozen", budget_bytes=8 << 30).folder.name
        'frozen'
    """

    def __init__(
        self, folder: str | Path | None = None, *, budget_bytes: int = 2 << 30, spare_bytes: int = 1 << 30
    ) -> None:
        if min(budget_bytes, spare_bytes) < 0:
            raise ConfigurationError(f"a disk cache's sizes must be 0 or more; got {budget_bytes} and {spare_bytes}")
        self.folder = frozen_folder() if folder is None else Path(folder).expanduser()
        self.budget_bytes, self.spare_bytes = budget_bytes, spare_bytes
        self._mine: set[Path] = set()
        self._warned: set[str] = set()
        self._stopped = False

    def for_run(self) -> DiskCache:
        """The same folder and bounds, for a run that has read and written nothing yet."""
        return DiskCache(self.folder, budget_bytes=self.budget_bytes, spare_bytes=self.spare_bytes)

    def read(self, place: Place, n_rows: int) -> StoredRows | None:
        """Open a kept run.

        Args:
            place: Which.
            n_rows: How many rows it must have.

        Returns:
            Its rows; None where it is not there, or not what it should be.
        """
        for path in self._candidates(place):
            try:
                self._check_content(path)
                stored = _opened(path, place, n_rows)
                with contextlib.suppress(OSError):
                    os.utime(path)
            except FileNotFoundError:
                continue  # removed by another process just now
            except OSError as error:
                self._warn("unreadable", f"{path} cannot be read ({error}), so its prompts are run again")
                continue
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                self._warn("damaged", f"{path} is not used ({error}); its prompts are run again")
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            self._mine.add(path)
            return stored
        return None

    def could_hold(self, n_bytes: int) -> bool:
        """Whether a run of this size would find room."""
        if self._stopped:
            return False
        return files.room(self.folder, budget_bytes=self.budget_bytes, keep=self._mine) >= n_bytes + _HEADER

    def write(self, place: Place, rows: Rows, n_rows: int, about: dict[str, object]) -> StoredRows | None:
        """Keep a run; whole, or not at all.

        Args:
            place: Under which key.
            rows: Its outputs, on any device.
            n_rows: How many rows.
            about: What `circuitgraph cache` shows of it.

        Returns:
            The rows as they lie on disk; None where there is no room, or the folder cannot be written.
        """
        n_bytes = rows.n_bytes + _HEADER
        if not self.could_hold(rows.n_bytes):
            return None
        try:
            (self.folder / place.model).mkdir(parents=True, exist_ok=True)
            if not self._disk_has_room(n_bytes) or not files.make_room(
                self.folder, n_bytes, budget_bytes=self.budget_bytes, keep=self._mine
            ):
                return None
            path = self._save(place, rows, _metadata(place, rows, about))
            self._mine.add(path)
            return _opened(path, place, n_rows)
        except (OSError, SafetensorError) as error:
            self._stop(f"{self.folder} cannot be written ({error}); frozen runs are kept without it")
            return None

    def _save(self, place: Place, rows: Rows, header: dict[str, str]) -> Path:
        """Write a file under another name, then give it its own.

        Its content is checked when it is opened, so nothing is forced onto the disk first.
        """
        folder = self.folder / place.model
        beside = folder / f".{place.kind}-{place.key}.{uuid.uuid4().hex}.tmp"
        try:
            save_file(_for_file(rows), beside, metadata=header)
            return beside.replace(folder / f"{place.kind}-{place.key}-{_content(beside)}.safetensors")
        finally:
            beside.unlink(missing_ok=True)

    def _disk_has_room(self, n_bytes: int) -> bool:
        free = shutil.disk_usage(self.folder).free
        if free - n_bytes >= self.spare_bytes:
            return True
        self._stop(
            f"{self.folder}: its disk has {free / 2**30:.1f} GiB left, of which {self.spare_bytes / 2**30:.1f} GiB "
            "stay free; frozen runs are kept without it"
        )
        return False

    def _candidates(self, place: Place) -> list[Path]:
        try:
            return sorted((self.folder / place.model).glob(f"{place.kind}-{place.key}-*.safetensors"))
        except OSError:
            return []

    def _check_content(self, path: Path) -> None:
        found = files.ENTRY.fullmatch(path.name)
        if found is None or found.group(3) != _content(path):
            raise ValueError("its content is not what was written: it was cut short or changed")

    def _stop(self, why: str) -> None:
        """Write nothing more in this run."""
        self._stopped = True
        self._warn("stopped", why)

    def _warn(self, cause: str, why: str) -> None:
        """Warn of the first of each cause in a run; a damaged folder can hold thousands of files."""
        if cause not in self._warned:
            self._warned.add(cause)
            warnings.warn(f"cache: {why}", CacheWarning, stacklevel=2)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _metadata(place: Place, rows: Rows, about: dict[str, object]) -> dict[str, str]:
    """What the header holds, in one entry: safetensors writes several in any order, and other bytes each time."""
    header = {"place": asdict(place), "axes": rows.axes, "form": dict(rows.form), "about": about}
    return {files.METADATA: json.dumps(header)}


def _for_file(rows: Rows) -> dict[str, Tensor]:
    """Rows first, every tensor with memory of its own, as safetensors requires."""
    made: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in rows.tensors.items():
        axis = rows.axes[name]
        laid = (tensor if axis is None else tensor.movedim(axis, 0)).contiguous()
        storage = laid.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != laid.numel() * laid.element_size():
            laid = laid.clone()
        seen.add(laid.untyped_storage().data_ptr())
        made[name] = laid
    return made


def _opened(path: Path, place: Place, n_rows: int) -> StoredRows:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[files.METADATA])
        if header["place"] != asdict(place):
            raise ValueError("it belongs to another model or other prompts")
        axes, form = header["axes"], header["form"]
        tensors = {name: file.get_tensor(name) for name in axes}
    lying = {name: None if axis is None else 0 for name, axis in axes.items()}
    if any(tensors[name].shape[0] != n_rows for name, axis in lying.items() if axis == 0):
        raise ValueError(f"it does not have {n_rows} rows")
    return StoredRows(first=Rows(tensors=tensors, axes=lying, form=form), axes=axes)
