"""Files that torch wrote, as numpy arrays: the one place where reading or writing a circuit loads torch.

Only what torch reads without running code (`weights_only=True`) is read: tensors, numbers, text, lists and
dictionaries. A file that holds anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.errors import CircuitFormatError


def read_tensors(path: Path, expected: str) -> Any:
    """Read a file of tensors.

    Args:
        path: The file.
        expected: What it should be, for messages.

    Returns:
        What it holds, with arrays in the place of tensors: booleans stay, other numbers become float64.

    Raises:
        CircuitFormatError: It cannot be read, is no file of torch's, or holds pickled code.
    """
    import torch

    try:
        with warnings.catch_warnings():
            # Of pickles by other protocols, which are refused or read all the same.
            warnings.simplefilter("ignore", UserWarning)
            return _arrays(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read: {error.strerror}; expected {expected}") from error
    except pickle.UnpicklingError as error:
        raise CircuitFormatError(
            f"{path}: no file of torch's, or one of pickled objects whose code would be run ({_first_line(error)}); "
            f"expected {expected}, as plain tensors. Load it where it was made, and save it anew as such"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise CircuitFormatError(
            f"{path}: no file that torch can read ({_first_line(error)}); expected {expected}"
        ) from error


def tensor_bytes(value: Any) -> bytes:
    """A value as a file that torch reads with `weights_only=True`.

    Args:
        value: Numbers, text, lists, dictionaries and arrays, which become tensors of their own type.
    """
    import torch

    content = io.BytesIO()
    torch.save(_tensors(value), content)
    return content.getvalue()


def holds_text(path: Path, *texts: bytes) -> bool:
    """Whether a zipped file of torch's speaks of something, without unpickling it.

    Args:
        path: The file.
        texts: Names that all have to be there.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("data.pkl")]
            content = b"".join(archive.read(name) for name in pickled)
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False
    return all(text in content for text in texts)


def _first_line(error: Exception) -> str:
    """What torch says of an object that it does not load, without its advice."""
    said = str(error)
    named = re.search(r"Unsupported (?:global|class|operand)[^\n]*?(?=\. |\n|$)", said)
    return named.group() if named else said.partition("\n")[0].partition(". ")[0] or type(error).__name__


def _arrays(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        return plain.numpy() if plain.dtype == torch.bool else plain.double().numpy()
    if isinstance(value, dict):
        return {name: _arrays(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_arrays(item) for item in value]
    return value


def _tensors(value: Any) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {name: _tensors(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    return value
