"""A key changes with everything that could change a bit, and with nothing else."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import torch

import circuitgraph
import pruning
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.frozen import keys
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5] * 4, n_asked=(1, 2))


def compiled_of(model: torch.nn.Module) -> CompiledModel:
    return compile_model(model, verify=False)


@pytest.fixture(autouse=True)
def steady_code(request, monkeypatch) -> None:
    """The files of the library do not change between two keys of a test, whoever edits them meanwhile."""
    if "code" not in request.function.__name__:
        monkeypatch.setattr(keys, "code_digest", lambda: keys._CODE_AT_IMPORT)


@pytest.fixture(scope="module")
def model(tiny_llama) -> torch.nn.Module:
    return tiny_llama()


@pytest.fixture
def before(model, steady_code) -> str:
    return keys.model_key(compiled_of(model))


def test_the_same_weights_under_another_name_are_the_same(tiny_llama, tmp_path) -> None:
    """Loaded from two folders, in evaluation and in training mode, with gradients on and off."""
    model = tiny_llama()
    found = set()
    for name in ("one", "other"):
        model.save_pretrained(tmp_path / name)
        loaded = type(model).from_pretrained(tmp_path / name)
        found.add(keys.model_key(compiled_of(loaded)))
        found.add(keys.model_key(compiled_of(loaded.train().requires_grad_(False))))
    assert len(found) == 1


def nudge(model: torch.nn.Module, name: str) -> None:
    with torch.no_grad():
        weights = model.get_parameter(name).view(-1)
        weights[-1] = torch.nextafter(weights[-1], torch.tensor(torch.inf))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nudge(model, "model.embed_tokens.weight"),
        lambda model: nudge(model, "model.layers.1.mlp.down_proj.weight"),
        lambda model: nudge(model, "model.norm.weight"),
        lambda model: model.model.rotary_emb.inv_freq.mul_(1.5),
        lambda model: model.bfloat16(),
    ],
    ids=["embedding", "mlp", "norm", "buffer", "dtype"],
)
def test_another_model(model, before, change) -> None:
    other = copy.deepcopy(model)
    change(other)
    assert keys.model_key(compiled_of(other)) != before
    assert keys.model_key(compiled_of(model)) == before


@pytest.mark.parametrize("change", [{"rms_norm_eps": 1e-3}, {"hidden_act": "gelu"}])
def test_the_same_weights_under_another_config(model, before, change) -> None:
    """Another setting of a module, and another class."""
    config = copy.deepcopy(model.config)
    for name, value in change.items():
        setattr(config, name, value)
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    assert keys.model_key(compiled_of(other)) != before


def test_two_weights_exchanged(tiny_gpt2) -> None:
    """A checksum that only adds up would not see it."""
    model = tiny_gpt2()
    before = keys.weights_digest(model)
    with torch.no_grad():
        first, last = model.transformer.h[0].attn.c_attn.weight, model.transformer.h[1].attn.c_attn.weight
        held = first.clone()
        first.copy_(last)
        last.copy_(held)
    assert keys.weights_digest(model) != before


def test_pieces_of_large_tensors(monkeypatch, model) -> None:
    monkeypatch.setattr(keys, "_PIECE", 64)
    other = copy.deepcopy(model)
    whole = keys.weights_digest(model)
    for name, tensor in other.named_parameters():
        with torch.no_grad():
            tensor.view(-1)[tensor.numel() // 2] += 1
        assert keys.weights_digest(other) != whole, name
        with torch.no_grad():
            tensor.copy_(model.get_parameter(name))
    assert keys.weights_digest(other) == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [("__version__", "9.9"), ("FORMAT", 99), ("device_text", lambda device: "cuda, other")],
)
def test_another_version_or_device(model, before, monkeypatch, name, value) -> None:
    monkeypatch.setattr(keys, name, value)
    assert keys.model_key(compiled_of(model)) != before


def test_threads_and_precision_are_part_of_a_device() -> None:
    before, threads = keys.device_text(torch.device("cpu")), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert keys.device_text(torch.device("cpu")) != before
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("medium")
        assert keys.device_text(torch.device("cpu")) != before
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    assert keys.device_text(torch.device("cpu")) == before


def test_changed_code(monkeypatch, tmp_path) -> None:
    before = keys.code_digest()
    left_out = shutil.ignore_patterns("weights", "data", "__pycache__")
    for package in (circuitgraph, pruning):
        source = Path(package.__file__).parent
        shutil.copytree(source, tmp_path / source.name, ignore=left_out)
    monkeypatch.setattr(circuitgraph, "__file__", str(tmp_path / "circuitgraph" / "__init__.py"))
    assert keys.code_digest() == before
    for name in (
        "circuitgraph/forward/reference.py", "circuitgraph/forward/engine/cpu/reads.py",
        "circuitgraph/architectures/llama.py", "circuitgraph/tracr/model.py", "pruning/frozen/top_teacher.py",
        "pruning/frozen/rows.py",
    ):  # fmt: skip
        assert (tmp_path / name).exists()
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        assert keys.code_digest() != before, name
        before = keys.code_digest()


def test_all_code_that_makes_a_run_is_hashed() -> None:
    """What the reference run and the binding of weights import, however far away, or a kept run outlives its code."""
    root = Path(circuitgraph.__file__).parents[1]
    for pattern in keys.CODE:
        assert list(root.glob(pattern)), pattern
    hashed = {path for pattern in keys.CODE for path in root.glob(pattern)}
    imports = grimp.build_graph("circuitgraph", exclude_type_checking_imports=True)
    starts = ("circuitgraph.forward.reference", "circuitgraph.compiled.binding", "circuitgraph.compiled.model")
    needed = {name for start in starts for name in imports.find_upstream_modules(start)} | set(starts)
    # The model comes in as it was loaded; its weights and config are in the key. Memory planning changes no number.
    apart = ("circuitgraph.models", "circuitgraph.tracr", "circuitgraph.memory", "circuitgraph.files")
    for name in sorted(needed):
        path = root / name.replace(".", "/")
        path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if name.startswith(apart) or not path.read_text().count("def "):
            continue
        if name in ("circuitgraph.errors", "circuitgraph.lazy", "circuitgraph.html", "circuitgraph.cache_folder"):
            continue
        assert path in hashed, name


def test_code_changed_under_a_running_process(model, monkeypatch) -> None:
    """Which of the two runs is not known, so nothing is shared with either."""
    steady = keys.model_key(compiled_of(model))
    monkeypatch.setattr(keys, "code_digest", lambda: "changed")
    one, other = keys.model_key(compiled_of(model)), keys.model_key(compiled_of(model))
    assert len({steady, one, other}) == 3


def test_tokens_mask_asked_positions_and_company() -> None:
    batch = PROMPTS.batch([0, 1]).clean

    def key(*batches: TokenBatch, model: str = "m", kind: str = "teacher", **settings: object) -> str:
        return keys.run_key(model, kind, list(batches), **settings)

    other_ids, other_mask = batch.input_ids.clone(), batch.attention_mask.clone()
    other_ids[1, 3] += 1
    other_mask[0, 0] = 0

    def changed(**parts: torch.Tensor) -> TokenBatch:
        return TokenBatch(**{**vars(batch), **parts})

    different = [
        key(batch),
        key(changed(input_ids=other_ids)),
        key(changed(attention_mask=other_mask)),
        key(changed(predict_index=batch.predict_index - 1)),
        key(PROMPTS.batch([1, 0]).clean),
        key(PROMPTS.batch([0]).clean),
        key(PROMPTS.batch([0, 1, 2]).clean),
        key(PROMPTS.batch([0, 1]).corrupted),
        key(batch, batch),
        key(batch, model="n"),
        key(batch, kind="values"),
        key(batch, top_k=5),
        key(batch, top_k=6),
    ]
    assert len(set(different)) == len(different)
    assert key(changed(input_ids=batch.input_ids.clone())) == different[0]


IN_ANOTHER_PROCESS = """
import sys
import torch
from transformers import AutoModelForCausalLM
from circuitgraph.compiled.compile import compile_model
from pruning.frozen.keys import model_key
torch.set_num_threads(int(sys.argv[2]))
print(model_key(compile_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), verify=False)))
"""


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process(tiny_gpt2, tmp_path) -> None:
    """With other hash seeds, and without the tests' type checks."""
    model = tiny_gpt2()
    model.save_pretrained(tmp_path)
    ours = keys.model_key(compiled_of(type(model).from_pretrained(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path), str(torch.get_num_threads())],
        env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == ours
