"""Make the shipped weights: compile the RASP programs with Tracr and write them as safetensors.

    pip install "transformer-circuitgraph[tracr]"
    python -m circuitgraph.tracr.compile_program [--folder DIR] [PROGRAM ...]

The only place that needs Tracr and JAX. `convert` also takes a program of your own, compiled with
`tracr.compiler.compiling.compile_rasp_to_model`, to a config and weights that `TracrModel` loads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save as save_safetensors

from circuitgraph.errors import ConfigurationError, UnsupportedModelError
from circuitgraph.tracr.loading import WEIGHTS_FOLDER
from circuitgraph.tracr.model import TracrConfig
from circuitgraph.tracr.programs import BOS_TOKEN, get_program, program_names
from circuitgraph.tracr.rasp_programs import PROGRAMS

if TYPE_CHECKING:
    from tracr.compiler.assemble import AssembledTransformerModel  # pyright: ignore[reportMissingImports]
    from tracr.rasp.rasp import SOp  # pyright: ignore[reportMissingImports]


def rasp_program(name: str) -> SOp:
    """Write a shipped program in RASP.

    Args:
        name: The program.

    Returns:
        The program.

    Raises:
        ConfigurationError: Tracr is not installed.
    """
    try:
        from tracr.compiler import lib  # pyright: ignore[reportMissingImports]
        from tracr.rasp import rasp  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"expected tracr-pypi to be installed, found no module {error.name!r}; "
            'run `pip install "transformer-circuitgraph[tracr]"`'
        ) from error
    return PROGRAMS[get_program(name).name](rasp, lib)


def compile_program(name: str) -> AssembledTransformerModel:
    """Compile a shipped program to Tracr's own model."""
    program = get_program(name)
    expression = rasp_program(name)
    from tracr.compiler import compiling  # pyright: ignore[reportMissingImports]

    return compiling.compile_rasp_to_model(
        expression,
        vocab=set(program.values),
        max_seq_len=program.max_seq_len,
        compiler_bos=BOS_TOKEN,
        causal=program.causal,
    )


def convert(assembled: AssembledTransformerModel, *, program: str) -> tuple[TracrConfig, dict[str, np.ndarray]]:
    """Turn Tracr's model into a config and the state dict of a `TracrModel`.

    Args:
        assembled: What Tracr's compiler returned.
        program: What to call it.

    Returns:
        The config, and float32 weights by parameter name.

    Raises:
        UnsupportedModelError: The model has layer norms, which compiled programs never have.
    """
    shape = assembled.model_config
    if shape.layer_norm:
        raise UnsupportedModelError("expected a Tracr model without layer norms, got layer_norm=True")
    weights = _state_dict(assembled)
    encoder = assembled.input_encoder
    unembed, categorical = _unembedding(assembled)
    weights["unembed.weight"] = unembed
    symbols = assembled.output_encoder.encoding_map if categorical else {}
    config = TracrConfig(
        program=program,
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        d_head=shape.key_size,
        d_model=unembed.shape[1],
        d_mlp=shape.mlp_hidden_size,
        n_positions=weights["pos_embed.weight"].shape[0],
        d_out=unembed.shape[0],
        output="categorical" if categorical else "numeric",
        tokens=_by_index(encoder.encoding_map),
        bos_token=str(encoder.bos_token),
        pad_token=str(encoder.pad_token),
        output_symbols=_by_index(symbols),
        residual_labels=tuple(assembled.residual_labels),
        causal=shape.causal,
    )
    return config, weights


def _by_index(encoding: dict[object, int]) -> tuple[str, ...]:
    """List an encoder's values as text, by their index."""
    return tuple(str(value) for value, _ in sorted(encoding.items(), key=lambda item: item[1]))


def _state_dict(assembled: AssembledTransformerModel) -> dict[str, np.ndarray]:
    """Name Tracr's parameters as `TracrModel` does; Haiku's matrices are `[in, out]`, torch's the reverse."""
    parameters = assembled.params
    state = {
        "tok_embed.weight": parameters["token_embed"]["embeddings"],
        "pos_embed.weight": parameters["pos_embed"]["embeddings"],
    }
    modules = {
        "attn.q": "attn/query",
        "attn.k": "attn/key",
        "attn.v": "attn/value",
        "attn.o": "attn/linear",
        "mlp.fc_in": "mlp/linear_1",
        "mlp.fc_out": "mlp/linear_2",
    }
    for layer in range(assembled.model_config.num_layers):
        for ours, theirs in modules.items():
            linear = parameters[f"transformer/layer_{layer}/{theirs}"]
            state[f"blocks.{layer}.{ours}.weight"] = linear["w"].T
            state[f"blocks.{layer}.{ours}.bias"] = linear["b"]
    return {name: np.array(value, dtype=np.float32, order="C") for name, value in state.items()}


def _unembedding(assembled: AssembledTransformerModel) -> tuple[np.ndarray, bool]:
    """Read the unembedding off by unembedding each direction of the residual stream.

    Returns:
        The matrix `[d_out, d_model]`, and whether its columns stand for symbols.
    """
    import haiku as hk  # pyright: ignore[reportMissingImports]
    import jax  # pyright: ignore[reportMissingImports]

    def unembed(residual: jax.Array) -> tuple[jax.Array, bool]:
        compiled = assembled.get_compiled_model()
        return compiled.unembed(residual, use_unembed_argmax=False), compiled.use_unembed_argmax

    function = hk.without_apply_rng(hk.transform(unembed))
    directions = np.eye(len(assembled.residual_labels), dtype=np.float32)
    columns, categorical = function.apply(function.init(jax.random.PRNGKey(0), directions), directions)
    matrix = np.asarray(columns, dtype=np.float32).reshape(len(directions), -1)
    return np.array(matrix.T, order="C"), bool(categorical)


def write_weights(name: str, folder: Path) -> Path:
    """Compile a shipped program and write its two files.

    Args:
        name: The program.
        folder: Where to; made if it is not there.

    Returns:
        The safetensors file.
    """
    config, weights = convert(compile_program(name), program=get_program(name).name)
    payload = save_safetensors(weights)
    description = {
        "config": config.to_dict(),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "made_by": {"script": "circuitgraph.tracr.compile_program", "tracr-pypi": version("tracr-pypi")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.program}.safetensors"
    path.write_bytes(payload)
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    return path


def main() -> None:
    """Compile the programs named on the command line, or all of them.

    Each in a process of its own: Tracr numbers the parts of programs through, and orders directions by these names.
    """
    parser = argparse.ArgumentParser(prog="python -m circuitgraph.tracr.compile_program")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(program_names())}")
    parser.add_argument("--folder", type=Path, default=WEIGHTS_FOLDER)
    arguments = parser.parse_args()
    names = arguments.programs or program_names()
    if len(names) == 1:
        print(write_weights(names[0], arguments.folder))
        return
    for name in names:
        command = [sys.executable, "-m", "circuitgraph.tracr.compile_program", "--folder", str(arguments.folder), name]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
