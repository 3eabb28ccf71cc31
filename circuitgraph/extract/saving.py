"""An extracted circuit as a folder: `extracted.json` says what it is, `weights.safetensors` holds its numbers.

Nothing is pickled and no code is read from the folder. The model's norms, MLPs and rotary embedding are made again by
its own library from its config, which lies in the JSON; the model itself and its weights are not needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from circuitgraph.architectures import Family, family_of
from circuitgraph.architectures.universe import universe_of
from circuitgraph.errors import CircuitFormatError, CircuitGraphError, UnsupportedModelError
from circuitgraph.extract.layout import CircuitLayout
from circuitgraph.extract.module import ExtractedCircuit, Origin
from circuitgraph.files import whole_folder

FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS = "extracted.json", "weights.safetensors"


# -------------------------------------------------------------------- writing


def save_extracted(extracted: ExtractedCircuit, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write an extracted circuit as a folder, whole or not at all.

    Args:
        extracted: The extracted circuit.
        folder: The folder to make.
        overwrite: Whether an older extracted circuit there may be replaced.

    Returns:
        The folder.

    Raises:
        OutputError: The folder exists, or cannot be written.
        UnsupportedModelError: The model has parts that its config does not say, so they could not be made again.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from circuitgraph import Circuit, compile_model, extract_circuit, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> small = extract_circuit(circuit, compiled)
        >>> with TemporaryDirectory() as folder:
        ...     again = load_extracted(save_extracted(small, Path(folder) / "small"))
        >>> again.live_heads
        ('a0.h0', 'a3.h0')
    """
    place = Path(os.path.realpath(Path(folder).expanduser()))
    check_free(place, overwrite=overwrite)
    return whole_folder.write_folder(place, extracted_files(extracted))


