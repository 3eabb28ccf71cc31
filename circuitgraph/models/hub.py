"""Models from a local folder or from the Hugging Face hub, through `transformers`.

Only safetensors weights are read: nothing is ever unpickled, and code that comes with a model runs only
when it was asked for by name. Offline, a model that lies in the hub's cache still loads; one that does
not is refused at once, without minutes of retries. What loads models is imported where one is loaded: a config is read
in half of the time.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from circuitgraph.architectures import family_of, supported_model_types
from circuitgraph.errors import (
    CircuitGraphError,
    ConfigurationError,
    ModelNotFoundError,
    ModelWarning,
    UnsupportedModelError,
    out_of_memory,
)
from circuitgraph.models.file_weights import check_adapters, check_unexpected
from circuitgraph.models.text_part import AUTO_CLASS, has_text_part, text_config, text_model, text_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WHAT_TO_DO = (
    "Give a local folder made with save_pretrained(folder), or go online once so that the hub's cache "
    "holds the model, or use a model that needs no hub: {packaged}."
)
_NO_TOKENIZER = (
    "model {name!r} has no tokenizer, or one without words; put one beside it with tokenizer.save_pretrained(folder)"
)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Which weights of a model and of its files did not find each other.

    Attributes:
        missing: Names of those that the files lack; `transformers` has filled them with random numbers.
        unexpected: Names of those in the files that the config has no place for; they were left out.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_hub_config(name: str, *, packaged: Iterable[str], trust_remote_code: bool) -> PretrainedConfig:
    """Read a folder's or hub model's configuration; no weights are read.

    Args:
        name: A local folder or a hub name.
        packaged: Names to offer where this one is not found.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The configuration; of a checkpoint of images and text that of its text part.

    Raises:
        ModelNotFoundError: There is no such folder, and the hub does not have it or is out of reach.
        UnsupportedModelError: Names all fields of its config.json that make no model.
        ConfigurationError: The model brings code that was not trusted.
    """
    return text_config(_whole_config(name, packaged=packaged, trust_remote_code=trust_remote_code))


def _whole_config(name: str, *, packaged: Iterable[str], trust_remote_code: bool) -> PretrainedConfig:
    """A folder's or hub model's configuration as it is."""
    _check_folder(name)
    with _explain(name, packaged):
        values, _ = PretrainedConfig.get_config_dict(_where(name), local_files_only=_offline(name))
        if not isinstance(values, dict):
            raise TypeError(f"config.json holds a {type(values).__name__}, not an object")
    _check_values(name, dict(text_values(values)))
    with _explain(name, packaged):
        return AutoConfig.from_pretrained(
            _where(name), trust_remote_code=trust_remote_code, local_files_only=_offline(name)
        )


def load_hub_model(
    name: str, *, packaged: Iterable[str], dtype: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Load a folder's or hub model's weights and tokenizer.

    Args:
        name: A local folder or a hub name.
        packaged: Names to offer where this one is not found.
        dtype: Name of a torch dtype.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The model in evaluation mode on the CPU, its tokenizer, and the hub's commit (None for a folder).

    Raises:
        ModelNotFoundError: There is no such folder or hub model; it has no safetensors weights or no tokenizer; or its
            weights are not those that its config asks for.
        UnsupportedModelError: Its weights are quantised.
        ConfigurationError: The model brings code that was not trusted.
    """
    from transformers import AutoTokenizer

    config = _whole_config(name, packaged=packaged, trust_remote_code=trust_remote_code)
    text = text_config(config)
    if text is not config:
        warnings.warn(
            f"model {name!r} is of images and text ({config.model_type}): its text part ({text.model_type}) is loaded "
            "alone, and reads text alone",
            ModelWarning,
            stacklevel=4,
        )
    _check_weights(name)
    with _explain(name, packaged):
        tokenizer = AutoTokenizer.from_pretrained(
            _where(name), trust_remote_code=trust_remote_code, local_files_only=_offline(name)
        )
        model, report = load_weights(
            _where(name),
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=_offline(name),
        )
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ModelNotFoundError(_NO_TOKENIZER.format(name=name))
    missing = report.missing
    if missing:
        raise ModelNotFoundError(
            f"model {name!r} lacks {len(missing)} of the weights its config.json asks for, for example "
            f"{', '.join(missing[:3])}; expected the folder as save_pretrained left it"
        )
    check_unexpected(name, report.unexpected, n_layers=getattr(text, "num_hidden_layers", None))
    return model, tokenizer, getattr(config, "_commit_hash", None)


