"""An extracted circuit as a folder, and back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Olmo2Config, Olmo2ForCausalLM

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CircuitFormatError, OutputError, UnsupportedModelError
from circuitgraph.extract import ExtractedCircuit, load_extracted, save_extracted
from circuitgraph.extract.layout import CircuitLayout
from circuitgraph.files import whole_folder
from tests.circuitgraph.extract.extract_cases import Bench, circuit_of
from tests.oracles.cases import CASES, ModelMakers


def some(compiled: CompiledModel, ablation: str = "mean", share: float = 0.4) -> tuple[ExtractedCircuit, Bench]:
    bench = Bench(compiled, side="none" if ablation == "mean-positional" else "left")
    return bench.extracted(circuit_of(compiled, share, 2, ablation), bench.values(ablation)), bench


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


@pytest.fixture
def folder(gpt2: CompiledModel, tmp_path: Path) -> Path:
    return save_extracted(some(gpt2)[0], tmp_path / "small")


def expect_the_same(module: ExtractedCircuit, again: ExtractedCircuit, bench: Bench) -> None:
    with torch.no_grad():
        assert torch.equal(bench.everywhere(module), bench.everywhere(again))
    assert repr(again) == repr(module)
    assert (again.layout, again.origin) == (module.layout, module.origin)
    assert {name: weight.dtype for name, weight in again.named_parameters()} == {
        name: weight.dtype for name, weight in module.named_parameters()
    }
    assert all(weight.requires_grad for weight in again.parameters())
    assert not again.training


@pytest.mark.parametrize("case", [*CASES, "llama-scaled"])
def test_what_is_read_back_says_the_same(case: str, tiny_gpt2, tiny_llama, tmp_path: Path) -> None:
    if case == "llama-scaled":
        # Its frequencies are no function of the base alone, and lie in buffers that state dicts leave out.
        rope = {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }  # fmt: skip
        compiled = compile_model(tiny_llama(rope_parameters=rope, tie_word_embeddings=False), verify=False)
    else:
        compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    module, bench = some(compiled)
    assert save_extracted(module, tmp_path / "small") == tmp_path / "small"
    expect_the_same(module, load_extracted(tmp_path / "small"), bench)


def test_one_with_norms_of_queries_can_be_copied_and_cast(tmp_path: Path) -> None:
    """OLMo 2's norms are over all heads together, and its cosines float32 in any number format."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Olmo2ForCausalLM(Olmo2Config(vocab_size=29, max_position_embeddings=16, **sizes)).eval()
    module, bench = some(compile_model(model, verify=False), share=1.0)
    again = load_extracted(save_extracted(module, tmp_path / "small"))
    with torch.no_grad():
        logits = bench.everywhere(module)
        assert torch.equal(bench.everywhere(copy.deepcopy(again)), logits)
        narrow = bench.everywhere(again.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), logits, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("ablation", "share", "dtype"),
    [
        ("mean-positional", 0.4, torch.float64),
        ("zero", 0.0, torch.float32),
        ("optimal", 1.0, torch.bfloat16),
    ],
)
def test_constants_and_number_formats(tiny_gpt2, tmp_path: Path, ablation: str, share: float, dtype) -> None:
    module, bench = some(compile_model(tiny_gpt2(dtype=dtype), verify=False), ablation, share)
    save_extracted(module, tmp_path / "small")
    expect_the_same(module, load_extracted(tmp_path / "small"), bench)


def test_two_plain_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["extracted.json", "weights.safetensors"]
    described = json.loads((folder / "extracted.json").read_text())
    tensors = load_file(folder / "weights.safetensors")
    # Output head and token embedding are one: it is held once, and shared when it is read.
    assert "unembedding.unembed.weight" not in tensors
    constants = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(".constant"))
    assert constants == described["n_constants"]
    assert sum(tensor.numel() for tensor in tensors.values()) == described["n_parameters"] + constants
    again = load_extracted(folder)
    assert again.unembedding.unembed.weight is again.embeddings["tok"].weight


