"""What a kept run depends on, as a key: other weights, code, device or prompts make another key.

A key covers everything that could change a bit of what is kept, so that a kept run is the run that this very
process would make: every byte of the weights, the config, the modules and their settings, this library's
code and the versions below it, the device with its number of threads, and the tokens of the prompts *that
ran together* (other company in a batch can change the last bits of a matrix product). Names and revisions
of models are left out, since they change nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

import circuitgraph
from circuitgraph._version import __version__
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.engine.mlps.onednn import onednn_pays

FORMAT = 2
"""Raised whenever what a file holds changes its meaning."""

_PIECE = 32 << 20
CODE = (
    "circuitgraph/architectures/*.py",
    "circuitgraph/batch.py",
    "circuitgraph/compiled/*.py",
    "circuitgraph/forward/**/*.py",
    "circuitgraph/graph/*.py",
    "circuitgraph/token_places.py",
    "circuitgraph/torch_state.py",
    "circuitgraph/tracr/model.py",
    "circuitgraph/transfer.py",
    "pruning/frozen/top_teacher.py",
    "pruning/frozen/rows.py",
)
"""What a kept run is made by; a test compares it with what the reference run imports."""
_NO_SETTINGS = frozenset(("training", "name_or_path"))


def model_key(compiled: CompiledModel) -> str:
    """Everything about a model, its machine and this library that a run depends on.

    Reads every weight: about a second a gigabyte and core. Where this library's files have changed since they
    were imported, nobody knows which code runs, and the key is one that never comes again.

    Args:
        compiled: The model.

    Returns:
        32 hexadecimal digits.
    """
    return _digest(
        {
            "format": FORMAT,
            "config": compiled.config_hash,
            "weights": weights_digest(compiled.model),
            "modules": modules_digest(compiled.model),
            "onednn": onednn_pays(),
            "device": device_text(compiled.device),
            "code": code_digest() if code_digest() == _CODE_AT_IMPORT else uuid.uuid4().hex,
            "versions": {
                "circuitgraph": __version__,
                "torch": torch.__version__,
                "transformers": importlib.metadata.version("transformers"),
            },
        }
    )


def run_key(model: str, kind: str, batches: list[TokenBatch], **settings: object) -> str:
    """The key of one run.

    Args:
        model: The model's key.
        kind: What is kept, such as `teacher`, `values` or `mean`.
        batches: The prompts, as they run together.
        **settings: What else it depends on, such as the number of tokens kept.

    Returns:
        32 hexadecimal digits.

    Examples:
        >>> ids = torch.tensor([[5, 7]])
        >>> batch = TokenBatch(input_ids=ids, attention_mask=torch.ones_like(ids),
        ...     predict_index=torch.tensor([1]), predict_prompt=torch.tensor([0]))
        >>> run_key("m", "teacher", [batch]) == run_key("m", "teacher", [batch], top_k=8)
        False
    """
    return _digest(
        {"model": model, "kind": kind, "settings": settings, "batches": [_batch_digest(batch) for batch in batches]}
    )


def _batch_digest(batch: TokenBatch) -> list[str]:
    named = (batch.input_ids, batch.attention_mask, batch.predict_index)
    return [f"{list(part.shape)}:{hashlib.sha256(_bytes(part)).hexdigest()}" for part in named]


def weights_digest(model: nn.Module) -> str:
    """Hash of every parameter and buffer: name, number format, shape and bytes.

    Args:
        model: Any module.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> with torch.no_grad():
        ...     layer.bias[1] += 1
        >>> weights_digest(layer) == before
        False
    """
    held = [*model.named_parameters(), *model.named_buffers()]
    table = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in held]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = list(pool.map(_hash, (piece for _, tensor in held for piece in _pieces(tensor.detach()))))
    return _digest([table, hashes])


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in parts that threads can share."""
    return iter(tensor.reshape(-1).split(_PIECE // tensor.element_size()))


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def modules_digest(model: nn.Module) -> str:
    """Hash of the module tree: every module's class and its plain settings, such as a norm's epsilon.

    Args:
        model: Any module.

    Examples:
        >>> norm = nn.LayerNorm(2)
        >>> before = modules_digest(norm)
        >>> norm.eps = 0.5
        >>> modules_digest(norm) == before
        False
    """
    return _digest([[name, _type_name(module), _settings(module)] for name, module in model.named_modules()])


def _type_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _settings(module: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name in _NO_SETTINGS:
            continue
        function = getattr(value, "__qualname__", None)
        if isinstance(function, str):
            found[name] = function
            continue
        try:
            found[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            found[name] = _type_name(value)
    return found


def device_text(device: torch.device) -> str:
    """What decides how a device rounds.

    Args:
        device: Where the model lies.

    Examples:
        >>> device_text(torch.device("cpu")).startswith("cpu, ")
        True
    """
    parts = [device.type]
    if device.type == "cpu":
        parts += [platform.machine(), torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    elif device.type == "cuda":
        parts += [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"]
    parts.append(f"matmul {torch.get_float32_matmul_precision()}")
    return ", ".join(parts)


def code_digest() -> str:
    """Hash of this library's code that makes runs and what is kept of them, so that a changed checkout makes them anew.

    Examples:
        >>> len(code_digest())
        32
    """
    root = Path(circuitgraph.__file__).parent.parent
    files = sorted(path for pattern in CODE for path in root.glob(pattern))
    return _digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


_CODE_AT_IMPORT = code_digest()
