"""States of a run on disk, from which a later process goes on.

A checkpoint is two files, `step-00000120.safetensors` with the tensors and `step-00000120.json` with all else:

1. the tensors are written, then the JSON with their SHA-256 and its own; each file is whole or not there;
2. the JSON makes a checkpoint valid, so a process killed between the two leaves the one before;
3. the newest two are kept. If the newest is damaged, the one before it is read, with a warning.

The JSON names the run (`request`). A checkpoint of other settings is refused, with the first difference. Nothing is
unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from circuitgraph.errors import CheckpointError, CheckpointWarning, OutputError
from circuitgraph.files.atomic_file import reason, sweep, write_atomically
from circuitgraph.files.strict_json import parse_strictly
from pruning.methods.edge_pruning.state import TrainingState

FORMAT_VERSION = 1
EVERY_SECONDS = 300.0
"""Between two checkpoints, where nothing else is asked for."""
MOST_OF_THE_TIME = 0.01
"""Checkpoints by the clock take no more of the time than this, however slow the disk."""
_KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.json")


class Checkpoints:
    """The checkpoints of one run in a folder of their own.

    Args:
        folder: Where they are; it is made with the first one.
        request: What the run is, as JSON values; a checkpoint of another is refused.
        conditions: What else decides on the last bits, such as versions; where it differs that is said.
        every_seconds: Time between two; None for none by the clock.
        every_steps: Steps between two; None for none by steps.
        say: Called with a line when a checkpoint could not be written, or was made under other conditions.

    Attributes:
        written: Steps taken of the newest checkpoint that this object wrote or read; None before there is one.
        seconds: What writing took in all.

    Examples:
        >>> Checkpoints(Path("runs/ioi/checkpoint"), {"seed": 0}, every_steps=20).newest() is None
        True
    """

    def __init__(
        self,
        folder: Path,
        request: Mapping[str, Any],
        *,
        conditions: Mapping[str, Any] | None = None,
        every_seconds: float | None = EVERY_SECONDS,
        every_steps: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.request = folder, json.loads(json.dumps(request))
        self.conditions = json.loads(json.dumps(conditions or {}))
        self.every_seconds, self.every_steps, self._say = every_seconds, every_steps, say
        self.written: int | None = None
        self.seconds = 0.0
        self._due = time.perf_counter() + (every_seconds or 0.0)
        self._failing = ""

    # ------------------------------------------------------------ writing

    def after_step(self, state: TrainingState) -> None:
        """Write a state if it is time to.

        Args:
            state: After the step that was just taken.
        """
        by_steps = self.every_steps is not None and state.steps % self.every_steps == 0
        by_clock = self.every_seconds is not None and time.perf_counter() >= self._due
        if by_steps or by_clock:
            self.keep(state)

    def keep(self, state: TrainingState) -> None:
        """Write a state now, unless it is there. A disk that fails does not end the run: it is told of.

        Args:
            state: Any.
        """
        if state.steps == self.written:
            return
        began = time.perf_counter()
        try:
            self._write(state)
        except (OSError, OutputError) as error:
            told = f"no checkpoint could be written ({error}); the run goes on without"
            if told != self._failing:
                self._say(f"Warning: {told}")
            self._failing = told
        else:
            self.written, self._failing = state.steps, ""
        now = time.perf_counter()
        self.seconds += now - began
        self._due = now + max(self.every_seconds or 0.0, (now - began) / MOST_OF_THE_TIME)

    def _write(self, state: TrainingState) -> None:
        from safetensors.torch import save

        tensors, values = state.packed()
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        body = {
            "format_version": FORMAT_VERSION,
            "request": self.request,
            "conditions": self.conditions,
            "state": values,
            "tensors_sha256": hashlib.sha256(content).hexdigest(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{state.steps:08d}"
        write_atomically(self.folder / f"{name}.safetensors", content)
        write_atomically(self.folder / f"{name}.json", json.dumps({**body, "sha256": _sha256(body)}, allow_nan=False))
        self._remove_older(name)

    def _remove_older(self, newest: str) -> None:
        """Keep a checkpoint and the one before it; what comes after it is of a course that was left."""
        stems = [path.stem for path in self.files()]
        before = [stem for stem in stems if stem < newest]
        for stem in {*before[: len(before) - _KEPT + 1], *(stem for stem in stems if stem > newest)}:
            # The JSON goes first: without it there is no checkpoint.
            for suffix in (".json", ".safetensors"):
                with contextlib.suppress(OSError):
                    (self.folder / f"{stem}{suffix}").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all checkpoints, for a run that begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.written = None

    # ------------------------------------------------------------ reading

    def files(self) -> list[Path]:
        """The JSON files of the checkpoints that are there, the oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            return []

    def newest(self) -> TrainingState | None:
        """The newest state that is whole; None where there is no checkpoint.

        Raises:
            CheckpointError: It is of a run of other settings, or none of those that are there is whole.

        Warns:
            CheckpointWarning: A damaged one was passed over.
        """
        damaged, cure = [], "remove that folder to begin anew"
        for path in reversed(self.files()):
            try:
                body, tensors = _read(path)
                request, conditions = body["request"], body["conditions"]
                state = TrainingState.unpacked(tensors, body["state"])
            except OSError as error:
                damaged.append(f"{path}: {reason(error)}")
                continue
            except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
                if isinstance(error, _OtherVersion):
                    cure = "go on with the circuitgraph that wrote them"
                lacking = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                damaged.append(f"{path}: {lacking}")
                continue
            self._require_same(request)
            if damaged:
                told = f"damaged checkpoints were passed over ({'; '.join(damaged)}); going on from step {state.steps}"
                warnings.warn(told, CheckpointWarning, stacklevel=2)
            other = first_difference(conditions, self.conditions)
            if other:
                self._say(f"note: {other} ('there' is where the checkpoint was made); the last bits may differ")
            self.written = state.steps
            return state
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole ({'; '.join(damaged)}); {cure}")
        return None

    def _require_same(self, request: Mapping[str, Any]) -> None:
        found = first_difference(request, self.request)
        if found:
            raise CheckpointError(
                f"the checkpoint in {self.folder} is of another run: {found}; give the settings that it was begun "
                "with, or begin anew in another folder"
            )

    def tidy(self) -> None:
        """Remove what a killed process left half written. Nobody else may be writing there."""
        for suffix in ("json", "safetensors"):
            names = {path.name for path in self.folder.glob(f".step-*.{suffix}.*.tmp")} if self.folder.is_dir() else ()
            for name in names:
                sweep(self.folder / name[1 : name.index(f".{suffix}.") + len(suffix) + 1], older_than=0.0)