def test_no_weights_of_the_model_are_needed_and_no_random_number(folder: Path) -> None:
    before = torch.random.get_rng_state()
    module = load_extracted(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert module.origin.model_type == "gpt2"
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_parts_that_a_config_does_not_say_are_refused(tiny_gpt2, tiny_llama, tmp_path: Path) -> None:
    """In float64 the tests' Llama has norms of its own, which no config names."""
    module, _ = some(ModelMakers(tiny_gpt2, tiny_llama).compile("llama-gqa", dtype=torch.float64))
    with pytest.raises(UnsupportedModelError, match=r"Uncast.* could not be read back"):
        save_extracted(module, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- places that are taken


def test_a_folder_that_exists(gpt2: CompiledModel, folder: Path) -> None:
    module, bench = some(gpt2, "zero")
    with pytest.raises(OutputError, match="exists"):
        save_extracted(module, folder)
    save_extracted(module, folder, overwrite=True)
    expect_the_same(module, load_extracted(folder), bench)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        save_extracted(module, folder, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        save_extracted(module, folder / "thesis.txt", overwrite=True)


def test_a_full_disk_leaves_the_older_one(gpt2: CompiledModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path, content: str | bytes) -> Path:
        if path.suffix == ".json":
            raise OutputError("disk full")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    monkeypatch.setattr(whole_folder, "write_atomically", full)
    with pytest.raises(OutputError, match="disk full"):
        save_extracted(some(gpt2, "zero")[0], folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_older_one(
    gpt2: CompiledModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = {path.name: path.read_bytes() for path in folder.iterdir()}, Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(OutputError, match="Permission denied"):
        save_extracted(some(gpt2, "zero")[0], folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_place_that_cannot_be_made(gpt2: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        save_extracted(some(gpt2)[0], tmp_path / "file" / "small")


# -------------------------------------------------------------------- damage


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def on(folder: Path) -> None:
        path = folder / "extracted.json"
        described = json.loads(path.read_text())
        change(described)
        path.write_text(json.dumps(described))

    return on


def cut(name: str, by: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def flip(folder: Path) -> None:
    """Change one bit of the last number."""
    payload = bytearray((folder / "weights.safetensors").read_bytes())
    payload[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(payload)


def first_attention(described: dict) -> dict:
    return next(part["attention"] for part in described["layout"]["layers"] if part["attention"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "extracted.json").unlink(), "made by save_extracted"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be read"),
        (cut("weights.safetensors", 1), "damaged, cut short"),
        (flip, "damaged, cut short"),
        (cut("extracted.json", 40), "no complete JSON"),
        (lambda folder: (folder / "extracted.json").write_text("[1]"), "is this an extracted circuit"),
        (edit(lambda d: d.update(format_version=2)), "expected format_version 1; got 2"),
        (edit(lambda d: d.pop("layout")), "layout is missing"),
        (edit(lambda d: d["origin"].pop("ablation")), "origin: expected"),
        (edit(lambda d: d["origin"].update(model_type="mamba")), "'mamba' is not supported"),
        (edit(lambda d: d["origin"]["config"].update(scale_attn_weights="?")), "no gpt2 config"),
        (edit(lambda d: d["origin"]["config"].update(new_field=3)), "new_field"),
        (edit(lambda d: d["origin"]["config"].update(n_layer=3)), "n_layers: 2 against 3"),
        (edit(lambda d: d["origin"]["config"].update(n_embd=24)), "do not fit each other"),
        (edit(lambda d: d["layout"]["logits"].update(writers=["m7"])), "logits reads m7"),
        (edit(lambda d: d["layout"]["logits"].update(writers="m1")), "expected a list of names"),
        (edit(lambda d: d["layout"]["layers"].reverse()), "expected layers in order"),
        (edit(lambda d: d["layout"].update(embeddings=["tok"])), "no such embeddings"),
        (edit(lambda d: d["layout"].update(n_columns=0)), "n_columns must be at least 1"),
        (edit(lambda d: first_attention(d).update(heads=[7])), "no such heads"),
        (edit(lambda d: first_attention(d)["value"].update(row_of_head=[5] * 3)), "value readers do not fit"),
        (edit(lambda d: first_attention(d).update(heads=[True])), "expected a list of whole numbers"),
        (edit(lambda d: d["layout"]["layers"].pop()), "reads|not expected"),
    ],
)  # fmt: skip
def test_damage_is_noticed(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    with pytest.raises(CircuitFormatError, match=said):
        load_extracted(folder)


@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_what_an_mlp_can_read_depends_on_the_order_of_the_block(gpt2: CompiledModel, order: str) -> None:
    described = json.loads(json.dumps(some(gpt2, share=0.9)[0].layout.to_dict()))
    described["universe"]["block_order"] = order
    described["layers"][0]["mlp"] = {"writers": ["a0.h1"], "all_but": False}
    if order == "sequential":
        assert json.loads(json.dumps(CircuitLayout.from_dict(described).to_dict())) == described
    else:
        with pytest.raises(CircuitFormatError, match=r"m0 reads a0\.h1, which has not run by then"):
            CircuitLayout.from_dict(described)
