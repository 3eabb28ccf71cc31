"""The errors that circuitgraph raises on purpose.

Everything derives from `CircuitGraphError`. What a user can mend by calling differently is also a
`ValueError`; the command line exits with 2 for those and with 1 for the rest. A message says what was
expected, what came, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CircuitGraphError(Exception):
    """Base of every error raised on purpose."""


class UnknownNameError(CircuitGraphError, ValueError):
    """A model, task, recipe, option, node or edge name that does not exist."""

    @classmethod
    def of(cls, kind: str, name: object, valid: Iterable[str], hint: str = "") -> UnknownNameError:
        """Name the nearest valid names.

        Args:
            kind: What was looked up, e.g. `"task"`.
            name: What came.
            valid: Every name that would have done.
            hint: What else to do, appended as it is.

        Returns:
            The error, ready to raise.

        Examples:
            >>> print(UnknownNameError.of("task", "iio", ["ioi", "capitals"]))
            unknown task 'iio'; did you mean 'ioi'?
            >>> print(UnknownNameError.of("task", "x", ["ioi", "capitals"], "Or a file: jsonl:PATH."))
            unknown task 'x'; valid: ioi, capitals. Or a file: jsonl:PATH.
        """
        names = [str(item) for item in valid]
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        if near:
            tail = "did you mean " + " or ".join(repr(item) for item in near) + "?"
        elif len(names) <= 30:
            tail = "valid: " + ", ".join(names) if names else "there are none"
        else:
            tail = f"{len(names)} names are valid, for example " + ", ".join(names[:5])
        stop = "" if tail.endswith("?") else "."
        return cls(f"unknown {kind} {str(name)!r}; {tail}" + (f"{stop} {hint}" if hint else ""))


class ConfigurationError(CircuitGraphError, ValueError):
    """An option whose value, or whose combination with another, makes no sense."""


class UnsupportedModelError(CircuitGraphError, ValueError):
    """An architecture, config field or attention variant that is not understood."""


class ModelNotFoundError(CircuitGraphError, ValueError):
    """A model that is neither a folder nor packaged nor reachable."""


class GraphEditError(CircuitGraphError, ValueError):
    """An edited graph that cannot be taken back by its compiled model."""


class GraphMismatchError(CircuitGraphError, ValueError):
    """Circuits, graphs or models of different universes."""


class PromptFormatError(CircuitGraphError, ValueError):
    """Prompts that cannot be read or aligned."""


class CircuitFormatError(CircuitGraphError, ValueError):
    """A circuit file that is damaged, of a newer version, or holds unknown edges."""


class OutputError(CircuitGraphError, ValueError):
    """A place to write to that exists, cannot be written, or is full."""


class CheckpointError(CircuitGraphError, ValueError):
    """Checkpoints of a run that are damaged, of another run, or not there."""


class ParityError(CircuitGraphError):
    """The compiled graph does not reproduce the model it came from."""


class TrainingError(CircuitGraphError):
    """Training that could not go on; the last good state was kept."""


class NotFiniteError(TrainingError, ValueError):
    """NaN or infinite outputs or gradients before anything was learnt: there is nothing to train towards."""


class RenderingError(CircuitGraphError):
    """No Graphviz was found, or it failed."""


class IncompleteResultWarning(UserWarning):
    """Parts of a result that could not be made or were left out; the circuit is there."""


class CacheWarning(UserWarning):
    """A cache that could not be read or written; what it would have given is computed instead."""


class CheckpointWarning(UserWarning):
    """A checkpoint that was passed over because it is damaged; an earlier one was taken."""


class UndefinedWarning(UserWarning):
    """Prompts that were left out of a measure because of NaN or infinite logits."""


class ModelWarning(UserWarning):
    """Something about a model or its tokenizer that makes some numbers undefined, or that a loader left out."""


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED")
"""How torch's allocators, C++, CUDA and its libraries say it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or a GPU.

    Examples:
        >>> out_of_memory(MemoryError()), out_of_memory(ValueError("no"))
        (True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


def why(error: BaseException) -> str:
    """An error in one sentence.

    Examples:
        >>> why(IndexError("index out of range in self"))
        'IndexError: index out of range in self'
        >>> why(MemoryError())
        'out of memory'
    """
    first = str(error).strip().split("\n")[0]
    if out_of_memory(error):
        return f"out of memory ({first})" if first else "out of memory"
    if isinstance(error, CircuitGraphError):
        return str(error)
    return f"{type(error).__name__}: {first or 'no message'}"
