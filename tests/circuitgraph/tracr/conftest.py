"""An independent slow oracle of the shipped Tracr programs, for the tests of this folder.

The forward pass here is written out reader by reader in numpy, straight from the shipped tensors; it
shares nothing with `TracrModel` nor with the masked executor.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import circuitgraph.tracr
from circuitgraph.tracr.programs import get_program, program_names

WEIGHTS = Path(circuitgraph.tracr.__file__).parent / "weights"


class Oracle:
    """One program's weights, and a forward pass in which any edge may be missing."""

    def __init__(self, name: str) -> None:
        self.program = get_program(name)
        self.config = json.loads((WEIGHTS / f"{name}.json").read_text())["config"]
        self.weights = {k: v.astype(np.float64) for k, v in load_file(WEIGHTS / f"{name}.safetensors").items()}
        assert self.config["n_heads"] == 1 and not self.config["causal"]

    def edges(self) -> list[str]:
        """Every writer to every later reader."""
        found, writers = [], ["tok", "pos"]
        for layer in range(self.config["n_layers"]):
            found += [f"{writer}->a{layer}.h0<{part}>" for part in "qkv" for writer in writers]
            writers.append(f"a{layer}.h0")
            found += [f"{writer}->m{layer}" for writer in writers]
            writers.append(f"m{layer}")
        return found + [f"{writer}->logits" for writer in writers]

    def prompts(self) -> list[np.ndarray]:
        """Every prompt as token ids, one array a length (so that nothing is padded)."""
        ids = {token: index for index, token in enumerate(self.config["tokens"])}
        encoded = [[ids["BOS"], *(ids[token] for token in tokens)] for tokens in self.program.inputs()]
        return [np.array(list(same)) for _, same in groupby(encoded, key=len)]

    def expected(self) -> list[np.ndarray]:
        """What plain Python answers, as output columns, after BOS."""
        answers = [self.program.outputs(tokens) for tokens in self.program.inputs()]
        if self.program.output == "categorical":
            symbols = self.config["output_symbols"]
            columns = [[[float(s == said) for s in symbols] for said in row] for row in answers]
        else:
            columns = [[[said] for said in row] for row in answers]
        return [np.array(list(same)) for _, same in groupby(columns, key=len)]

    @cached_property
    def single_cuts(self) -> dict[str, list[np.ndarray]]:
        """Outputs on every prompt with one edge cut, for each edge."""
        return {edge: self.run(self.prompts(), {edge}) for edge in self.edges()}

    def run(self, prompts: list[np.ndarray], cut: set[str]) -> list[np.ndarray]:
        """Output columns after BOS, with the `cut` edges' messages replaced by zero."""
        return [self._run_one_length(ids, cut)[:, 1:] for ids in prompts]

    def _run_one_length(self, ids: np.ndarray, cut: set[str]) -> np.ndarray:
        w = self.weights
        tok = w["tok_embed.weight"][ids]
        said = {"tok": tok, "pos": np.zeros_like(tok) + w["pos_embed.weight"][: ids.shape[1]]}
        always = np.zeros_like(tok)  # the attentions' output biases belong to no head

        def read(reader: str) -> np.ndarray:
            kept = [message for writer, message in said.items() if f"{writer}->{reader}" not in cut]
            return sum(kept, start=always)

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        for layer in range(self.config["n_layers"]):
            q, k, v = (linear(read(f"a{layer}.h0<{part}>"), f"blocks.{layer}.attn.{part}") for part in "qkv")
            scores = q @ k.swapaxes(1, 2) / math.sqrt(self.config["d_head"])
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            said[f"a{layer}.h0"] = shares @ v @ w[f"blocks.{layer}.attn.o.weight"].T
            always = always + w[f"blocks.{layer}.attn.o.bias"]
            hidden = np.maximum(linear(read(f"m{layer}"), f"blocks.{layer}.mlp.fc_in"), 0)
            said[f"m{layer}"] = linear(hidden, f"blocks.{layer}.mlp.fc_out")
        return read("logits") @ w["unembed.weight"].T

    @staticmethod
    def furthest(left: list[np.ndarray], right: list[np.ndarray]) -> float:
        """The largest difference anywhere."""
        return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="session")
def oracles() -> dict[str, Oracle]:
    return {name: Oracle(name) for name in program_names()}


@pytest.fixture(params=program_names())
def oracle(request: pytest.FixtureRequest, oracles: dict[str, Oracle]) -> Oracle:
    return oracles[request.param]
