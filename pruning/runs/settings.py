"""How a run is done: where, in which number format, in how much memory. `pruning.runs.request` says what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from circuitgraph.models import DTYPES
from pruning.runs.fields import check_fields, checked_table, number, one_of, plain

if TYPE_CHECKING:
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.execution.step_settings import StepSettings
    from pruning.frozen.disk import DiskCache


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is done. Other settings give the same circuit up to rounding.

    Attributes:
        device: Where the model lies: `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: Its number format.
        verify: Whether it is checked that the compiled graph reproduces the model.
        memory_bytes: What the run has to fit into; None takes what is free.
        cache_bytes: Memory for runs that never change, at most.
        disk_cache_bytes: How much of a disk they may take; 0 neither reads nor writes any.
        disk_cache_folder: Where, or None for the usual place, see `pruning.DiskCache`.
        disk_spare_bytes: What must stay free on that disk.
        micro_batch: Prompts run at once in training; None takes as many as fit into memory.
        recompute: Whether MLPs run once more in the backward pass; None does so where memory asks for it.
        replay: Whether steps are recorded and replayed; None does so on CUDA.
        checkpoint_every_seconds: Time between two checkpoints of the training, where the result is kept in a folder;
            0 for none by the clock.
        checkpoint_every_steps: Steps between two checkpoints; 0 for none by steps.
        time_limit_seconds: When the run is to be over, from its start: it is asked to stop a little before; None for
            no limit.

    Raises:
        ConfigurationError: A value of another type, or that makes no sense.
        UnknownNameError: No such number format.

    Examples:
        >>> RunSettings(device="cuda", dtype="bfloat16").micro_batch is None
        True
        >>> RunSettings(micro_batch=0)
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: micro_batch must be a whole number of at least 1; got 0
    """

    device: str = "cpu"
    dtype: str = one_of(*DTYPES, default="float32")
    verify: bool = True
    memory_bytes: int | None = number(None)
    cache_bytes: int = number(2 << 30)
    disk_cache_bytes: int = number(0)
    disk_cache_folder: str | None = None
    disk_spare_bytes: int = number(1 << 30)
    micro_batch: int | None = number(None, least=1)
    recompute: bool | None = None
    replay: bool | None = None
    checkpoint_every_seconds: int = number(300)
    checkpoint_every_steps: int = number(0)
    time_limit_seconds: int | None = number(None, least=1)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    @property
    def working_seconds(self) -> float | None:
        """When the run is asked to stop, so that what it has is written when its time is up; None for no limit.

        Examples:
            >>> RunSettings(time_limit_seconds=60).working_seconds, RunSettings(time_limit_seconds=3600).working_seconds
            (57.0, 3540.0)
        """
        limit = self.time_limit_seconds
        return None if limit is None else limit - min(60.0, limit / 20)

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return plain(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> RunSettings:
        """What `to_dict` gave; fields that are left out have their defaults.

        Args:
            found: Values by field.

        Raises:
            ConfigurationError: A value of another type.
            UnknownNameError: No such field.
        """
        return cls(**checked_table(found, cls, "setting"))

    def disk_cache(self) -> DiskCache | None:
        """The folder for runs that never change, or None."""
        from pruning.frozen.disk import DiskCache

        if not self.disk_cache_bytes:
            return None
        return DiskCache(self.disk_cache_folder, budget_bytes=self.disk_cache_bytes, spare_bytes=self.disk_spare_bytes)

    def fitted(self, plan: MemoryPlan | None) -> RunSettings:
        """These settings with what a memory plan decided of what they leave open.

        Args:
            plan: The plan; None leaves them as they are.
        """
        if plan is None:
            return self
        return replace(
            self,
            micro_batch=self.micro_batch or plan.micro_batch,
            recompute=plan.recompute if self.recompute is None else self.recompute,
            cache_bytes=min(self.cache_bytes, plan.cache_bytes),
        )

    def step_settings(self) -> StepSettings:
        """How training steps are run."""
        from pruning.execution.step_settings import StepSettings

        given = {one.name: getattr(self, one.name) for one in fields(StepSettings)}
        return StepSettings(**{name: value for name, value in given.items() if value is not None})
