"""What the command line's tests share: a way to call it, and small results to work on."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from circuitgraph.cli import main
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: object) -> Ended:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Ended(code=code, out=out.getvalue(), err=err.getvalue())


TRACR = ("discover", "--model", "tracr:reverse", "--task", "tracr-reverse", "--steps", 20, "--n-random", 1)


@pytest.fixture(scope="session")
def tracr_result(tmp_path_factory) -> Path:
    """A result of a short run on a Tracr program."""
    folder = tmp_path_factory.mktemp("results") / "reverse"
    ended = call(*TRACR, "--out", folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory, tiny_llama) -> Path:
    """A folder with a tiny random Llama that reads text."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = word_tokenizer([" ".join(("x", *NAMES)) + " gave a cup to"])
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_prompts(tmp_path_factory) -> Path:
    """A file of prompt pairs for it."""
    rows = []
    for number, (a, b) in enumerate(list(permutations(NAMES, 2))[:24]):
        c = next(name for name in reversed(NAMES) if name not in (a, b))
        split = ("train", "train", "validation", "test")[number % 4]
        rows.append(
            {
                "clean": f"x {a} gave {b} a cup to<predict> {b}</predict>",
                "corrupted": f"x {a} gave {c} a cup to",
                "wrong_answer": f" {c}",
                "split": split,
            }
        )
    path = tmp_path_factory.mktemp("prompts") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def text_run(text_model, text_prompts) -> tuple[object, ...]:
    """A command line for a quick run on them, but for `--out`."""
    task = ("--task", f"jsonl:{text_prompts}", "--target-sparsity", 0.5)
    return ("discover", "--model", text_model, *task, "--steps", 20, "--n-random", 1)


@pytest.fixture(scope="session")
def text_result(tmp_path_factory, text_run) -> Path:
    """A result of a short run under counterfactual ablation."""
    folder = tmp_path_factory.mktemp("results") / "text"
    ended = call(*text_run, "--out", folder)
    assert ended.code == 0, ended.err
    return folder