def load_weights(
    where: str, *, config: PretrainedConfig, dtype: str, trust_remote_code: bool, local_files_only: bool
) -> tuple[PreTrainedModel, LoadReport]:
    """Load a language model from safetensors.

    The global random state is left alone, although `transformers` may draw weights it then overwrites.

    Args:
        where: A folder or a hub name.
        config: The model's configuration, of a checkpoint of images and text that of the whole.
        dtype: Name of a torch dtype.
        trust_remote_code: Whether code that comes with the model may run.
        local_files_only: Whether to stay off the network.

    Returns:
        The model in evaluation mode on the CPU, of images and text the text part, and which weights did not find each
        other.
    """
    import transformers

    from circuitgraph.architectures.intact import float64_fails_in_experts

    with quiet_progress(), _quiet_report(), torch.random.fork_rng(devices=[]):
        whole = has_text_part(config.model_type)
        auto_class = AUTO_CLASS if whole else family_of(config.model_type).auto_class
        loaded: Any = getattr(transformers, auto_class).from_pretrained(
            where,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=local_files_only,
            output_loading_info=True,
        )
    model, report = loaded  # with output_loading_info, a pair
    model = text_model(model)
    if float64_fails_in_experts(model):
        model.set_experts_implementation("eager")
    return model.eval(), LoadReport(
        missing=tuple(sorted(report["missing_keys"])), unexpected=tuple(sorted(report["unexpected_keys"]))
    )


@contextlib.contextmanager
def _quiet_report() -> Iterator[None]:
    """Switch two reports of `transformers` off: weights that did not find each other, which ours names, and sharding.

    The second warns of layers that were not sharded, although nobody asked for shards.
    """
    logs = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "distributed.tensor_parallel")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextlib.contextmanager
def quiet_progress() -> Iterator[None]:
    """Switch the progress bars of `transformers` off, and back to what they were."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _check_values(name: str, values: dict[str, Any]) -> None:
    """Refuse values that make no model, before `transformers` takes one of two that contradict each other.

    Raises:
        UnsupportedModelError: Names all of them.
    """
    kind = values.get("model_type")
    if kind not in supported_model_types() or kind not in CONFIG_MAPPING:
        return
    of = f"config.json of {name!r}"
    aliases = {other: field for other, field in CONFIG_MAPPING[kind].attribute_map.items() if other in values}
    for other, field in aliases.items():
        if field in values and values[field] != values[other]:
            raise UnsupportedModelError(
                f"{kind}: {of}: {field}={values[field]!r} and {other}={values[other]!r} contradict each other: "
                "expected one of them"
            )
    named = {aliases.get(field, field): value for field, value in values.items()}
    family_of(kind).check_values(named, of=of)


def _is_path(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written like a path."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~", os.sep))


def _where(name: str) -> str:
    """What to hand to `transformers`."""
    return str(Path(name).expanduser()) if _is_path(name) else name


def _check_folder(name: str) -> None:
    """Refuse a path that is not a model's folder.

    Raises:
        ModelNotFoundError: Says what the folder lacks.
    """
    if not _is_path(name):
        return
    folder = Path(name).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelNotFoundError(f"model folder {name!r} {what}; expected a folder with config.json")
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"model folder {name!r} has no config.json; make one with model.save_pretrained(folder) "
            "and tokenizer.save_pretrained(folder)"
        )


def _check_weights(name: str) -> None:
    """Refuse a folder without safetensors, or with adapters, before `transformers` says so less clearly or not at all.

    Raises:
        ModelNotFoundError: Says which weights are there instead.
    """
    if not _is_path(name):
        return
    folder = Path(name).expanduser()
    check_adapters(name, folder)
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        seen = f"only {', '.join(pickled)}, which could run code when read" if pickled else "no weights"
        raise ModelNotFoundError(
            f"model folder {name!r}: expected *.safetensors, got {seen}; save it again with "
            "model.save_pretrained(folder), which writes safetensors"
        )


def _offline(name: str) -> bool:
    """Whether to look at local files alone: a folder, or a hub that cannot be reached.

    `huggingface_hub` retries for half a minute where a look-up of the hub's address fails at once.
    """
    from huggingface_hub import constants

    if _is_path(name) or constants.HF_HUB_OFFLINE:
        return True
    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _explain(name: str, packaged: Iterable[str]) -> Iterator[None]:
    """Turn what `transformers` raises for a missing or untrusted model into our errors."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a model's files make transformers raise
        if isinstance(error, CircuitGraphError) or out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:400]
        if "trust_remote_code" in str(error):
            raise ConfigurationError(
                f"model {name!r} brings Python code of its own, which runs only when asked for: read that "
                "code, then pass trust_remote_code=True"
            ) from error
        if _is_path(name) and "backend tokenizer" in said:
            raise ModelNotFoundError(_NO_TOKENIZER.format(name=name)) from error
        if _is_path(name) or not isinstance(error, OSError):
            raise ModelNotFoundError(
                f"model {name!r} cannot be loaded; expected a folder as save_pretrained leaves it, or a hub "
                f"model of that form (transformers said: {said})"
            ) from error
        names = list(packaged)
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
        hint = " Did you mean " + " or ".join(repr(item) for item in near) + "?" if near else ""
        state = "the hub is out of reach from here" if _offline(name) else "the hub does not give it"
        raise ModelNotFoundError(
            f"model {name!r} not found: no packaged model, no local folder, and {state}.{hint} "
            f"{_WHAT_TO_DO.format(packaged=', '.join(names))} (transformers said: {said})"
        ) from error