def extracted_files(extracted: ExtractedCircuit) -> dict[str, str | bytes]:
    """The content of such a folder by the names of its files.

    Args:
        extracted: The extracted circuit.

    Raises:
        UnsupportedModelError: As of `save_extracted`.
    """
    _check_can_be_made_again(extracted)
    weights = save_tensors(_tensors(extracted))
    description = {
        "format_version": FORMAT_VERSION,
        "origin": extracted.origin.to_dict(),
        "layout": extracted.layout.to_dict(),
        "n_parameters": extracted.n_parameters,
        "n_constants": extracted.n_constants,
        "live_heads": extracted.live_heads,
        "live_mlps": extracted.live_mlps,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {WEIGHTS: weights, DESCRIPTION: json.dumps(description, indent=1) + "\n"}


def check_free(place: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken.

    Args:
        place: The folder to make.
        overwrite: Whether an older extracted circuit there may be replaced.

    Raises:
        OutputError: There is a file, or a folder that may not be replaced.
    """
    whole_folder.check_free(place, overwrite=overwrite, names=(DESCRIPTION, WEIGHTS), what="extracted circuit")


def _tensors(extracted: ExtractedCircuit) -> dict[str, Tensor]:
    """Everything that the file holds, shared tensors once and what state dicts leave out included."""
    tensors = dict(extracted.state_dict())
    if _is_tied(extracted):
        del tensors["unembedding.unembed.weight"]
    tensors.update({f"rotaries.{name}": buffer for name, buffer in extracted.rotaries.named_buffers()})
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _is_tied(extracted: ExtractedCircuit) -> bool:
    names = {name for name, _ in extracted.named_parameters()}
    return "unembedding.unembed.weight" in extracted.state_dict() and "unembedding.unembed.weight" not in names


def _kinds(extracted: ExtractedCircuit) -> dict[str, str]:
    return {name: type(module).__qualname__ for name, module in extracted.named_modules()}


def _check_can_be_made_again(extracted: ExtractedCircuit) -> None:
    """Refuse a module with parts that a model made from the config does not have."""
    ours, theirs = _kinds(extracted), _kinds(_empty(extracted.layout, extracted.origin))
    for name, kind in ours.items():
        if theirs.get(name) != kind:
            raise UnsupportedModelError(
                f"{name} is a {kind}, and a model made from this config has a {theirs.get(name)} there, so the "
                "folder could not be read back; keep the module's state_dict instead"
            )


# -------------------------------------------------------------------- reading


def load_extracted(folder: str | Path, *, device: torch.device | str = "cpu") -> ExtractedCircuit:
    """Read an extracted circuit; the model that it comes from is not needed.

    Args:
        folder: What `save_extracted` wrote.
        device: Where it shall run.

    Returns:
        The module, in evaluation mode.

    Raises:
        CircuitFormatError: The folder holds no extracted circuit, a damaged one, or one of a newer version.

    Examples:
        `save_extracted` shows one that is written and read. A folder without one:

        >>> load_extracted("runs/none")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.CircuitFormatError: runs/none/extracted.json cannot be read: No such file or directory;
        expected a folder made by save_extracted
    """
    place = Path(folder)
    description = _description(place)
    tensors = _checked_tensors(place, description)
    try:
        layout = CircuitLayout.from_dict(description["layout"])
        origin = _origin(description["origin"])
        extracted = _empty(layout, origin)
        _fill(extracted, tensors)
    except CircuitGraphError as error:
        raise CircuitFormatError(f"{place / DESCRIPTION}: {error}") from error
    except (KeyError, RuntimeError) as error:
        raise CircuitFormatError(f"{place}: description and weights do not fit each other: {error}") from error
    return extracted.to(device)


def _description(place: Path) -> dict[str, Any]:
    path = place / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitFormatError(
            f"{path} cannot be read: {error.strerror}; expected a folder made by save_extracted"
        ) from error
    except ValueError as error:
        raise CircuitFormatError(f"{path}: no complete JSON ({error}); extract the circuit again") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CircuitFormatError(
            f"{path}: expected format_version {FORMAT_VERSION}; got {version!r}: is this an extracted circuit, and "
            "circuitgraph up to date?"
        )
    for name in ("origin", "layout", "sha256"):
        if name not in values:
            raise CircuitFormatError(f"{path}: {name} is missing; extract the circuit again")
    return values


def _checked_tensors(place: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    path = place / WEIGHTS
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CircuitFormatError(f"{path} cannot be read: {error.strerror}; extract the circuit again") from error
    if hashlib.sha256(payload).hexdigest() != description["sha256"]:
        raise CircuitFormatError(
            f"{path}: the file is not the one that {DESCRIPTION} describes: damaged, cut short or replaced; extract "
            "the circuit again"
        )
    try:
        return load_tensors(payload)
    except SafetensorError as error:
        raise CircuitFormatError(f"{path}: no safetensors file ({error}); extract the circuit again") from error


def _origin(values: dict[str, Any]) -> Origin:
    names = {field.name for field in fields(Origin)}
    if not isinstance(values, dict) or set(values) != names:
        raise CircuitFormatError(f"origin: expected {', '.join(sorted(names))}; got {sorted(values)}")
    return Origin(**values)


def _empty(layout: CircuitLayout, origin: Origin) -> ExtractedCircuit:
    """The module without its numbers, made from the model's config."""
    family = family_of(origin.model_type)
    config, network = _skeleton(family, origin)
    family.check_config(config)
    found = layout.universe
    difference = found.first_difference(
        universe_of(family, family.shape(config), embeddings=found.embeddings, kv_heads=found.kv_heads, qkv=found.qkv)
    )
    if difference is not None:
        raise CircuitFormatError(f"layout: the universe is not that of the config: {difference}")
    return ExtractedCircuit(layout, family.bind(network), origin)


def _skeleton(family: Family, origin: Origin) -> tuple[Any, nn.Module]:
    """A model without weights, of the classes that circuitgraph knows and no others."""
    values = {name: value for name, value in origin.config.items() if name != "auto_map"}
    if origin.model_type == "tracr":
        from circuitgraph.tracr.model import TracrConfig, TracrModel

        config = TracrConfig.from_dict(values)
        return config, TracrModel(config)
    import transformers

    try:
        config = transformers.CONFIG_MAPPING[origin.model_type].from_dict(values)
    except Exception as error:  # whatever the library makes of a damaged config
        raise CircuitFormatError(f"origin: no {origin.model_type} config: {error}") from error
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = getattr(transformers, family.auto_class).from_config(config, trust_remote_code=False)
    if type(network).__name__ not in family.model_classes:
        raise CircuitFormatError(f"origin: {type(network).__name__} is no {family.name} model")
    return config, cast(nn.Module, network)


def _fill(extracted: ExtractedCircuit, tensors: dict[str, Tensor]) -> None:
    """Put the numbers in, every one of them."""
    wanted = extracted.state_dict()
    kept_elsewhere = set(tensors) - set(wanted)
    rotaries = dict(extracted.rotaries.named_buffers())
    strangers = sorted(kept_elsewhere - {f"rotaries.{name}" for name in rotaries})
    tied = "unembedding.unembed.weight" in wanted and "unembedding.unembed.weight" not in tensors
    if tied:
        tensors = {**tensors, "unembedding.unembed.weight": tensors["embeddings.tok.weight"]}
    if strangers or (missing := sorted(set(wanted) - set(tensors))):
        raise CircuitFormatError(f"weights: not expected: {strangers[:3]}; missing: {missing[:3]}")
    extracted.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    for name, buffer in rotaries.items():
        owner, _, leaf = name.rpartition(".")
        given = tensors[f"rotaries.{name}"]
        if given.shape != buffer.shape:
            raise CircuitFormatError(f"weights: rotaries.{name} has the shape {list(given.shape)}")
        setattr(extracted.rotaries.get_submodule(owner), leaf, given)
    if tied:
        extracted.tie_embeddings()