class _OtherVersion(ValueError):
    """A checkpoint that another version of circuitgraph wrote."""


def _sha256(body: Mapping[str, Any]) -> str:
    """A checksum of JSON values, whatever the order of their keys and the spaces between them."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's JSON and tensors.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: A file is damaged or of another version.
    """
    from safetensors.torch import load

    body = parse_strictly(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise ValueError("no JSON object")
    version = body.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise _OtherVersion(f"of version {version!r}; this circuitgraph reads {FORMAT_VERSION}")
    if body.pop("sha256", None) != _sha256(body):
        raise ValueError("its contents do not match its checksum")
    content = path.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != body["tensors_sha256"]:
        raise ValueError("its tensors do not match their checksum")
    return body, load(content)


def first_difference(there: Any, here: Any, name: str = "") -> str:
    """The first setting that differs, in words; an empty text where all are the same.

    Args:
        there: JSON values, as a checkpoint has them.
        here: Those of this run.
        name: What they are the value of.

    Examples:
        >>> first_difference({"recipe": {"steps": 400}}, {"recipe": {"steps": 300}})
        'recipe.steps is 400 there and 300 here'
        >>> first_difference({"seed": 0}, {"seed": 0, "objective": "kl"})
        "objective is not set there and 'kl' here"
        >>> first_difference([1], [1])
        ''
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*here, *there]):
            missing = object()
            values = there.get(key, missing), here.get(key, missing)
            inner = f"{name}.{key}" if name else str(key)
            if missing in values:
                words = ["not set" if value is missing else repr(value) for value in values]
                return f"{inner} is {words[0]} there and {words[1]} here"
            found = first_difference(*values, inner)
            if found:
                return found
        return ""
    if there == here and type(there) is type(here):
        return ""
    return f"{name} is {there!r} there and {here!r} here"
